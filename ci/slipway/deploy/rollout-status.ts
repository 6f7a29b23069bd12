/**
 * Assesses a rollout from observed state, with pure functions that need no cluster.
 *
 * `kubectl rollout status` waits for the whole progress deadline, although the pods often show within seconds that
 * they will not become ready. These functions read the pods instead.
 */
import type { Service } from "../core/resolve-service.ts";
import { describeEnd } from "./container-exit.ts";
import type { Condition, ContainerStatus, Pod, ReplicaSet, Workload } from "../kubernetes/objects.ts";
import { currentPods, currentReplicaSet, isReady, oldPods, type WorkloadState } from "../kubernetes/workload-state.ts";

export interface RolloutFailure {
  reason: string;
  message: string;
  /** The pod to show logs and events of. Some failures occur before there is a pod. */
  pod?: string;
}

/** A condition that may pass, and counts as a failure after `graceSeconds`. */
export interface SuspectedFailure extends RolloutFailure {
  graceSeconds: number;
}

export type RolloutVerdict =
  | { state: "complete" }
  | { state: "progressing"; detail: string; suspected: SuspectedFailure[] }
  | ({ state: "failed" } & RolloutFailure);

/** Waiting reasons of a container that do not pass by themselves. */
const FATAL_REASONS = new Set([
  "ErrImageNeverPull",
  "ImagePullBackOff",
  "InvalidImageName",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
  "CrashLoopBackOff",
]);
/** The kubelet retries a pull at once. A lasting failure becomes ImagePullBackOff. */
const PULL_GRACE_SECONDS = 5;
/**
 * A kubelet that has not read a new ConfigMap or Secret within a second reports the same reason as for a missing one,
 * and retries.
 */
const CACHE_NOT_SYNCED = /failed to sync (configmap|secret) cache/;
const CACHE_SYNC_GRACE_SECONDS = 30;

/** Messages of the scheduler about a claim that is not bound yet. */
const UNBOUND_VOLUME = /persistent ?volume/i;
const VOLUME_GRACE_SECONDS = 60;

/** Replica counts that all workload kinds have. */
export interface ReplicaCounts {
  desired: number;
  updated: number;
  /** All pods, of all versions. */
  all: number;
  available: number;
}

export function replicaCountsOf({ kind, spec, status }: Workload): ReplicaCounts {
  if (kind === "DaemonSet") {
    const { desiredNumberScheduled = 0, updatedNumberScheduled = 0 } = status;
    const { currentNumberScheduled = 0, numberAvailable = 0 } = status;
    return {
      desired: desiredNumberScheduled,
      updated: updatedNumberScheduled,
      all: currentNumberScheduled,
      available: numberAvailable,
    };
  }
  const { updatedReplicas = 0, replicas = 0, availableReplicas = 0 } = status;
  return {
    desired: spec.replicas ?? 1,
    updated: updatedReplicas,
    all: replicas,
    available: availableReplicas,
  };
}

/** Assesses the rollout of one workload: complete, progressing with suspected failures, or failed. */
export function assessWorkload(seen: WorkloadState, service: Service): RolloutVerdict {
  const { metadata, status } = seen.deployment;
  if ((status.observedGeneration ?? 0) < (metadata.generation ?? 0)) {
    return { state: "progressing", detail: "waiting for the controller", suspected: [] };
  }
  const { desired, updated, all, available } = replicaCountsOf(seen.deployment);
  if (updated === desired && all === desired && available === desired) return { state: "complete" };
  const deadline = findCondition(status.conditions, "Progressing", "False");
  if (deadline?.reason === "ProgressDeadlineExceeded" && isAboutCurrent(deadline, seen)) {
    return { state: "failed", reason: deadline.reason, message: deadline.message ?? "" };
  }
  const suspected = findSuspectedFailures(seen, service);
  const certain = suspected.find(({ graceSeconds }) => graceSeconds === 0);
  if (certain) {
    const { graceSeconds: _, ...failure } = certain;
    return { state: "failed", ...failure };
  }
  const ready = currentPods(seen).filter(isReady).length;
  const detail = `${ready} of ${desired} new pods ready, ${all} in total`;
  return { state: "progressing", detail, suspected };
}

/**
 * Returns whether all replicas of the current version are ready, so that old pods only have to leave. A Deployment counts old
 * pods until they have ended, seconds later.
 */
export function hasReplacedPods({ deployment, replicaSets, pods }: WorkloadState): boolean {
  const { kind, metadata, spec, status } = deployment;
  // The other kinds replace one pod after another, and minReadySeconds asks for more than ready pods.
  if (kind !== "Deployment" || spec.minReadySeconds || spec.replicas === 0) return false;
  if ((status.observedGeneration ?? 0) < (metadata.generation ?? 0)) return false;
  const { desired, updated } = replicaCountsOf(deployment);
  const current = currentPods({ deployment, replicaSets, pods });
  const ready = current.filter((pod) => isReady(pod) && !pod.metadata.deletionTimestamp);
  // The controller counts the pods of the new template. Before it has made any, the current pods are those of the old one.
  return updated === desired && ready.length >= desired;
}

/** Assesses several workloads together: failed if one has failed, complete if all are complete. */
export function assessWorkloads(seen: WorkloadState[], service: Service): RolloutVerdict {
  const verdicts = seen.map((workload) => ({
    name: workload.deployment.metadata.name,
    verdict: assessWorkload(workload, service),
  }));
  const failed = verdicts.find(({ verdict }) => verdict.state === "failed");
  if (failed) return failed.verdict;
  const progressing = verdicts.flatMap(({ name, verdict }) =>
    verdict.state === "progressing" ? [{ name, ...verdict }] : [],
  );
  if (progressing.length === 0) return { state: "complete" };
  const about = (name: string, detail: string) => (seen.length > 1 ? `${name}: ${detail}` : detail);
  return {
    state: "progressing",
    detail: progressing.map(({ name, detail }) => about(name, detail)).join("; "),
    suspected: progressing.flatMap(({ suspected }) => suspected),
  };
}

/**
 * Finds a container that has ended since the rollout was complete. Kubernetes restarts it at once and reports a crash
 * loop only after the second exit, possibly after the deploy has ended.
 *
 * @param completed the workloads when the rollout was complete
 */
export function findRestartSince(completed: WorkloadState[], seen: WorkloadState[]): RolloutFailure | undefined {
  const keyFor = (pod: Pod, { name }: ContainerStatus) => `${pod.metadata.name} ${name}`;
  const statuses = ({ status: { containerStatuses = [] } }: Pod) => containerStatuses;
  const restarts = new Map(
    completed
      .flatMap(currentPods)
      .flatMap((pod) => statuses(pod).map((status) => [keyFor(pod, status), status.restartCount])),
  );
  // An evicted or deleted pod is not the version's fault.
  const remaining = seen
    .flatMap(currentPods)
    .filter((pod) => !pod.metadata.deletionTimestamp && pod.status.phase !== "Failed");
  for (const pod of remaining) {
    for (const status of statuses(pod)) {
      const { name, state, lastState, restartCount } = status;
      const before = restarts.get(keyFor(pod, status));
      if (before === undefined) continue;
      const exit = state?.terminated ?? (restartCount > before ? lastState?.terminated : undefined);
      if (!exit) continue;
      const message = `${name} ${describeEnd("exited", exit, pod, name)} after it had been ready`;
      return { reason: exit.reason ?? "Exited", message, pod: pod.metadata.name };
    }
  }
  return undefined;
}

/** Returns whether the condition is about the current version: it may still be that of the previous version. */
function isAboutCurrent({ message = "" }: Condition, { deployment, replicaSets }: WorkloadState): boolean {
  const [, named] = /ReplicaSet "([^"]+)"/.exec(message) ?? [];
  const current = currentReplicaSet({ deployment, replicaSets });
  return named === undefined || named === current?.metadata.name;
}

function findSuspectedFailures(
  seen: WorkloadState,
  { readyTimeoutSeconds, scheduleTimeoutSeconds }: Service,
): SuspectedFailure[] {
  const own = currentPods(seen);
  const containers = own.flatMap((pod) => {
    const { containerStatuses = [], initContainerStatuses = [] } = pod.status;
    const suspected = [
      ...initContainerStatuses.map((status) => checkStuck(status, pod)),
      ...containerStatuses.map((status) => checkStuck(status, pod) ?? checkReady(status, readyTimeoutSeconds)),
    ];
    return suspected.flatMap((suspect) => (suspect ? [{ ...suspect, pod: pod.metadata.name }] : []));
  });

  const rejected = findReplicaFailure(seen);
  // Terminating old pods free resources, but the scheduler's retries become rarer over time.
  const grace = own.some(isReady) ? scheduleTimeoutSeconds * 4 : scheduleTimeoutSeconds;
  const unscheduled = own.filter((pod) => findCondition(pod.status.conditions, "PodScheduled", "False"));
  const unplaced: SuspectedFailure[] = unscheduled.map(({ metadata, status }) => {
    const { reason = "Unschedulable", message = "" } = findCondition(status.conditions, "PodScheduled", "False")!;
    // A provisioner may take several seconds to create a volume.
    const isVolume = UNBOUND_VOLUME.test(message);
    return {
      reason,
      message,
      pod: metadata.name,
      graceSeconds: isVolume ? Math.max(grace, VOLUME_GRACE_SECONDS) : grace,
    };
  });
  if (rejected) {
    const { reason = "ReplicaFailure", message = "" } = rejected;
    // Any other rejection is final, however many pods terminate.
    const graceSeconds = /exceeded quota/.test(message) ? grace : 0;
    unplaced.push({ reason, message, graceSeconds });
  }
  // If the new pods do not all fit at once, each terminating old pod frees resources, and old pods terminate as new
  // pods become ready. An unscheduled pod is therefore no failure while others start or terminate.
  const isMoving =
    oldPods(seen).some(({ metadata }) => metadata.deletionTimestamp) ||
    own.some((pod) => !isReady(pod) && findCondition(pod.status.conditions, "PodScheduled", "True"));
  return [...containers, ...unplaced.filter(({ graceSeconds }) => graceSeconds === 0 || !isMoving)];
}

/** Finds a container, or an init container, that waits for something that does not pass by itself. */
export function findStuckContainer(pod: Pod): RolloutFailure | undefined {
  const { containerStatuses = [], initContainerStatuses = [] } = pod.status;
  const found = [...initContainerStatuses, ...containerStatuses].flatMap((status) => checkStuck(status, pod) ?? []);
  return found.find(({ graceSeconds }) => graceSeconds === 0);
}

function checkStuck(status: ContainerStatus, pod: Pod): SuspectedFailure | undefined {
  const { name, state, lastState, restartCount } = status;
  const { waiting, terminated } = state ?? {};
  if (waiting?.reason && FATAL_REASONS.has(waiting.reason)) {
    const exit = lastState?.terminated;
    const message = exit
      ? `${name} ${describeEnd("exits", exit, pod, name)}${exit.message ? `: ${exit.message}` : ""}`
      : (waiting.message ?? "");
    return {
      reason: waiting.reason,
      message,
      graceSeconds: CACHE_NOT_SYNCED.test(message) ? CACHE_SYNC_GRACE_SECONDS : 0,
    };
  }
  if (waiting?.reason === "ErrImagePull") {
    return { reason: waiting.reason, message: waiting.message ?? "", graceSeconds: PULL_GRACE_SECONDS };
  }
  // Kubernetes reports a second exit within seconds as CrashLoopBackOff a moment later.
  if (terminated && terminated.exitCode !== 0 && restartCount >= 1) {
    const message = `${name} ${describeEnd("exits", terminated, pod, name)}`;
    return { reason: "CrashLoopBackOff", message, graceSeconds: 0 };
  }
  return undefined;
}

/** Finds a rejection of new pods. The controller also reports that of an old ReplicaSet as the Deployment's. */
function findReplicaFailure(seen: WorkloadState): Condition | undefined {
  const current = currentReplicaSet(seen);
  const isRejected = ({ status }: ReplicaSet) => findCondition(status.conditions, "ReplicaFailure", "True");
  const isOfOldSet = seen.replicaSets.some((set) => set !== current && isRejected(set));
  if (isOfOldSet) return current && isRejected(current);
  return findCondition(seen.deployment.status.conditions, "ReplicaFailure", "True");
}

function checkReady({ name, ready, state }: ContainerStatus, readySeconds: number): SuspectedFailure | undefined {
  if (ready || !state?.running) return undefined;
  const message = `${name} is running but has not passed its readiness probe for ${readySeconds} s`;
  return { reason: "NotReady", message, graceSeconds: readySeconds };
}

function findCondition(conditions: Condition[] = [], type: string, status: Condition["status"]): Condition | undefined {
  return conditions.find((condition) => condition.type === type && condition.status === status);
}

/** Returns whether `pods` contains a pod. Names are compared because Kubernetes does not reuse them. */
export function includesPod(pods: Pod[], { metadata }: Pod): boolean {
  return pods.some((pod) => pod.metadata.name === metadata.name);
}
