/**
 * Rollout of a version in three steps: apply and wait until its pods are ready, verify from outside, wait until the old pods are gone.
 */
import type { StepResult } from "../core/step-report.ts";
import type { Pod } from "../kubernetes/objects.ts";
import {
  currentPods,
  observeWorkloads,
  oldPods,
  type WorkloadName,
  type WorkloadState,
} from "../kubernetes/workload-state.ts";
import { monitorAvailability, type AvailabilityReport } from "./availability.ts";
import { FailureTimer } from "./failure-timer.ts";
import { findOrderedKill } from "./find-ordered-kill.ts";
import { reportMissingFiles } from "./missing-files.ts";
import type { DeployContext } from "./plan.ts";
import { stuckPodReplacer } from "./replace-stuck-pods.ts";
import {
  assessWorkload,
  assessWorkloads,
  findRestartSince,
  includesPod,
  hasReplacedPods,
  replicaCountsOf,
  type RolloutFailure,
  type RolloutVerdict,
} from "./rollout-status.ts";
import { isStaleFailure } from "./stale-failures.ts";
import { describeVerified, verifyVersion, type Endpoint } from "./verify-from-outside.ts";

/** Milliseconds between two polls of a rollout on this machine, and of a remote one. */
const POLL_MS = 100;
const REMOTE_POLL_MS = 300;
/** Seconds that old pods may take to terminate, beyond their grace period. */
const TERMINATION_TIMEOUT_SECONDS = 15;

export interface RolloutOptions {
  id: string;
  /** The workloads that have to become ready. */
  workloads: WorkloadName[];
  /** Applies the version to the cluster. */
  write(): Promise<void>;
  endpoint: Endpoint;
  /** The workloads before the rollout. Empty on a first deploy, which has no client to monitor. */
  before: WorkloadState[];
}

/** A version that failed to become ready, to answer, or to stay healthy. */
export class RolloutFailed extends Error {
  constructor(
    readonly failure: RolloutFailure,
    readonly availability?: AvailabilityReport,
  ) {
    super(`${failure.reason}${failure.message && `, ${failure.message}`}`);
  }
}

/** A rollout whose pods are ready. */
export interface ReadyRollout {
  /** The workloads when they became ready. */
  ready: WorkloadState[];
  /** Start of the rollout, on performance.now()'s clock in milliseconds. */
  start: number;
  /** Stops the clients and returns their report. Undefined on a first deploy. */
  stopMonitor: (() => Promise<AvailabilityReport>) | undefined;
}

/** The time when a version was first served. */
export interface ServedVersion {
  /** Seconds from the apply until 20 replies in a row carried the id. */
  servedAfter: number;
  /** The same moment in milliseconds since 1970. */
  servedAt: number;
}

/**
 * Applies a version and waits until its pods are ready.
 *
 * @throws {RolloutFailed}
 */
export async function applyAndWaitUntilReady(
  context: DeployContext,
  options: RolloutOptions,
): Promise<StepResult<ReadyRollout>> {
  const { endpoint, before, id, write, workloads } = options;
  // Without pods before or after, no client expects a reply.
  // A worker has no clients at all.
  const isServing =
    !endpoint.observe && before.length > 0 && !isScaledToZero(before) && workloads[0]?.spec?.replicas !== 0;
  const stopMonitor = isServing ? monitorAvailability(endpoint, id) : undefined;
  const start = performance.now();
  let ready: WorkloadState[] = [];
  try {
    await write();
    const verdict = await waitUntilReady(context, options, (workloads) => void (ready = workloads));
    if (verdict.state === "failed") throw new RolloutFailed(verdict, await stopMonitor?.());
    return { value: { ready, start, stopMonitor } };
  } catch (error) {
    await stopMonitor?.();
    throw error;
  }
}

/** Says that a version has no pods, so that no reply is expected. */
export const SCALED_TO_ZERO = "scaled to 0, nothing to verify";

/** Returns whether the main workload is meant to have no pods. */
export function isScaledToZero([main]: WorkloadState[]): boolean {
  return main !== undefined && replicaCountsOf(main.deployment).desired === 0;
}

/**
 * Requests the version from outside until 20 replies in a row carry its id. The pods of a worker have to stay up.
 *
 * @throws {RolloutFailed} after 30 s, or if a container of a worker ends
 */
export async function verifyRollout(
  context: DeployContext,
  { endpoint, id }: RolloutOptions,
  { ready, start, stopMonitor }: ReadyRollout,
): Promise<StepResult<ServedVersion>> {
  if (isScaledToZero(ready)) {
    const servedAfter = (performance.now() - start) / 1000;
    return { value: { servedAt: Date.now(), servedAfter }, detail: SCALED_TO_ZERO };
  }
  const { ok, last, failure } = await verifyVersion(endpoint, id, { since: ready, signal: context.signal });
  const servedAfter = (performance.now() - start) / 1000;
  if (ok) await reportMissingFiles(context, ready.flatMap(currentPods));
  const detail = `${describeVerified(endpoint, id)}, ${servedAfter.toFixed(1)} s after the apply`;
  if (ok) return { value: { servedAt: Date.now(), servedAfter }, detail };
  const message = endpoint.observe
    ? `pods were ready, but do not stay up: ${last}`
    : `pods are ready, but ${endpoint.url} does not answer with ${id} (last: ${last})`;
  throw new RolloutFailed(failure ?? { reason: "NotServed", message }, await stopMonitor?.());
}

/**
 * Waits until the old pods are gone, and checks that the new ones stay healthy meanwhile.
 *
 * @param skipWait ends the wait
 * @returns the clients' report from the apply to now, undefined on a first deploy
 * @throws {RolloutFailed}
 */
export async function waitForOldPods(
  context: DeployContext,
  options: RolloutOptions,
  { ready, stopMonitor }: ReadyRollout,
  skipWait?: AbortSignal,
): Promise<StepResult<AvailabilityReport | undefined>> {
  const failure =
    (await findOrderedKill(context.target.api, ready)) ?? (await findLateFailure(context, options, ready, skipWait));
  if (failure) throw new RolloutFailed(failure, await stopMonitor?.());
  return { value: await stopMonitor?.(), detail: skipWait?.aborted ? "" : "the old pods are gone" };
}

/**
 * Polls the workloads until `decide` returns a decision. The API client retries if the server is away for a moment.
 *
 * @param react called with each observation before `decide`
 */
async function pollWorkloads<T>(
  { target, signal }: DeployContext,
  { workloads, endpoint }: RolloutOptions,
  decide: (states: WorkloadState[]) => T | undefined,
  react?: (states: WorkloadState[]) => Promise<void>,
): Promise<T> {
  for (;;) {
    signal.throwIfAborted();
    const states = await observeWorkloads(target.api, workloads);
    await react?.(states);
    const decision = decide(states);
    if (decision !== undefined) return decision;
    await Bun.sleep(endpoint.isRemote ? REMOTE_POLL_MS : POLL_MS);
  }
}

function waitUntilReady(
  context: DeployContext,
  options: RolloutOptions,
  onReady: (states: WorkloadState[]) => void,
): Promise<Exclude<RolloutVerdict, { state: "progressing" }>> {
  const { service, log } = context;
  const start = performance.now();
  const end = start + service.rolloutTimeoutSeconds * 1000;
  const timer = new FailureTimer();
  let shown = "";
  const decide = (states: WorkloadState[]): Exclude<RolloutVerdict, { state: "progressing" }> | undefined => {
    const deleted = options.workloads.find(
      ({ kind, metadata }) =>
        !states.some(({ deployment }) => deployment.kind === kind && deployment.metadata.name === metadata.name),
    );
    if (deleted) {
      const message = `the ${deleted.kind} ${deleted.metadata.name} was deleted during the rollout`;
      return { state: "failed", reason: "Deleted", message };
    }
    const assessed: RolloutVerdict = states.every(
      (seen) => hasReplacedPods(seen) || assessWorkload(seen, service).state === "complete",
    )
      ? { state: "complete" }
      : assessWorkloads(states, service);
    const verdict = timer.evaluate(assessed, performance.now());
    const elapsedSeconds = (performance.now() - start) / 1000;
    if (isStaleFailure(verdict, options.before, states, elapsedSeconds)) return undefined;
    if (verdict.state === "complete") onReady(states);
    if (verdict.state !== "progressing") return verdict;
    if (verdict.detail !== shown) log((shown = verdict.detail));
    if (performance.now() < end) return undefined;
    const message = `not complete within ${service.rolloutTimeoutSeconds} s (${shown})`;
    return { state: "failed", reason: "Timeout", message };
  };
  return pollWorkloads(context, options, decide, stuckPodReplacer(context));
}

/** Waits until the old pods are gone. @returns a failure of the new ones, if there is any */
async function findLateFailure(
  context: DeployContext,
  options: RolloutOptions,
  ready: WorkloadState[],
  skipWait: AbortSignal | undefined,
): Promise<RolloutFailure | undefined> {
  const { service, log } = context;
  const timer = new FailureTimer();
  const start = performance.now();
  // Pods that were terminating before the rollout began may hang for other reasons.
  const terminatingBefore = options.before.flatMap(({ pods }) =>
    pods.filter(({ metadata }) => metadata.deletionTimestamp),
  );
  const result = await pollWorkloads(context, options, (states): RolloutFailure | "done" | undefined => {
    if (states.length === 0 || skipWait?.aborted) return "done";
    const verdict = timer.evaluate(assessWorkloads(states, service), performance.now());
    const failure = verdict.state === "failed" ? verdict : findRestartSince(ready, states);
    if (failure) return failure;
    const remaining = states.flatMap(oldPods).filter((pod: Pod) => !includesPod(terminatingBefore, pod));
    if (remaining.length === 0 && verdict.state === "complete") return "done";
    const gracePeriods = states.map(
      ({ deployment }) => deployment.spec.template.spec.terminationGracePeriodSeconds ?? 30,
    );
    const timeoutSeconds = Math.max(...gracePeriods) + TERMINATION_TIMEOUT_SECONDS;
    if (performance.now() - start < timeoutSeconds * 1000) return undefined;
    log(`still terminating: ${remaining.map(({ metadata }) => metadata.name).join(", ")}`);
    return "done";
  });
  return result === "done" ? undefined : result;
}
