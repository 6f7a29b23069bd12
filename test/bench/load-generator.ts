/**
 * Load generator in a separate process, so that the benchmark does not slow it down. A request fails without a complete reply
 * in time, and if the reply comes from an unexpected version.
 */
import { converse, type Client } from "../../ci/slipway/test/e2e/raw-http-client.ts";

/** Number of clients that keep their connection. */
const KEEP_ALIVE_CLIENTS = 64;
/** Number of clients that open a connection for each request. */
const NEW_CONNECTION_CLIENTS = 16;
/** Milliseconds between a client's requests. The rollout needs CPU time too, on a small machine with two cores. */
const PAUSE_MS = { keepAlive: 25, newConnection: 50 };
const TIMEOUT_SECONDS = 5;
/** Number of failures that are reported in full. */
const MAX_REPORTED = 5;

/** Version IDs that may reply. Keep-alive connections may still reach draining versions. */
interface ExpectedIds {
  keepAlive: string[];
  newConnection: string[];
}

export interface RequestCounts {
  requests: number;
  failed: number;
  /** Time and cause of the first failures. */
  first: string[];
}

/** Controls the load generator's process. */
export class LoadGenerator {
  #reply = Promise.withResolvers<RequestCounts>();
  /** Expected IDs, newest first. */
  #history: string[][];
  readonly #child: Bun.Subprocess;

  private constructor(url: string, ids: string[]) {
    this.#history = [ids];
    const expected: ExpectedIds = { keepAlive: ids, newConnection: ids };
    this.#child = Bun.spawn([process.execPath, import.meta.path, url, JSON.stringify(expected)], {
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (counts) => this.#reply.resolve(counts),
      onExit: () => this.#reply.reject(new Error("the load generator ended unexpectedly")),
    });
    // Without a pending request, the end of the process is expected.
    this.#reply.promise.catch(() => {});
  }

  /** Starts the clients and resolves when they send requests. */
  static async start(url: string, ids: string[]): Promise<LoadGenerator> {
    const load = new LoadGenerator(url, ids);
    await load.#reply.promise;
    return load;
  }

  /** Sets the IDs that may reply from now on. Resolves after the clients have received them. */
  async expect(ids: string[]): Promise<void> {
    // Covers the time before, during and after a deploy, because a draining version keeps connections that long.
    this.#history = [ids, ...this.#history].slice(0, 3);
    const expected: ExpectedIds = { keepAlive: this.#history.flat(), newConnection: ids };
    await this.#send(expected);
  }

  async stop(): Promise<RequestCounts> {
    const counts = await this.#send("stop");
    this.kill();
    return counts;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async #send(message: unknown): Promise<RequestCounts> {
    this.#reply = Promise.withResolvers<RequestCounts>();
    this.#reply.promise.catch(() => {});
    this.#child.send(message);
    return this.#reply.promise;
  }
}

async function main(url: string, initial: ExpectedIds): Promise<void> {
  const { host, pathname } = new URL(url);
  const counts: RequestCounts = { requests: 0, failed: 0, first: [] };
  let expected = initial;
  let isOver = false;

  const client = (kind: keyof ExpectedIds): Client => {
    let before = expected;
    const close = kind === "newConnection" ? "Connection: close\r\n" : "";
    return {
      request: `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\n${close}\r\n`,
      pause: kind === "keepAlive" ? PAUSE_MS.keepAlive : 0,
      patience: TIMEOUT_SECONDS,
      over: () => isOver || kind === "newConnection",
      asked() {
        counts.requests += 1;
        before = expected;
      },
      judge(body) {
        // If the expected IDs change during a request, both sets are valid.
        const id = idOf(body);
        if (before[kind].includes(id) || expected[kind].includes(id)) return undefined;
        return `${id}, expected ${expected[kind].join(" or ")}`;
      },
      failed(why) {
        counts.failed += 1;
        const time = new Date().toISOString().slice(11, 23);
        if (counts.first.length < MAX_REPORTED) counts.first.push(`${time} ${kind}: ${why}`);
      },
    };
  };
  const sendRequests = async (kind: keyof ExpectedIds) => {
    const requests = client(kind);
    while (!isOver) {
      await converse(url, requests);
      await Bun.sleep(PAUSE_MS[kind]);
    }
  };

  const work = [
    ...Array.from({ length: KEEP_ALIVE_CLIENTS }, () => sendRequests("keepAlive")),
    ...Array.from({ length: NEW_CONNECTION_CLIENTS }, () => sendRequests("newConnection")),
  ];
  process.on("message", async (message: ExpectedIds | "stop") => {
    if (message === "stop") {
      isOver = true;
      await Promise.all(work);
    } else {
      expected = message;
    }
    process.send!(counts);
  });
  // The benchmark handles interruptions. Without the benchmark this process ends.
  process.on("SIGINT", () => {});
  process.on("disconnect", () => process.exit(1));
  await Bun.sleep(500);
  process.send!(counts);
}

function idOf(body: string): string {
  try {
    return String(JSON.parse(body).id);
  } catch {
    return `invalid JSON: ${body.slice(0, 40)}`;
  }
}

if (import.meta.main) await main(process.argv[2]!, JSON.parse(process.argv[3]!));
