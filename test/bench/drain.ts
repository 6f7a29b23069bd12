/**
 * One of two instances drains under keep-alive clients: how many requests fail?
 *
 * The clients do what clients behind a load balancer do: they keep their connection until a reply says `Connection:
 * close`, then connect again, to an instance that is ready. A balancer asks /readyz ten times a second. A reply that does not
 * come whole, or a connection that is refused, is a failed request.
 */
import { converse, type Client } from "../../ci/slipway/test/e2e/clients.ts";

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
  const client: Client = {
    request: "GET / HTTP/1.1\r\nHost: bench\r\nAccept: application/json\r\n\r\n",
    over: () => over,
    asked: () => void (result.requests += 1),
    failed(why) {
      result.failed += 1;
      result.first ??= why;
    },
  };
  const ask = async (turn: number) => {
    while (!over) {
      const choice = [...ready];
      await converse(choice[turn++ % choice.length]!.url, client);
    }
  };

  const work = [balance(), ...Array.from({ length: clients }, (_, i) => ask(i))];
  await Bun.sleep(300);
  await instances[0]!.stop();
  await Bun.sleep(200);
  over = true;
  await Promise.all(work);
  await instances[1]!.stop();
  return result;
}
