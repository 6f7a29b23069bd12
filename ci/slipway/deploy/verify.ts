/** What a client sees, not what the cluster says of itself. */
import { PipelineError } from "../core/errors.ts";

/** Where the Service answers. */
export interface Endpoint {
  /** For a person, and what `open` asks. */
  url: string;
  /** Asks for `url`; default: fetch(), which goes through HTTP_PROXY where that is set. */
  open?: ((init: RequestInit) => Promise<Response>) | undefined;
  /** Whether a request takes a while and every byte counts: it is asked for side by side, and seldom. Default: false. */
  isRemote?: boolean;
}

/** Requests at once to what is far. */
const ABREAST = 10;

export interface VerificationResult {
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
 * @throws {PipelineError} what kept the last question from being asked at all, a line that has gone: nothing is said of the version then
 */
export async function verifyVersion(
  endpoint: Endpoint,
  id: string,
  {
    replies = 20,
    deadlineSeconds = 30,
    signal,
  }: { replies?: number; deadlineSeconds?: number; signal: AbortSignal },
): Promise<VerificationResult> {
  const end = performance.now() + deadlineSeconds * 1000;
  let inARow = 0;
  let last = "no reply";
  while (inARow < replies) {
    signal.throwIfAborted();
    const count = endpoint.isRemote ? Math.min(ABREAST, replies - inARow) : 1;
    const answers = await Promise.all(
      Array.from({ length: count }, () => fetchVersion(endpoint, { signal })),
    );
    const other = answers.find((answer) => answer.id !== id);
    if (other === undefined) {
      inARow += count;
    } else {
      [inARow, last] = [0, other.id ?? other.failure];
      // Asked once at least, however little time there is.
      if (performance.now() > end) {
        if (other.unasked) throw other.unasked;
        return { ok: false, last };
      }
      await Bun.sleep(50);
    }
  }
  return { ok: true, last };
}

export type VersionReply =
  | { id: string; failure?: undefined; unasked?: undefined }
  | {
      id?: undefined;
      failure: string;
      /** What is between here and there, where that is at fault. */
      unasked?: PipelineError;
    };

/** The id that answers, or what went wrong. */
export async function fetchVersion(
  { url, open = (init) => fetch(url, init) }: Endpoint,
  { keepalive = false, signal }: { keepalive?: boolean; signal: AbortSignal },
): Promise<VersionReply> {
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
    if (error instanceof PipelineError) return { failure: error.message, unasked: error };
    return { failure: error instanceof Error ? error.message : String(error) };
  }
}
