/** Verification from outside: what a client sees, not what the cluster says of itself. */

export interface Verification {
  /** Whether `replies` in a row carried the id. */
  ok: boolean;
  /** What came last that was not it: another id, or an error. */
  last: string;
}

/**
 * Asks over new connections until `replies` in a row carry `id`.
 *
 * @param deadlineSeconds gives up after this long
 */
export async function verify(
  url: string,
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
    if (Date.now() > end) return { ok: false, last };
    const answer = await askId(url, signal);
    if (answer === id) {
      inARow += 1;
    } else {
      [inARow, last] = [0, answer];
      await Bun.sleep(50);
    }
  }
  return { ok: true, last };
}

/** The id that answers at `url`, or what went wrong. */
export async function askId(url: string, signal: AbortSignal): Promise<string> {
  try {
    const response = await fetch(url, {
      keepalive: false,
      headers: { Connection: "close" },
      signal: AbortSignal.any([signal, AbortSignal.timeout(2000)]),
    });
    if (!response.ok) return `status ${response.status}`;
    const { id } = (await response.json()) as { id?: unknown };
    return String(id);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
