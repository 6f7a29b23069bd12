/**
 * Counts failed requests while one of two instances drains under keep-alive clients.
 *
 * The clients behave like clients behind a load balancer. They keep a connection until a reply contains `Connection: close`,
 * then connect to a ready instance. The balancer requests /readyz ten times a second. An incomplete reply and a refused
 * connection count as failed requests.
 */
import { converse, type Client } from "../../ci/slipway/test/e2e/raw-http-client.ts";

export interface Instance {
  url: string;
  stop(): Promise<void>;
}

export interface DrainResult {
  requests: number;
  failed: number;
  /** Cause of the first failure. */
  first: string | undefined;
}

/**
 * Drains one of two instances under load.
 *
 * @param start starts an instance and resolves when it is ready
 * @param clients number of connections, each with one request at a time
 */
export async function drainUnderLoad(start: () => Promise<Instance>, clients = 64): Promise<DrainResult> {
  const instances = await Promise.all([start(), start()]);
  const result: DrainResult = { requests: 0, failed: 0, first: undefined };
  const ready = new Set(instances);
  let isOver = false;

  const checkReadiness = async () => {
    while (!isOver) {
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
    over: () => isOver,
    asked: () => void (result.requests += 1),
    failed(why) {
      result.failed += 1;
      result.first ??= why;
    },
  };
  const sendRequests = async (turn: number) => {
    while (!isOver) {
      const choice = [...ready];
      await converse(choice[turn++ % choice.length]!.url, client);
    }
  };

  const work = [checkReadiness(), ...Array.from({ length: clients }, (_, i) => sendRequests(i))];
  await Bun.sleep(300);
  await instances[0]!.stop();
  await Bun.sleep(200);
  isOver = true;
  await Promise.all(work);
  await instances[1]!.stop();
  return result;
}
