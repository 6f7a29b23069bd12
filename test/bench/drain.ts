/**
 * One of two instances drains under keep-alive clients: how many requests fail?
 *
 * The clients do what clients behind a load balancer do: they keep their connection until a reply says `Connection:
 * close`, then connect again, to an instance that is ready. A balancer asks /readyz ten times a second. A reply that does not
 * come whole, or a connection that is refused, is a failed request.
 */
export interface Instance {
  url: string;
  stop(): Promise<void>;
}

export interface DrainResult {
  requests: number;
  failed: number;
  /** What the first failure was. */
  first: string | undefined;
}

/**
 * @param start starts an instance and resolves when it is ready
 * @param clients connections, each with one request at a time
 */
export async function drainUnderLoad(start: () => Promise<Instance>, clients = 64): Promise<DrainResult> {
  const instances = await Promise.all([start(), start()]);
  const result: DrainResult = { requests: 0, failed: 0, first: undefined };
  const ready = new Set(instances);
  let over = false;

  const balance = async () => {
    while (!over) {
      for (const instance of instances) {
        const ok = await fetch(new URL("/readyz", instance.url), { keepalive: false }).then(
          ({ ok }) => ok,
          () => false,
        );
        if (ok) ready.add(instance);
        else ready.delete(instance);
      }
      await Bun.sleep(100);
    }
  };
  const client = async (turn: number) => {
    while (!over) {
      const choice = [...ready];
      await connection(choice[turn++ % choice.length]!.url, () => over, result);
    }
  };

  const work = [balance(), ...Array.from({ length: clients }, (_, i) => client(i))];
  await Bun.sleep(300);
  await instances[0]!.stop();
  await Bun.sleep(200);
  over = true;
  await Promise.all(work);
  await instances[1]!.stop();
  return result;
}

const REQUEST = "GET / HTTP/1.1\r\nHost: bench\r\nAccept: application/json\r\n\r\n";

/** Asks over one connection until a reply says that it ends, or `over`. Resolves when it is closed. */
async function connection(url: string, over: () => boolean, result: DrainResult): Promise<void> {
  const { hostname, port } = new URL(url);
  const closed = Promise.withResolvers<void>();
  let buffer = "";
  let waiting = true;
  let failed = false;
  const fail = (why: string) => {
    if (failed) return;
    failed = true;
    result.failed += 1;
    result.first ??= why;
  };
  const ask = (socket: Bun.Socket<undefined>) => {
    waiting = true;
    result.requests += 1;
    socket.write(REQUEST);
  };
  const attempt = Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open: ask,
      data(socket, data) {
        buffer += data.toString();
        const head = buffer.indexOf("\r\n\r\n");
        if (head < 0) return;
        const length = Number(
          /^content-length: (\d+)$/im.exec(buffer.slice(0, head).replaceAll("\r", ""))?.[1],
        );
        if (buffer.length < head + 4 + length) return;
        if (!buffer.startsWith("HTTP/1.1 200 ")) fail(buffer.slice(0, 40));
        const last = /^connection: close$/im.test(buffer.slice(0, head).replaceAll("\r", ""));
        buffer = "";
        waiting = false;
        if (last || over()) socket.end();
        else ask(socket);
      },
      close() {
        if (waiting) fail("closed before the reply");
        closed.resolve();
      },
      error(_, error) {
        fail(error.message);
      },
    },
  });
  await attempt.then(
    () => closed.promise,
    (error: Error) => fail(error.message),
  );
}
