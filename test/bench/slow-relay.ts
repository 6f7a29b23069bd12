/**
 * A line between this machine and another, for what is measured over one: a relay on the loopback that passes so many bytes a second
 * each way, each some milliseconds later, and counts them. What is counted and paced is what TCP carries, without its own
 * headers; it loses nothing, and begins at its full rate.
 */
import { dlopen } from "bun:ffi";
import type { Socket, TCPSocketListener } from "bun";

export interface LineOptions {
  /** Bytes a second, each way. */
  rate: number;
  /** Milliseconds that each way takes: half of what there and back take. */
  delay: number;
}

/** Bytes that go at once before it is another connection's turn: what a packet carries by Ethernet. */
const SEGMENT = 1448;
/** Bytes that a connection may have waiting in the relay, and that the kernel holds before it. */
const WAITING = 1 << 15;
const KERNEL = 1 << 15;

/** What a lane carries after its bytes: that no more come, or that the connection has broken. */
type Close = "end" | "broken";

/** One connection's part of a way: bytes of it that wait for their turn, in order. */
export class Lane {
  readonly #queue: Uint8Array[] = [];
  #close: Close | undefined;
  /** Bytes that wait. */
  waiting = 0;
  /** Whether it takes no turns: its connection is not open yet, or its receiver does not take more. */
  isHeld = false;

  /**
   * @param deliver takes what comes out
   * @param taken is told when fewer bytes wait
   */
  constructor(
    readonly deliver: (part: Uint8Array | Close) => void,
    readonly taken: () => void = () => {},
  ) {}

  put(part: Uint8Array | Close): void {
    if (this.#close) return;
    if (typeof part === "string") this.#close = part;
    else if (part.length > 0) {
      this.#queue.push(part);
      this.waiting += part.length;
    }
  }

  /** The next of it that goes at once; undefined: there is nothing. */
  take(): Uint8Array | Close | undefined {
    const [first] = this.#queue;
    if (!first) {
      const close = this.#close;
      // It comes out once.
      if (close) this.#isClosed = true;
      return close;
    }
    if (first.length > SEGMENT) this.#queue[0] = first.subarray(SEGMENT);
    else this.#queue.shift();
    const segment = first.subarray(0, SEGMENT);
    this.waiting -= segment.length;
    this.taken();
    return segment;
  }
  #isClosed = false;

  get hasMore(): boolean {
    return !this.isHeld && (this.waiting > 0 || (this.#close !== undefined && !this.#isClosed));
  }
}

/**
 * One way of a line, by a clock that is handed in: all its lanes share the rate, a segment each in turn. A segment leaves when the one
 * before it has, whenever that is looked at, so that a timer that comes late makes no line slower.
 */
export class Way {
  /** Bytes that have left. */
  bytes = 0;
  /** Whether nothing passes. */
  isSilent = false;
  readonly #turns: Lane[] = [];
  readonly #flying: { at: number; lane: Lane; part: Uint8Array | Close }[] = [];
  /** When the last one has left. */
  #free = 0;

  constructor(private readonly options: LineOptions) {}

  /** Says that a lane may have got something to send. @param now milliseconds of any clock that does not go back */
  wake(lane: Lane, now: number): void {
    if (!lane.hasMore || this.#turns.includes(lane)) return;
    if (this.#turns.length === 0) this.#free = Math.max(this.#free, now);
    this.#turns.push(lane);
  }

  /** Nothing that waited during a silence has left meanwhile. */
  speak(now: number): void {
    this.isSilent = false;
    const late = now - Math.min(this.#free, this.#flying[0]?.at ?? Infinity);
    if (late <= 0) return;
    this.#free += late;
    for (const part of this.#flying) part.at += late;
  }

  /** Does what is due. @returns when something is due next; undefined: nothing waits */
  step(now: number): number | undefined {
    if (this.isSilent) return undefined;
    while (this.#turns.length > 0 && this.#free <= now) {
      const lane = this.#turns.shift()!;
      const part = lane.hasMore ? lane.take() : undefined;
      if (part === undefined) continue;
      const size = typeof part === "string" ? 0 : part.length;
      this.bytes += size;
      this.#free += (size / this.options.rate) * 1000;
      this.#flying.push({ at: this.#free + this.options.delay, lane, part });
      if (lane.hasMore) this.#turns.push(lane);
    }
    while (this.#flying[0] && this.#flying[0].at <= now) {
      const { lane, part } = this.#flying.shift()!;
      lane.deliver(part);
    }
    const times = [...(this.#turns.length > 0 ? [this.#free] : []), this.#flying[0]?.at ?? Infinity];
    const next = Math.min(...times);
    return next === Infinity ? undefined : next;
  }

  /** Forgets all that waits or is on its way. */
  clear(): void {
    this.#turns.length = 0;
    this.#flying.length = 0;
  }
}

/** Bytes there and back. */
export interface Count {
  there: number;
  back: number;
}

/** A way with its timer. */
class Running {
  readonly way: Way;
  #timer: Timer | undefined;

  constructor(options: LineOptions) {
    this.way = new Way(options);
  }

  wake = (lane: Lane) => {
    this.way.wake(lane, performance.now());
    this.run();
  };

  run = () => {
    clearTimeout(this.#timer);
    const next = this.way.step(performance.now());
    this.#timer =
      next === undefined ? undefined : setTimeout(this.run, Math.max(0, next - performance.now()));
  };

  stop() {
    clearTimeout(this.#timer);
  }
}

/** A line with its ends: what connects to a port here reaches another address over it. */
export class Line {
  readonly #there: Running;
  readonly #back: Running;
  readonly #listeners: TCPSocketListener<Half>[] = [];
  readonly #halves = new Set<Half>();

  constructor(private readonly options: LineOptions) {
    this.#there = new Running(options);
    this.#back = new Running(options);
  }

  /** Bytes that it has passed so far. */
  count(): Count {
    return { there: this.#there.way.bytes, back: this.#back.way.bytes };
  }

  /** @returns the port of 127.0.0.1 that leads to the address */
  listen(hostname: string, port: number): number {
    const listener = Bun.listen<Half>({
      hostname: "127.0.0.1",
      port: 0,
      allowHalfOpen: true,
      socket: {
        ...handlers,
        open: (socket) => this.#open(socket, hostname, port),
      },
    });
    // Bun has it, its types do not.
    smallBuffers((listener as unknown as { fd: number }).fd);
    this.#listeners.push(listener);
    return listener.port;
  }

  /** Breaks all connections; new ones come about. */
  cut(): void {
    for (const { way } of [this.#there, this.#back]) way.clear();
    for (const half of this.#halves) half.socket?.terminate();
    this.#halves.clear();
  }

  /** Keeps all connections and passes nothing, until `speak()`. */
  silence(): void {
    for (const { way } of [this.#there, this.#back]) way.isSilent = true;
  }

  speak(): void {
    for (const running of [this.#there, this.#back]) {
      running.way.speak(performance.now());
      running.run();
    }
  }

  close(): void {
    for (const listener of this.#listeners) listener.stop(true);
    this.cut();
    for (const running of [this.#there, this.#back]) running.stop();
  }

  #open(socket: Socket<Half>, hostname: string, port: number): void {
    const near = new Half(this.#back, this.#there, this.#halves);
    const far = new Half(this.#there, this.#back, this.#halves);
    near.other = far;
    far.other = near;
    near.connected(socket);
    // The first byte from here goes when an answer to the first packet has come back, and the other end is there with it.
    near.out.isHeld = true;
    const { delay } = this.options;
    setTimeout(() => {
      near.out.isHeld = false;
      this.#there.wake(near.out);
    }, 2 * delay);
    setTimeout(() => {
      if (!this.#halves.has(near)) return;
      Bun.connect<Half>({ hostname, port, allowHalfOpen: true, data: far, socket: handlers }).then(
        (socket) => far.connected(socket),
        () => socket.terminate(),
      );
    }, 3 * delay);
  }
}

/** One end of a connection over the line: what its socket says goes out, and what comes in is written to it. */
class Half {
  socket: Socket<Half> | undefined;
  other!: Half;
  /** What goes from here. */
  readonly out: Lane;
  readonly #rest: (Uint8Array | Close)[] = [];
  #isPaused = false;
  #isShut = false;

  /** @param inbound the way here, and @param outbound the one from here */
  constructor(
    private readonly inbound: Running,
    private readonly outbound: Running,
    private readonly all: Set<Half>,
  ) {
    all.add(this);
    this.out = new Lane(
      (part) => this.other.write(part),
      () => this.#resume(),
    );
  }

  connected(socket: Socket<Half>): void {
    socket.data = this;
    socket.setNoDelay(true);
    this.socket = socket;
    this.flush();
  }

  /** What the socket says. */
  hear(part: Uint8Array | Close): void {
    // Bun uses the bytes' memory again.
    this.out.put(typeof part === "string" ? part : new Uint8Array(part));
    if (this.out.waiting > WAITING && !this.#isPaused) {
      this.#isPaused = true;
      this.socket?.pause();
    }
    this.outbound.wake(this.out);
  }

  #resume(): void {
    if (!this.#isPaused || this.out.waiting > WAITING / 2) return;
    this.#isPaused = false;
    this.socket?.resume();
  }

  write(part: Uint8Array | Close): void {
    this.#rest.push(part);
    this.flush();
  }

  flush(): void {
    while (this.socket && this.#rest.length > 0) {
      const part = this.#rest[0]!;
      if (part === "end") {
        this.#isShut = true;
        this.socket.shutdown();
      } else if (part === "broken") this.socket.terminate();
      else {
        const written = this.socket.write(part);
        if (written < part.length) {
          this.#rest[0] = part.subarray(Math.max(0, written));
          break;
        }
      }
      this.#rest.shift();
    }
    const isHeld = this.#rest.length > 0;
    const lane = this.other.out;
    if (this.socket && lane.isHeld !== isHeld) {
      lane.isHeld = isHeld;
      this.inbound.wake(lane);
    }
  }

  closed(): void {
    this.all.delete(this);
    // Bun tells no end of one that was shut from here before, but that it is closed.
    this.hear(this.#isShut ? "end" : "broken");
  }
}

const handlers = {
  data: (socket: Socket<Half>, bytes: Uint8Array) => socket.data.hear(bytes),
  drain: (socket: Socket<Half>) => socket.data.flush(),
  end: (socket: Socket<Half>) => socket.data.hear("end"),
  close: (socket: Socket<Half>) => socket.data?.closed(),
  error() {},
};

/** Of <sys/socket.h> and <netinet/tcp.h> on Linux. */
const [SOL_SOCKET, SO_RCVBUF, IPPROTO_TCP, TCP_MAXSEG] = [1, 8, 6, 2];

/**
 * Keeps the kernel's buffers before a listener as small as a line's are. The loopback's segments are 64 kB, and ten of them are a
 * sender's least: megabytes would be sent before they are on the line, and what comes after them would wait for seconds.
 */
function smallBuffers(fd: number): void {
  const { symbols } = dlopen("libc.so.6", {
    setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
  });
  for (const [level, name, value] of [
    [SOL_SOCKET, SO_RCVBUF, KERNEL],
    [IPPROTO_TCP, TCP_MAXSEG, SEGMENT],
  ] as const)
    if (symbols.setsockopt(fd, level, name, new Int32Array([value]), 4) !== 0)
      throw new Error(`setsockopt ${level} ${name} has failed`);
}
