/** What a client sees, not what the cluster says of itself: verification, and samples while versions change. */

/** Where the Service answers. */
export interface Endpoint {
  /** For a person, and what `open` asks. */
  url: string;
  /** Asks for `url`; default: fetch(), which goes through HTTP_PROXY where that is set. */
  open?: ((init: RequestInit) => Promise<Response>) | undefined;
}

export interface Verification {
  /** Whether `replies` in a row carried the id. */
  ok: boolean;
  /** What came last that was not it: another id, or an error. */
  last: string;
}

/**
 * Asks over new connections until `replies` in a row carry `id`.
 *
 * @param replies default: 20
 * @param deadlineSeconds gives up after this long; default: 30
 */
export async function verify(
  endpoint: Endpoint,
  id: string,
  {
    replies = 20,
    deadlineSeconds = 30,
    signal,
  }: { replies?: number; deadlineSeconds?: number; signal: AbortSignal },
): Promise<Verification> {
  const end = Date.now() + deadlineSeconds * 1000;
  let inARow = 0;
  let last = "no reply";
  while (inARow < replies) {
    signal.throwIfAborted();
    const answer = await ask(endpoint, { signal });
    if (answer.id === id) {
      inARow += 1;
    } else {
      [inARow, last] = [0, answer.id ?? answer.failure];
      // Asked once at least, however little time there is.
      if (Date.now() > end) return { ok: false, last };
      await Bun.sleep(50);
    }
  }
  return { ok: true, last };
}

export type Answer = { id: string; failure?: undefined } | { id?: undefined; failure: string };

/** The id that answers, or what went wrong. */
export async function ask(
  { url, open = (init) => fetch(url, init) }: Endpoint,
  { keepalive = false, signal }: { keepalive?: boolean; signal: AbortSignal },
): Promise<Answer> {
  try {
    const response = await open({
      keepalive,
      ...(!keepalive && { headers: { Connection: "close" } }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(2000)]),
    });
    const text = await response.text();
    if (!response.ok) return { failure: `status ${response.status}` };
    return { id: String((JSON.parse(text) as { id?: unknown }).id) };
  } catch (error) {
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}

export interface Samples {
  requests: number;
  failed: number;
  /** What the first failure was. */
  first: string | undefined;
  /** Of those that were answered, in milliseconds. */
  median: number;
  p99: number;
}

/** Milliseconds between two requests of one client. */
const PAUSE = 25;

/**
 * Asks all the time, one client over a connection that it keeps and one over new ones, until the returned function is
 * called, which gives what they saw.
 */
export function sample(endpoint: Endpoint): () => Promise<Samples> {
  let over = false;
  const ended = Promise.withResolvers<void>();
  const times: number[] = [];
  let failed = 0;
  let first: string | undefined;
  const client = async (keepalive: boolean) => {
    while (!over) {
      const start = performance.now();
      // Not ended with the others: a request that we cut ourselves would look like a failed one.
      const { failure } = await ask(endpoint, { keepalive, signal: new AbortController().signal });
      if (failure === undefined) times.push(performance.now() - start);
      else {
        failed += 1;
        first ??= failure;
      }
      await Promise.race([Bun.sleep(PAUSE), ended.promise]);
    }
  };
  const clients = [client(true), client(false)];
  return async () => {
    over = true;
    ended.resolve();
    await Promise.all(clients);
    times.sort((a, b) => a - b);
    const at = (quantile: number) => times[Math.floor(times.length * quantile)] ?? 0;
    return { requests: times.length + failed, failed, first, median: at(0.5), p99: at(0.99) };
  };
}

/** What they saw, as a line for a person. */
export function describeSamples({ requests, failed, first, median, p99 }: Samples): string {
  const times = `median ${median.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`;
  return `meanwhile ${failed} of ${requests} requests failed${first ? ` (${first})` : ""}, ${times}`;
}
