/**
 * TCP relay on the loopback that simulates a slow network connection and counts bytes.
 *
 * The relay limits the rate and adds a delay in each direction. It counts TCP payload without headers, loses no data, and
 * has no slow start.
 */
import { dlopen } from "bun:ffi";
import type { Socket, TCPSocketListener } from "bun";

export interface RelayOptions {
  /** Bytes a second in each direction. */
  rate: number;
  /** Milliseconds of delay in each direction: half of the round trip. */
  delay: number;
}

/** Bytes that a connection sends at a time: the payload of an Ethernet packet. */
const SEGMENT_BYTES = 1448;
/** Maximum number of queued bytes of a connection in the relay. */
const QUEUE_BYTES = 1 << 15;
/** Size of the kernel's receive buffer. */
const KERNEL_BYTES = 1 << 15;

/** Last element of a queue: a regular end of the stream, or a broken connection. */
type Close = "end" | "broken";

/** Data of one connection in one direction that waits to be sent. */
export class ConnectionQueue {
  readonly #segments: Uint8Array[] = [];
  #close: Close | undefined;
  /** Number of queued bytes. */
  queuedBytes = 0;
  /** Blocks sending while the connection is not open yet or the receiver is slow. */
  isBlocked = false;

  /**
   * @param deliver receives the data at the other end
   * @param onDequeue is called after data has left the queue
   */
  constructor(
    readonly deliver: (part: Uint8Array | Close) => void,
    readonly onDequeue: () => void = () => {},
  ) {}

  put(part: Uint8Array | Close): void {
    if (this.#close) return;
    if (typeof part === "string") this.#close = part;
    else if (part.length > 0) {
      this.#segments.push(part);
      this.queuedBytes += part.length;
    }
  }

  /** Removes and returns the next segment, or undefined if the queue is empty. */
  take(): Uint8Array | Close | undefined {
    const [first] = this.#segments;
    if (!first) {
      const close = this.#close;
      // The end is delivered once.
      if (close) this.#isClosed = true;
      return close;
    }
    if (first.length > SEGMENT_BYTES) this.#segments[0] = first.subarray(SEGMENT_BYTES);
    else this.#segments.shift();
    const segment = first.subarray(0, SEGMENT_BYTES);
    this.queuedBytes -= segment.length;
    this.onDequeue();
    return segment;
  }
  #isClosed = false;

  get hasMore(): boolean {
    return !this.isBlocked && (this.queuedBytes > 0 || (this.#close !== undefined && !this.#isClosed));
  }
}

/**
 * A direction of the relay. Its connections share the rate and send a segment each in turn.
 *
 * The caller passes the time. Send times depend on the previous segment only, so late timers do not reduce the rate.
 */
export class Direction {
  /** Number of bytes sent. */
  bytes = 0;
  isPaused = false;
  /** Queues with data, in the order of their turns. */
  readonly #turns: ConnectionQueue[] = [];
  readonly #inTransit: { arrival: number; queue: ConnectionQueue; part: Uint8Array | Close }[] = [];
  /** Time at which the last segment has been sent. */
  #idleAt = 0;

  constructor(private readonly options: RelayOptions) {}

  /** Schedules a queue if it has data. @param now milliseconds of a monotonic clock */
  schedule(queue: ConnectionQueue, now: number): void {
    if (!queue.hasMore || this.#turns.includes(queue)) return;
    if (this.#turns.length === 0) this.#idleAt = Math.max(this.#idleAt, now);
    this.#turns.push(queue);
  }

  /** Resumes after a pause and postpones all segments by its length. */
  resume(now: number): void {
    this.isPaused = false;
    const late = now - Math.min(this.#idleAt, this.#inTransit[0]?.arrival ?? Infinity);
    if (late <= 0) return;
    this.#idleAt += late;
    for (const segment of this.#inTransit) segment.arrival += late;
  }

  /** Sends and delivers all segments that are due. @returns time of the next segment, or undefined without data */
  step(now: number): number | undefined {
    if (this.isPaused) return undefined;
    while (this.#turns.length > 0 && this.#idleAt <= now) {
      const queue = this.#turns.shift()!;
      const part = queue.hasMore ? queue.take() : undefined;
      if (part === undefined) continue;
      const size = typeof part === "string" ? 0 : part.length;
      this.bytes += size;
      this.#idleAt += (size / this.options.rate) * 1000;
      this.#inTransit.push({ arrival: this.#idleAt + this.options.delay, queue, part });
      if (queue.hasMore) this.#turns.push(queue);
    }
    while (this.#inTransit[0] && this.#inTransit[0].arrival <= now) {
      const { queue, part } = this.#inTransit.shift()!;
      queue.deliver(part);
    }
    const times = [...(this.#turns.length > 0 ? [this.#idleAt] : []), this.#inTransit[0]?.arrival ?? Infinity];
    const next = Math.min(...times);
    return next === Infinity ? undefined : next;
  }

  /** Drops all data. */
  clear(): void {
    this.#turns.length = 0;
    this.#inTransit.length = 0;
  }
}

/** Number of bytes in each direction, as seen by the client. */
export interface ByteCounts {
  sent: number;
  received: number;
}

/** A direction that is driven by a timer. */
class TimedDirection {
  readonly direction: Direction;
  #timer: Timer | undefined;

  constructor(options: RelayOptions) {
    this.direction = new Direction(options);
  }

  schedule = (queue: ConnectionQueue) => {
    this.direction.schedule(queue, performance.now());
    this.run();
  };

  run = () => {
    clearTimeout(this.#timer);
    const next = this.direction.step(performance.now());
    this.#timer = next === undefined ? undefined : setTimeout(this.run, Math.max(0, next - performance.now()));
  };

  stop() {
    clearTimeout(this.#timer);
  }
}

/** A relay with listening ports. All their connections share its rate. */
export class SlowRelay {
  readonly #outbound: TimedDirection;
  readonly #inbound: TimedDirection;
  readonly #listeners: TCPSocketListener<Endpoint>[] = [];
  readonly #endpoints = new Set<Endpoint>();

  constructor(private readonly options: RelayOptions) {
    this.#outbound = new TimedDirection(options);
    this.#inbound = new TimedDirection(options);
  }

  /** Returns the number of bytes so far. */
  byteCounts(): ByteCounts {
    return { sent: this.#outbound.direction.bytes, received: this.#inbound.direction.bytes };
  }

  /** Forwards a port to an address. @returns the port on 127.0.0.1 */
  listen(hostname: string, port: number): number {
    const listener = Bun.listen<Endpoint>({
      hostname: "127.0.0.1",
      port: 0,
      allowHalfOpen: true,
      socket: {
        ...handlers,
        open: (socket) => this.#open(socket, hostname, port),
      },
    });
    // Bun's types lack this property.
    setSmallBuffers((listener as unknown as { fd: number }).fd);
    this.#listeners.push(listener);
    return listener.port;
  }

  /** Breaks all connections and continues to accept new connections. */
  disconnect(): void {
    for (const { direction } of [this.#outbound, this.#inbound]) direction.clear();
    for (const endpoint of this.#endpoints) endpoint.socket?.terminate();
    this.#endpoints.clear();
  }

  /** Stops all traffic until `resume()`, but keeps the connections. */
  pause(): void {
    for (const { direction } of [this.#outbound, this.#inbound]) direction.isPaused = true;
  }

  resume(): void {
    for (const timed of [this.#outbound, this.#inbound]) {
      timed.direction.resume(performance.now());
      timed.run();
    }
  }

  close(): void {
    for (const listener of this.#listeners) listener.stop(true);
    this.disconnect();
    for (const timed of [this.#outbound, this.#inbound]) timed.stop();
  }

  #open(socket: Socket<Endpoint>, hostname: string, port: number): void {
    const client = new Endpoint(this.#inbound, this.#outbound, this.#endpoints);
    const server = new Endpoint(this.#outbound, this.#inbound, this.#endpoints);
    client.peer = server;
    server.peer = client;
    client.connected(socket);
    // Simulates the TCP handshake: the first data leaves after a round trip.
    client.queue.isBlocked = true;
    const { delay } = this.options;
    setTimeout(() => {
      client.queue.isBlocked = false;
      this.#outbound.schedule(client.queue);
    }, 2 * delay);
    setTimeout(() => {
      if (!this.#endpoints.has(client)) return;
      Bun.connect<Endpoint>({ hostname, port, allowHalfOpen: true, data: server, socket: handlers }).then(
        (socket) => server.connected(socket),
        () => socket.terminate(),
      );
    }, 3 * delay);
  }
}

/** Client or server end of a relayed connection. */
class Endpoint {
  socket: Socket<Endpoint> | undefined;
  peer!: Endpoint;
  /** Data from this endpoint's socket to the peer. */
  readonly queue: ConnectionQueue;
  /** Data from the peer that the socket has not accepted yet. */
  readonly #unwritten: (Uint8Array | Close)[] = [];
  #isPaused = false;
  #isShutDown = false;

  /**
   * @param inbound direction towards this endpoint
   * @param outbound direction from this endpoint
   */
  constructor(
    private readonly inbound: TimedDirection,
    private readonly outbound: TimedDirection,
    private readonly all: Set<Endpoint>,
  ) {
    all.add(this);
    this.queue = new ConnectionQueue(
      (part) => this.peer.write(part),
      () => this.#resume(),
    );
  }

  connected(socket: Socket<Endpoint>): void {
    socket.data = this;
    socket.setNoDelay(true);
    this.socket = socket;
    this.flush();
  }

  /** Queues data from the socket. */
  receive(part: Uint8Array | Close): void {
    // Copied, because Bun reuses the memory.
    this.queue.put(typeof part === "string" ? part : new Uint8Array(part));
    if (this.queue.queuedBytes > QUEUE_BYTES && !this.#isPaused) {
      this.#isPaused = true;
      this.socket?.pause();
    }
    this.outbound.schedule(this.queue);
  }

  #resume(): void {
    if (!this.#isPaused || this.queue.queuedBytes > QUEUE_BYTES / 2) return;
    this.#isPaused = false;
    this.socket?.resume();
  }

  write(part: Uint8Array | Close): void {
    this.#unwritten.push(part);
    this.flush();
  }

  flush(): void {
    while (this.socket && this.#unwritten.length > 0) {
      const part = this.#unwritten[0]!;
      if (part === "end") {
        this.#isShutDown = true;
        this.socket.shutdown();
      } else if (part === "broken") this.socket.terminate();
      else {
        const written = this.socket.write(part);
        if (written < part.length) {
          this.#unwritten[0] = part.subarray(Math.max(0, written));
          break;
        }
      }
      this.#unwritten.shift();
    }
    const isBlocked = this.#unwritten.length > 0;
    const { queue } = this.peer;
    if (this.socket && queue.isBlocked !== isBlocked) {
      queue.isBlocked = isBlocked;
      this.inbound.schedule(queue);
    }
  }

  closed(): void {
    this.all.delete(this);
    // After a local shutdown, Bun reports the end of the stream as a close.
    this.receive(this.#isShutDown ? "end" : "broken");
  }
}

const handlers = {
  data: (socket: Socket<Endpoint>, bytes: Uint8Array) => socket.data.receive(bytes),
  drain: (socket: Socket<Endpoint>) => socket.data.flush(),
  end: (socket: Socket<Endpoint>) => socket.data.receive("end"),
  close: (socket: Socket<Endpoint>) => socket.data?.closed(),
  error() {},
};

/** Constants of <sys/socket.h> and <netinet/tcp.h> on Linux. */
const [SOL_SOCKET, SO_RCVBUF, IPPROTO_TCP, TCP_MAXSEG] = [1, 8, 6, 2];

/**
 * Limits the kernel's buffers of a listener to the size on a real network.
 *
 * Loopback segments have 64 kB, and a sender buffers at least ten of them. Without a limit, megabytes would wait in buffers
 * in front of the relay, and later data would wait for seconds.
 */
function setSmallBuffers(fd: number): void {
  const { symbols } = dlopen("libc.so.6", {
    setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  });
  for (const [level, name, value] of [
    [SOL_SOCKET, SO_RCVBUF, KERNEL_BYTES],
    [IPPROTO_TCP, TCP_MAXSEG, SEGMENT_BYTES],
  ] as const)
    if (symbols.setsockopt(fd, level, name, new Int32Array([value]), 4) !== 0)
      throw new Error(`setsockopt(${level}, ${name}) failed`);
}
