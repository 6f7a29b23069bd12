/** Turns a condition that may pass into a failure once it has lasted for its grace period. */
import type { RolloutVerdict, SuspectedFailure } from "./rollout-status.ts";

/** Tracks how long each suspected failure has lasted, by this machine's clock because the cluster's may differ. */
export class FailureTimer {
  readonly #since = new Map<string, number>();

  /**
   * Turns a suspected failure into a failed verdict when its grace period is over.
   *
   * @param now milliseconds of a monotonic clock
   */
  evaluate(verdict: RolloutVerdict, now: number): RolloutVerdict {
    if (verdict.state !== "progressing") return verdict;
    const active = new Set(verdict.suspected.map(keyOf));
    for (const key of this.#since.keys()) if (!active.has(key)) this.#since.delete(key);
    for (const suspect of verdict.suspected) {
      const since = this.#since.get(keyOf(suspect)) ?? now;
      this.#since.set(keyOf(suspect), since);
      const { graceSeconds, ...failure } = suspect;
      if (now - since >= graceSeconds * 1000) return { state: "failed", ...failure };
    }
    return verdict;
  }
}

function keyOf({ reason, pod = "" }: SuspectedFailure): string {
  return `${reason} ${pod}`;
}
