/** How often, and for how long, a registry is asked again for what a moment's failure can prevent. */
import { setTimeout as sleep } from "node:timers/promises";
import { PipelineError } from "../core/errors.ts";

/** Tries of one question, and seconds in which the last of them begins. */
const TRIES = 3;
const PATIENCE_SECONDS = 60;
/** Seconds that a registry may ask for by Retry-After. */
const LONGEST_PAUSE_SECONDS = 60;

/** A failure that may be gone in a moment. */
export class TransientError extends PipelineError {
  /** Seconds to wait, where the registry named them. */
  pauseSeconds: number | undefined;
}

export interface RetryOptions {
  signal: AbortSignal;
  say?: ((line: string) => void) | undefined;
  /** Seconds within which the last try begins; pauses that the registry asks for come on top. Default: 60. */
  seconds?: number | undefined;
  /** Seconds before the second try; before the third it is twice that. Default: 1. */
  pauseSeconds?: number | undefined;
}

/**
 * Repeats what failed for a reason that may have passed.
 *
 * @throws what the last attempt has thrown; the signal's reason when it was aborted
 */
export async function withRetry<T>(attempt: () => Promise<T>, patience: RetryOptions): Promise<T> {
  const { signal, say, seconds = PATIENCE_SECONDS, pauseSeconds = 1 } = patience;
  let end = performance.now() + seconds * 1000;
  for (let tried = 1; ; tried++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TransientError) || tried === TRIES) throw error;
      const asked = error.pauseSeconds;
      if (asked !== undefined && asked > LONGEST_PAUSE_SECONDS) throw tooLong(error, asked);
      const pause = asked ?? pauseSeconds * 2 ** (tried - 1);
      if (asked !== undefined) end += asked * 1000;
      if (performance.now() + pause * 1000 > end) throw error;
      say?.(`${error.message}; again in ${pause} s`);
      await sleep(pause * 1000, undefined, { signal }).catch(() => {});
      signal.throwIfAborted();
    }
  }
}

function tooLong({ message }: TransientError, seconds: number): PipelineError {
  return new PipelineError(
    "environment",
    `${message}, and asks for a pause of ${seconds} s, which is longer than is waited for here`,
    { hint: "Run the command again then." },
  );
}
