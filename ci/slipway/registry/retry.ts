/** Retries requests to a registry after transient failures. */
import { setTimeout as sleep } from "node:timers/promises";
import { PipelineError } from "../core/errors.ts";

const MAX_ATTEMPTS = 3;
/** Time within which the last attempt starts. */
const RETRY_BUDGET_SECONDS = 60;
/** Longest pause that a registry may request by Retry-After. */
const MAX_PAUSE_SECONDS = 60;

/** A failure that can resolve itself. */
export class TransientError extends PipelineError {
  /** Pause that the registry requested by Retry-After. */
  pauseSeconds: number | undefined;
}

export interface RetryOptions {
  signal: AbortSignal;
  log?: ((line: string) => void) | undefined;
  /** Time within which the last attempt starts, plus the pauses that the registry requests. Default: 60. */
  retryBudgetSeconds?: number | undefined;
  /** Pause before the second attempt. It is doubled before the third. Default: 1. */
  pauseSeconds?: number | undefined;
}

/**
 * Repeats an attempt that failed with a TransientError.
 *
 * @throws the error of the last attempt, or the signal's reason if it is aborted
 */
export async function withRetry<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, log, retryBudgetSeconds = RETRY_BUDGET_SECONDS, pauseSeconds = 1 } = options;
  let end = performance.now() + retryBudgetSeconds * 1000;
  for (let attempts = 1; ; attempts++) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TransientError) || attempts === MAX_ATTEMPTS) throw error;
      const requested = error.pauseSeconds;
      if (requested !== undefined && requested > MAX_PAUSE_SECONDS) throw pauseTooLong(error, requested);
      const pause = requested ?? pauseSeconds * 2 ** (attempts - 1);
      if (requested !== undefined) end += requested * 1000;
      if (performance.now() + pause * 1000 > end) throw error;
      log?.(`${error.message}; retrying in ${pause} s`);
      await sleep(pause * 1000, undefined, { signal }).catch(() => {});
      signal.throwIfAborted();
    }
  }
}

function pauseTooLong({ code, message }: TransientError, seconds: number): PipelineError {
  return new PipelineError(
    "environment",
    `${message}. It requests a pause of ${seconds} s, the limit is ${MAX_PAUSE_SECONDS} s`,
    { code, hint: `Run the command again in ${seconds} s.` },
  );
}
