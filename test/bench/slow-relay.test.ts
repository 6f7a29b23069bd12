import { afterEach, describe, expect, test } from "bun:test";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { ConnectionQueue, Direction, SlowRelay } from "./slow-relay.ts";

describe("a direction with a simulated clock", () => {
  const KILO = new Uint8Array(1000);
  /** Steps until there is no data. */
  function play(direction: Direction, from: number): void {
    for (let now: number | undefined = from; now !== undefined;) now = direction.step(now);
  }

  test("limits the rate and adds the delay", () => {
    const direction = new Direction({ rate: 1e6, delay: 20 });
    const arrived: number[] = [];
    let now = 0;
    const queue = new ConnectionQueue(() => arrived.push(now));
    for (let i = 0; i < 3; i += 1) queue.put(KILO);
    direction.schedule(queue, 100);
    for (let next: number | undefined = 100; next !== undefined;) next = direction.step((now = next));
    expect(arrived).toEqual([121, 122, 123]);
    expect(direction.bytes).toBe(3000);
  });

  test("keeps its rate with late timers", () => {
    const direction = new Direction({ rate: 1e6, delay: 20 });
    let arrived = 0;
    const queue = new ConnectionQueue(() => (arrived += 1));
    for (let i = 0; i < 30; i += 1) queue.put(KILO);
    direction.schedule(queue, 0);
    direction.step(0);
    direction.step(50);
    expect(arrived).toBe(30);
  });

  test("does not accumulate capacity while idle", () => {
    const direction = new Direction({ rate: 1e6, delay: 0 });
    let arrived = 0;
    const queue = new ConnectionQueue(() => (arrived += 1));
    queue.put(KILO);
    direction.schedule(queue, 1000);
    for (let i = 0; i < 9; i += 1) queue.put(KILO);
    direction.step(1003.5);
    expect(arrived).toBe(3);
  });

  test("sends segments of all connections in turn", () => {
    const direction = new Direction({ rate: 1e6, delay: 0 });
    const order: string[] = [];
    const [many, few] = [new ConnectionQueue(() => order.push("many")), new ConnectionQueue(() => order.push("few"))];
    many.put(new Uint8Array(14480));
    few.put(new Uint8Array(1448 * 2));
    direction.schedule(many, 0);
    direction.schedule(few, 0);
    play(direction, 0);
    expect(order.slice(0, 5)).toEqual(["many", "few", "many", "few", "many"]);
    expect(order).toHaveLength(12);
  });

  test("sends nothing while paused, and everything in order afterwards", () => {
    const direction = new Direction({ rate: 1e6, delay: 20 });
    const out: (number | string)[] = [];
    const queue = new ConnectionQueue((part) => out.push(typeof part === "string" ? part : part[0]!));
    queue.put(Uint8Array.of(1));
    direction.schedule(queue, 0);
    direction.step(0);
    direction.isPaused = true;
    queue.put(Uint8Array.of(2));
    queue.put("end");
    direction.schedule(queue, 5);
    expect(direction.step(1000)).toBeUndefined();
    expect(out).toEqual([]);
    direction.resume(2000);
    play(direction, 2000);
    expect(out).toEqual([1, 2, "end"]);
  });

  test("a blocked connection keeps its data and does not block others", () => {
    const direction = new Direction({ rate: 1e6, delay: 0 });
    const out: string[] = [];
    const [blocked, other] = [
      new ConnectionQueue(() => out.push("blocked")),
      new ConnectionQueue(() => out.push("other")),
    ];
    blocked.isBlocked = true;
    blocked.put(KILO);
    other.put(KILO);
    direction.schedule(blocked, 0);
    direction.schedule(other, 0);
    play(direction, 0);
    expect(out).toEqual(["other"]);
    blocked.isBlocked = false;
    direction.schedule(blocked, 10);
    play(direction, 10);
    expect(out).toEqual(["other", "blocked"]);
  });
});

describe("a relay between sockets", () => {
  const ends: (() => void)[] = [];
  afterEach(() => {
    for (const end of ends.splice(0)) end();
  });

  /** Starts a server and a fast relay to it. */
  async function relayTo(serve: (socket: Socket) => void): Promise<{ relay: SlowRelay; open(): Socket }> {
    const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => {});
      serve(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const relay = new SlowRelay({ rate: 1e9, delay: 1 });
    const port = relay.listen("127.0.0.1", (server.address() as AddressInfo).port);
    ends.push(
      () => relay.close(),
      () => server.close(),
    );
    const open = () => {
      const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      socket.on("error", () => {});
      ends.push(() => socket.destroy());
      return socket;
    };
    return { relay, open };
  }

  /** Reads a socket to its end. The write side stays open. */
  const readAll = (socket: Socket) =>
    new Promise<Buffer>((resolve, reject) => {
      const parts: Buffer[] = [];
      socket.on("data", (part: Buffer) => parts.push(part));
      socket.resume();
      socket.on("end", () => resolve(Buffer.concat(parts)));
      socket.on("close", () => reject(new Error("closed without an end")));
    });
  const closed = (socket: Socket) => new Promise((resolve) => socket.once("close", resolve));

  test("relays concurrent connections in both directions and counts each byte once", async () => {
    const { relay, open } = await relayTo((socket) => {
      // The reply is larger than the request and follows its end.
      void readAll(socket).then((bytes) => socket.end(Buffer.concat([bytes, bytes])));
    });
    const sent = [700_001, 1, 300_000].map((size, i) => Buffer.alloc(size, `this is ${i} and `));
    const got = await Promise.all(
      sent.map((bytes) => {
        const socket = open();
        socket.end(bytes);
        return readAll(socket);
      }),
    );
    for (const [i, bytes] of sent.entries())
      expect(got[i]!.equals(Buffer.concat([bytes, bytes])), `connection ${i}`).toBe(true);
    expect(relay.byteCounts()).toEqual({ sent: 1_000_002, received: 2_000_004 });
  });

  test("stops if the receiver does not read", async () => {
    const { promise, resolve } = Promise.withResolvers<Socket>();
    const { relay, open } = await relayTo((socket) => {
      socket.pause();
      resolve(socket);
    });
    const bytes = Buffer.alloc(16 << 20, "some of it ");
    open().end(bytes);
    const receiver = await promise;
    // Waits until the buffers are full, that is until the count is stable.
    for (let before = -1; relay.byteCounts().sent !== before || before === 0;) {
      before = relay.byteCounts().sent;
      await Bun.sleep(300);
    }
    expect(relay.byteCounts().sent).toBeLessThan(bytes.length);
    expect((await readAll(receiver)).equals(bytes)).toBe(true);
    expect(relay.byteCounts().sent).toBe(bytes.length);
  }, 30_000);

  test("disconnect: closes both sides and accepts new connections", async () => {
    const serverSockets: Socket[] = [];
    const { relay, open } = await relayTo((socket) => {
      serverSockets.push(socket);
      socket.pipe(socket);
    });
    const socket = open();
    socket.write("hello");
    await new Promise((resolve) => socket.once("data", resolve));
    const both = Promise.all([closed(socket), closed(serverSockets[0]!)]);
    relay.disconnect();
    await both;
    const again = open();
    again.end("again");
    expect((await readAll(again)).toString()).toBe("again");
  });

  test("pause: stops all traffic, keeps the connection, and continues after resume", async () => {
    const { relay, open } = await relayTo((socket) => socket.pipe(socket));
    const socket = open();
    socket.write("one ");
    await new Promise((resolve) => socket.once("data", resolve));
    relay.pause();
    const { sent } = relay.byteCounts();
    socket.end("two");
    await Bun.sleep(50);
    expect(relay.byteCounts().sent).toBe(sent);
    relay.resume();
    expect((await readAll(socket)).toString()).toBe("two");
  });

  test("closes the connection if the server does not listen", async () => {
    const { open } = await relayTo(() => {});
    const [, close] = ends;
    close!();
    await closed(open());
  });
});
