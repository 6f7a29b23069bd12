/**
 * A version on its way: applied, followed until it is up or will not be, verified from outside, and waited for until the
 * pods of the version before have left.
 */
import type { Done } from "../ground/report.ts";
import { Refusal } from "./api.ts";
import type { Version } from "./history.ts";
import { applyAll } from "./manifests.ts";
import type { Deploy } from "./plan.ts";
import { assess, observe, otherPods, Patience } from "./rollout.ts";
import type { Failure, Observation, Verdict } from "./rollout.ts";
import { sample, verify, type Endpoint, type Samples } from "./verify.ts";

/** Milliseconds between two looks at a rollout. */
const LOOK_MS = 100;
/** Seconds that pods of the version before may take to leave, beyond their grace period. */
const LEAVE_SECONDS = 15;
/** Seconds that the API server may be away while a rollout is followed. */
const AWAY_SECONDS = 15;

/** What a deploy came to. */
export interface Outcome {
  /** Seconds from the apply until 20 replies in a row carried the id. */
  servedAfter: number;
  /** When that was, in milliseconds since 1970. */
  servedAt: number;
  /** What clients saw from the apply on; undefined at the first deploy. */
  samples: Samples | undefined;
}

/** A version that did not come up, or does not answer. */
export class NotUp extends Error {
  constructor(
    readonly failure: Failure,
    readonly samples: Samples | undefined,
  ) {
    super(`${failure.reason}${failure.message && `, ${failure.message}`}`);
  }
}

interface Bringing {
  endpoint: Endpoint;
  /** Whether something served before, whose clients must not notice. */
  served: boolean;
  /** Ends the wait for the last pods of the version before. */
  hurry?: AbortSignal | undefined;
}

/**
 * Applies a version, follows its rollout, verifies it, and waits for the pods of the version before to leave.
 *
 * @throws {NotUp}
 */
export async function bring(
  run: Deploy,
  what: "rollout" | "rollback",
  { id, manifests }: Version,
  { endpoint, served, hurry }: Bringing,
): Promise<Outcome> {
  const { target, signal, step } = run;
  const stop = served ? sample(endpoint) : undefined;
  const start = performance.now();
  const fail = async (failure: Failure) => new NotUp(failure, await stop?.());
  try {
    await step(what, async () => {
      await applyAll(target.api, manifests);
      const verdict = await watch(run);
      if (verdict.state === "failed") throw await fail(verdict);
      return { value: undefined };
    });
    const [servedAt, servedAfter] = await step("verify", async (): Promise<Done<[number, number]>> => {
      const { ok, last } = await verify(endpoint, id, { signal });
      const seconds = (performance.now() - start) / 1000;
      const detail = `20 replies in a row carry ${id}, ${seconds.toFixed(1)} s after the apply`;
      if (ok) return { value: [Date.now(), seconds], detail };
      const message = `pods are ready, but ${endpoint.url} does not answer with ${id} (last: ${last})`;
      throw await fail({ reason: "NotServed", message });
    });
    await step("settle", async () => {
      const failure = await settle(run, hurry);
      if (failure) throw await fail(failure);
      return { value: undefined, detail: hurry?.aborted ? "" : "the pods before are gone" };
    });
    return { servedAfter, servedAt, samples: await stop?.() };
  } finally {
    await stop?.();
  }
}

/** Looks again and again until `decide` gives something. A server that is away for a moment is waited for. */
async function follow<T>(
  { target, signal }: Deploy,
  decide: (seen: Observation | undefined) => T | undefined,
): Promise<T> {
  let answered = performance.now();
  for (;;) {
    signal.throwIfAborted();
    try {
      const decision = decide(await observe(target.api));
      if (decision !== undefined) return decision;
      answered = performance.now();
    } catch (error) {
      const away = error instanceof Refusal && (error.status === 0 || error.status >= 500);
      if (!away || performance.now() - answered > AWAY_SECONDS * 1000) throw error;
    }
    await Bun.sleep(LOOK_MS);
  }
}

/** Follows the rollout until it is complete or cannot be. */
function watch(run: Deploy): Promise<Exclude<Verdict, { state: "progressing" }>> {
  const end = performance.now() + run.service.rolloutSeconds * 1000;
  const patience = new Patience();
  let shown = "";
  return follow(run, (seen) => {
    if (!seen) return { state: "failed", reason: "Deleted", message: "the Deployment was deleted meanwhile" };
    const verdict = patience.judge(assess(seen, run.service), performance.now());
    if (verdict.state !== "progressing") return verdict;
    if (verdict.detail !== shown) run.say((shown = verdict.detail));
    if (performance.now() < end) return undefined;
    const message = `not complete within ${run.service.rolloutSeconds} s (${shown})`;
    return { state: "failed", reason: "Timeout", message };
  });
}

/** Waits until the pods of the version before have left, and sees whether the new ones hold out meanwhile. */
async function settle(run: Deploy, hurry?: AbortSignal): Promise<Failure | undefined> {
  const patience = new Patience();
  const start = performance.now();
  const ended = await follow(run, (seen): Failure | "settled" | undefined => {
    if (!seen || hurry?.aborted) return "settled";
    const verdict = patience.judge(assess(seen, run.service), performance.now());
    if (verdict.state === "failed") return verdict;
    const others = otherPods(seen);
    if (others.length === 0 && verdict.state === "complete") return "settled";
    const { terminationGracePeriodSeconds: grace = 30 } = seen.deployment.spec.template.spec;
    if (performance.now() - start < (grace + LEAVE_SECONDS) * 1000) return undefined;
    run.say(`still there: ${others.map(({ metadata }) => metadata.name).join(", ")}`);
    return "settled";
  });
  return ended === "settled" ? undefined : ended;
}
