/**
 * A version on its way: written, followed until it is up or will not be, verified from outside, and waited for until the
 * pods of the version before have left.
 */
import type { StepResult } from "../core/report.ts";
import type { Pod } from "../kubernetes/objects.ts";
import { observeWorkloads, oldPods, type WorkloadState, type WorkloadName } from "../kubernetes/observe.ts";
import type { DeployContext } from "./plan.ts";
import {
  assessWorkloads,
  findRestartSince,
  includesPod,
  FailureTimer,
  type RolloutFailure,
  type RolloutVerdict,
} from "./rollout-status.ts";
import { monitorAvailability, type AvailabilityReport } from "./availability.ts";
import { verifyVersion, type Endpoint } from "./verify.ts";

/** Milliseconds between two looks at a rollout, and at one that is far. */
const LOOK_MS = 100;
const FAR_LOOK_MS = 300;
/** Seconds that pods of the version before may take to leave, beyond their grace period. */
const LEAVE_SECONDS = 15;

/** What a deploy came to. */
export interface RolloutResult {
  /** Seconds from the apply until 20 replies in a row carried the id. */
  servedAfter: number;
  /** When that was, in milliseconds since 1970. */
  servedAt: number;
  /** What clients saw from the apply on; undefined at the first deploy. */
  samples: AvailabilityReport | undefined;
}

/** A version that did not come up, or does not answer. */
export class RolloutFailed extends Error {
  constructor(
    readonly failure: RolloutFailure,
    readonly samples?: AvailabilityReport,
  ) {
    super(`${failure.reason}${failure.message && `, ${failure.message}`}`);
  }
}

export interface RolloutOptions {
  id: string;
  /** What the step is called. */
  stepName: "rollout" | "rollback";
  /** The workloads that are waited for. */
  workloads: WorkloadName[];
  /** Writes it into the cluster. */
  write(): Promise<void>;
  endpoint: Endpoint;
  /** What there was; none: nobody was served, whose requests could fail. */
  before: WorkloadState[];
  /** Ends the wait for the last pods of the version before. */
  skipWait?: AbortSignal | undefined;
}

/**
 * Writes a version, follows its rollout, verifies it, and waits for the pods of the version before to leave.
 *
 * @throws {RolloutFailed}
 */
export async function rollOut(context: DeployContext, bringing: RolloutOptions): Promise<RolloutResult> {
  const { signal, step } = context;
  const { id, stepName, write, endpoint, before, skipWait } = bringing;
  const stop = before.length > 0 ? monitorAvailability(endpoint, id) : undefined;
  const start = performance.now();
  let up: WorkloadState[] = [];
  const fail = async (failure: RolloutFailure) => new RolloutFailed(failure, await stop?.());
  try {
    await step(stepName, async () => {
      await write();
      const verdict = await watch(context, bringing, (seen) => void (up = seen));
      if (verdict.state === "failed") throw await fail(verdict);
      return { value: undefined };
    });
    const [servedAt, servedAfter] = await step("verify", async (): Promise<StepResult<[number, number]>> => {
      const { ok, last } = await verifyVersion(endpoint, id, { signal });
      const seconds = (performance.now() - start) / 1000;
      const detail = `20 replies in a row carry ${id}, ${seconds.toFixed(1)} s after the apply`;
      if (ok) return { value: [Date.now(), seconds], detail };
      const message = `pods are ready, but ${endpoint.url} does not answer with ${id} (last: ${last})`;
      throw await fail({ reason: "NotServed", message });
    });
    await step("settle", async () => {
      const failure = await settle(context, bringing, up);
      if (failure) throw await fail(failure);
      return { value: undefined, detail: skipWait?.aborted ? "" : "the pods before are gone" };
    });
    return { servedAfter, servedAt, samples: await stop?.() };
  } finally {
    await stop?.();
  }
}

/** Looks again and again until `decide` gives something. A server that is away for a moment is asked again by the API. */
async function follow<T>(
  { target, signal }: DeployContext,
  { workloads, endpoint }: RolloutOptions,
  decide: (seen: WorkloadState[]) => T | undefined,
): Promise<T> {
  for (;;) {
    signal.throwIfAborted();
    const decision = decide(await observeWorkloads(target.api, workloads));
    if (decision !== undefined) return decision;
    await Bun.sleep(endpoint.isRemote ? FAR_LOOK_MS : LOOK_MS);
  }
}

/** Follows the rollout until it is complete or cannot be. */
function watch(
  context: DeployContext,
  bringing: RolloutOptions,
  completed: (seen: WorkloadState[]) => void,
): Promise<Exclude<RolloutVerdict, { state: "progressing" }>> {
  const { service } = context;
  const end = performance.now() + service.rolloutTimeoutSeconds * 1000;
  const patience = new FailureTimer();
  let shown = "";
  return follow(context, bringing, (seen) => {
    const gone = bringing.workloads.find(
      ({ kind, metadata }) =>
        !seen.some(
          ({ deployment }) => deployment.kind === kind && deployment.metadata.name === metadata.name,
        ),
    );
    if (gone) {
      const message = `the ${gone.kind} ${gone.metadata.name} was deleted meanwhile`;
      return { state: "failed", reason: "Deleted", message };
    }
    const verdict = patience.evaluate(assessWorkloads(seen, service), performance.now());
    if (verdict.state === "complete") completed(seen);
    if (verdict.state !== "progressing") return verdict;
    if (verdict.detail !== shown) context.log((shown = verdict.detail));
    if (performance.now() < end) return undefined;
    const message = `not complete within ${service.rolloutTimeoutSeconds} s (${shown})`;
    return { state: "failed", reason: "Timeout", message };
  });
}

/** Waits until the pods of the version before have left, and sees whether the new ones hold out meanwhile. @param up how those were */
async function settle(
  context: DeployContext,
  bringing: RolloutOptions,
  up: WorkloadState[],
): Promise<RolloutFailure | undefined> {
  const { service } = context;
  const patience = new FailureTimer();
  const start = performance.now();
  // What was on its way out, or hung there, before this began is not waited for.
  const hung = bringing.before.flatMap(({ pods }) =>
    pods.filter(({ metadata }) => metadata.deletionTimestamp),
  );
  const ended = await follow(context, bringing, (seen): RolloutFailure | "settled" | undefined => {
    if (seen.length === 0 || bringing.skipWait?.aborted) return "settled";
    const verdict = patience.evaluate(assessWorkloads(seen, service), performance.now());
    const failure = verdict.state === "failed" ? verdict : findRestartSince(up, seen);
    if (failure) return failure;
    const others = seen.flatMap(oldPods).filter((pod: Pod) => !includesPod(hung, pod));
    if (others.length === 0 && verdict.state === "complete") return "settled";
    const graces = seen.map(
      ({ deployment }) => deployment.spec.template.spec.terminationGracePeriodSeconds ?? 30,
    );
    if (performance.now() - start < (Math.max(...graces) + LEAVE_SECONDS) * 1000) return undefined;
    context.log(`still there: ${others.map(({ metadata }) => metadata.name).join(", ")}`);
    return "settled";
  });
  return ended === "settled" ? undefined : ended;
}
