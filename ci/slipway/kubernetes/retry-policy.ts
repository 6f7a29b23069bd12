/**
 * Retry policy for transient Kubernetes API errors.
 *
 * The API server may be restarting, be behind a load balancer that is restarting, shed load (429), or wait for a
 * webhook that is not ready. A retry a moment later succeeds. An error about the object or about the user's rights is
 * final: api-answers.ts decides.
 */

import type { ErrorCode } from "../core/error-codes.ts";

/** Seconds from the first failure of a request until it counts as failed. */
export const RETRY_BUDGET_SECONDS = 20;
/** Milliseconds before the second attempt. Each pause is twice as long as the last, up to MAX_PAUSE_MS. */
const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 2000;

/** Errors of the connection to the API server after which a retry may succeed. */
export const transientCodes = new Set<ErrorCode | undefined>(["ssh-connection-lost", "ssh-unreachable"]);

/**
 * Returns the milliseconds to wait before the next attempt.
 *
 * @param retryAfter seconds that the server asks for
 */
export function backoffMs(failed: number, retryAfter = 0): number {
  return Math.max(retryAfter * 1000, Math.min(FIRST_PAUSE_MS * 2 ** (failed - 1), MAX_PAUSE_MS));
}

/** Sleeps until the time is over or the signal is aborted. @throws the signal's reason */
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
