/**
 * Clients in a process of their own, so that what the bench does meanwhile does not slow them down, and a check of every
 * reply: a request that gets no whole reply in time, or one from a version that should not answer, has failed.
 */
import { converse, type Client } from "../../ci/slipway/test/e2e/clients.ts";

/** Connections that are kept, and clients that open one for each request. */
const KEPT = 64;
const FRESH = 16;
/** Milliseconds between a client's requests: the two cores of a small machine are wanted by the rollout as well. */
const PAUSE = { kept: 25, fresh: 50 };
const PATIENCE_SECONDS = 5;
/** Failures that are told in full. */
const TOLD = 5;

/** Ids that may answer; those on kept connections include versions that drain. */
interface Expected {
  kept: string[];
  fresh: string[];
}

export interface Tally {
  requests: number;
  failed: number;
  /** Time and cause of the first failures. */
  first: string[];
}

/** The clients as seen from the bench. */
export class Load {
  #answer = Promise.withResolvers<Tally>();
  /** What was expected last, and before. */
  #history: string[][];
  readonly #child: Bun.Subprocess;

  private constructor(url: string, ids: string[]) {
    this.#history = [ids];
    const expected: Expected = { kept: ids, fresh: ids };
    this.#child = Bun.spawn([process.execPath, import.meta.path, url, JSON.stringify(expected)], {
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (tally) => this.#answer.resolve(tally),
      onExit: () => this.#answer.reject(new Error("the clients' process ended")),
    });
    // Without a question under way its end is no news.
    this.#answer.promise.catch(() => {});
  }

  /** Starts the clients. Resolves when they are at work. */
  static async start(url: string, ids: string[]): Promise<Load> {
    const load = new Load(url, ids);
    await load.#answer.promise;
    return load;
  }

  /** From now on these ids may answer, and no others. Resolves when the clients know. */
  async expect(ids: string[]): Promise<void> {
    // Before a deploy, while it goes on, after it: a version that drains may have kept connections for that long.
    this.#history = [ids, ...this.#history].slice(0, 3);
    const expected: Expected = { kept: this.#history.flat(), fresh: ids };
    await this.#ask(expected);
  }

  async stop(): Promise<Tally> {
    const tally = await this.#ask("stop");
    this.kill();
    return tally;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async #ask(message: unknown): Promise<Tally> {
    this.#answer = Promise.withResolvers<Tally>();
    this.#answer.promise.catch(() => {});
    this.#child.send(message);
    return this.#answer.promise;
  }
}

async function main(url: string, initial: Expected): Promise<void> {
  const { host, pathname } = new URL(url);
  const tally: Tally = { requests: 0, failed: 0, first: [] };
  let expected = initial;
  let over = false;

  const client = (kind: keyof Expected): Client => {
    let before = expected;
    const close = kind === "fresh" ? "Connection: close\r\n" : "";
    return {
      request: `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\n${close}\r\n`,
      pause: kind === "kept" ? PAUSE.kept : 0,
      patience: PATIENCE_SECONDS,
      over: () => over || kind === "fresh",
      asked() {
        tally.requests += 1;
        before = expected;
      },
      judge(body) {
        // What changed while the request was on its way may show or not.
        const id = idOf(body);
        if (before[kind].includes(id) || expected[kind].includes(id)) return undefined;
        return `${id}, expected was ${expected[kind].join(" or ")}`;
      },
      failed(why) {
        tally.failed += 1;
        const time = new Date().toISOString().slice(11, 23);
        if (tally.first.length < TOLD) tally.first.push(`${time} on a ${kind} connection: ${why}`);
      },
    };
  };
  const ask = async (kind: keyof Expected) => {
    const one = client(kind);
    while (!over) {
      await converse(url, one);
      await Bun.sleep(PAUSE[kind]);
    }
  };

  const work = [
    ...Array.from({ length: KEPT }, () => ask("kept")),
    ...Array.from({ length: FRESH }, () => ask("fresh")),
  ];
  process.on("message", async (message: Expected | "stop") => {
    if (message === "stop") {
      over = true;
      await Promise.all(work);
    } else {
      expected = message;
    }
    process.send!(tally);
  });
  // An interruption is for the bench to handle; without the bench there is nobody to count for.
  process.on("SIGINT", () => {});
  process.on("disconnect", () => process.exit(1));
  await Bun.sleep(500);
  process.send!(tally);
}

function idOf(body: string): string {
  try {
    return String(JSON.parse(body).id);
  } catch {
    return `no JSON: ${body.slice(0, 40)}`;
  }
}

if (import.meta.main) await main(process.argv[2]!, JSON.parse(process.argv[3]!));
