import { afterEach, describe, expect, test } from "bun:test";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { Lane, Line, Way } from "./slow-relay.ts";

describe("a way, by a clock of the test's", () => {
  const KILO = new Uint8Array(1000);
  /** Steps from one due moment to the next, to the end. */
  function play(way: Way, from: number): void {
    for (let now: number | undefined = from; now !== undefined;) now = way.step(now);
  }

  test("paces bytes by the rate and brings them later by the delay", () => {
    const way = new Way({ rate: 1e6, delay: 20 });
    const arrived: number[] = [];
    let now = 0;
    const lane = new Lane(() => arrived.push(now));
    for (let i = 0; i < 3; i += 1) lane.put(KILO);
    way.wake(lane, 100);
    for (let next: number | undefined = 100; next !== undefined;) next = way.step((now = next));
    expect(arrived).toEqual([121, 122, 123]);
    expect(way.bytes).toBe(3000);
  });

  test("is no slower when it is looked at late", () => {
    const way = new Way({ rate: 1e6, delay: 20 });
    let arrived = 0;
    const lane = new Lane(() => (arrived += 1));
    for (let i = 0; i < 30; i += 1) lane.put(KILO);
    way.wake(lane, 0);
    way.step(0);
    way.step(50);
    expect(arrived).toBe(30);
  });

  test("saves up nothing while it has nothing to carry", () => {
    const way = new Way({ rate: 1e6, delay: 0 });
    let arrived = 0;
    const lane = new Lane(() => (arrived += 1));
    lane.put(KILO);
    way.wake(lane, 1000);
    for (let i = 0; i < 9; i += 1) lane.put(KILO);
    way.step(1003.5);
    expect(arrived).toBe(3);
  });

  test("gives each lane its turn, whatever the others have waiting", () => {
    const way = new Way({ rate: 1e6, delay: 0 });
    const order: string[] = [];
    const [many, few] = [new Lane(() => order.push("many")), new Lane(() => order.push("few"))];
    many.put(new Uint8Array(14480));
    few.put(new Uint8Array(1448 * 2));
    way.wake(many, 0);
    way.wake(few, 0);
    play(way, 0);
    expect(order.slice(0, 5)).toEqual(["many", "few", "many", "few", "many"]);
    expect(order).toHaveLength(12);
  });

  test("passes nothing while it is silent, and everything after, in order", () => {
    const way = new Way({ rate: 1e6, delay: 20 });
    const out: (number | string)[] = [];
    const lane = new Lane((part) => out.push(typeof part === "string" ? part : part[0]!));
    lane.put(Uint8Array.of(1));
    way.wake(lane, 0);
    way.step(0);
    way.isSilent = true;
    lane.put(Uint8Array.of(2));
    lane.put("end");
    way.wake(lane, 5);
    expect(way.step(1000)).toBeUndefined();
    expect(out).toEqual([]);
    way.speak(2000);
    play(way, 2000);
    expect(out).toEqual([1, 2, "end"]);
  });

  test("a lane that is held keeps what it has, and holds up no other", () => {
    const way = new Way({ rate: 1e6, delay: 0 });
    const out: string[] = [];
    const [held, other] = [new Lane(() => out.push("held")), new Lane(() => out.push("other"))];
    held.isHeld = true;
    held.put(KILO);
    other.put(KILO);
    way.wake(held, 0);
    way.wake(other, 0);
    play(way, 0);
    expect(out).toEqual(["other"]);
    held.isHeld = false;
    way.wake(held, 10);
    play(way, 10);
    expect(out).toEqual(["other", "held"]);
  });
});

describe("a line between sockets", () => {
  const ends: (() => void)[] = [];
  afterEach(() => {
    for (const end of ends.splice(0)) end();
  });

  /** A line that costs a test no time, to a server. */
  async function lineTo(serve: (socket: Socket) => void): Promise<{ line: Line; open(): Socket }> {
    const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => {});
      serve(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const line = new Line({ rate: 1e9, delay: 1 });
    const port = line.listen("127.0.0.1", (server.address() as AddressInfo).port);
    ends.push(
      () => line.close(),
      () => server.close(),
    );
    const open = () => {
      const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      socket.on("error", () => {});
      ends.push(() => socket.destroy());
      return socket;
    };
    return { line, open };
  }

  /** All that a socket says; its own side stays open. */
  const whole = (socket: Socket) =>
    new Promise<Buffer>((resolve, reject) => {
      const parts: Buffer[] = [];
      socket.on("data", (part: Buffer) => parts.push(part));
      socket.resume();
      socket.on("end", () => resolve(Buffer.concat(parts)));
      socket.on("close", () => reject(new Error("closed without an end")));
    });
  const closed = (socket: Socket) => new Promise((resolve) => socket.once("close", resolve));

  test("brings what is sent, both ways and side by side, and counts each byte once", async () => {
    const { line, open } = await lineTo((socket) => {
      // More comes back than was sent, after the other side has said that it is done.
      void whole(socket).then((bytes) => socket.end(Buffer.concat([bytes, bytes])));
    });
    const sent = [700_001, 1, 300_000].map((size, i) => Buffer.alloc(size, `this is ${i} and `));
    const got = await Promise.all(
      sent.map((bytes) => {
        const socket = open();
        socket.end(bytes);
        return whole(socket);
      }),
    );
    for (const [i, bytes] of sent.entries())
      expect(got[i]!.equals(Buffer.concat([bytes, bytes])), `connection ${i}`).toBe(true);
    expect(line.count()).toEqual({ there: 1_000_002, back: 2_000_004 });
  });

  test("sends no more than its receiver takes", async () => {
    const { promise, resolve } = Promise.withResolvers<Socket>();
    const { line, open } = await lineTo((socket) => {
      socket.pause();
      resolve(socket);
    });
    const bytes = Buffer.alloc(16 << 20, "some of it ");
    open().end(bytes);
    const receiver = await promise;
    // It stands still when the buffers are full: two looks that see the same.
    for (let before = -1; line.count().there !== before || before === 0;) {
      before = line.count().there;
      await Bun.sleep(300);
    }
    expect(line.count().there).toBeLessThan(bytes.length);
    expect((await whole(receiver)).equals(bytes)).toBe(true);
    expect(line.count().there).toBe(bytes.length);
  }, 30_000);

  test("cut: both sides have lost their connection, and a new one comes about", async () => {
    const there: Socket[] = [];
    const { line, open } = await lineTo((socket) => {
      there.push(socket);
      socket.pipe(socket);
    });
    const socket = open();
    socket.write("hello");
    await new Promise((resolve) => socket.once("data", resolve));
    const both = Promise.all([closed(socket), closed(there[0]!)]);
    line.cut();
    await both;
    const again = open();
    again.end("again");
    expect((await whole(again)).toString()).toBe("again");
  });

  test("silent: nothing passes, the connection stays, and goes on afterwards", async () => {
    const { line, open } = await lineTo((socket) => socket.pipe(socket));
    const socket = open();
    socket.write("one ");
    await new Promise((resolve) => socket.once("data", resolve));
    line.silence();
    const { there } = line.count();
    socket.end("two");
    await Bun.sleep(50);
    expect(line.count().there).toBe(there);
    line.speak();
    expect((await whole(socket)).toString()).toBe("two");
  });

  test("where nobody listens the connection ends", async () => {
    const { open } = await lineTo(() => {});
    const [, close] = ends;
    close!();
    await closed(open());
  });
});
