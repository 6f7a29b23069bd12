/**
 * How long what fails for nobody's fault is tried again: one policy for all dealings with the API server.
 *
 * An API server restarts, is behind a load balancer that does, sheds load (429), or waits for a webhook that is not up yet:
 * the next try, a moment later, is answered. What it says about the object or about who asks is an answer and stays one.
 */

/** Seconds from the first failure of a request until it counts as failed. */
export const RETRY_BUDGET_SECONDS = 20;
/** Milliseconds before the second try; each pause after it is twice as long, up to LONGEST_PAUSE_MS. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2000;

/** No answer, or one that the next try need not get: too many requests, an error of the server's, a gateway without it. */
export function isTransientStatus(status: number): boolean {
  return status === 0 || status === 429 || (status >= 500 && status !== 501);
}

/** Milliseconds to wait before a try. @param asked the seconds that the server asks for */
export function backoffMs(failed: number, asked = 0): number {
  return Math.max(asked * 1000, Math.min(FIRST_PAUSE_MS * 2 ** (failed - 1), LONGEST_PAUSE_MS));
}

/** Sleeps, but not longer than the signal lets. @throws the signal's reason */
export async function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return Bun.sleep(milliseconds);
  signal.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
  signal.throwIfAborted();
}
