/**
 * Decisions about a rollout, as functions over what was observed: no cluster needed to test them.
 *
 * `kubectl rollout status` waits for the whole progress deadline while the pods have said for a minute that they will
 * not come up. The pods are read here instead.
 */
import type { Service } from "../core/service-config.ts";
import type { Condition, ContainerStatus, Pod, Workload } from "../kubernetes/objects.ts";
import { isReady, oldPods, currentPods, revisionOf, type WorkloadState } from "../kubernetes/observe.ts";

export interface RolloutFailure {
  reason: string;
  message: string;
  /** The one whose logs and events tell more; some failures come before there is any. */
  pod?: string;
}

/** What does not look as if it passed by itself, and how many seconds it may go on before it counts as a failure. */
export interface SuspectedFailure extends RolloutFailure {
  patienceSeconds: number;
}

export type RolloutVerdict =
  | { state: "complete" }
  | { state: "progressing"; detail: string; doubts: SuspectedFailure[] }
  | ({ state: "failed" } & RolloutFailure);

/** Reasons for which a container waits and that do not pass by themselves. */
const hopeless = new Set([
  "ErrImageNeverPull",
  "ImagePullBackOff",
  "InvalidImageName",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
  "CrashLoopBackOff",
]);
/** A pull is tried again at once; what fails then becomes an ImagePullBackOff. */
const PULL_SECONDS = 5;
/** A kubelet that has not read a new ConfigMap or Secret within a second says so as it does of one that is not there, and tries again. */
const UNREAD = /failed to sync (configmap|secret) cache/;
const UNREAD_SECONDS = 30;

/** How far a workload is, in numbers that all kinds have. */
export interface ReplicaCounts {
  desired: number;
  updated: number;
  /** All pods, of whatever version. */
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

/** What the rollout of one workload is at: done, going on and with what doubts, or never to be done and why. */
export function assessWorkload(seen: WorkloadState, service: Service): RolloutVerdict {
  const { metadata, status } = seen.deployment;
  if ((status.observedGeneration ?? 0) < (metadata.generation ?? 0)) {
    return { state: "progressing", detail: "waiting for the controller", doubts: [] };
  }
  const { desired, updated, all, available } = replicaCountsOf(seen.deployment);
  if (updated === desired && all === desired && available === desired) return { state: "complete" };
  const late = condition(status.conditions, "Progressing", "False");
  if (late?.reason === "ProgressDeadlineExceeded" && isAboutCurrent(late, seen)) {
    return { state: "failed", reason: late.reason, message: late.message ?? "" };
  }
  const doubts = doubtsAbout(seen, service);
  const certain = doubts.find(({ patienceSeconds }) => patienceSeconds === 0);
  if (certain) {
    const { patienceSeconds: _, ...failure } = certain;
    return { state: "failed", ...failure };
  }
  const ready = currentPods(seen).filter(isReady).length;
  const detail = `${ready} of ${desired} new pods ready, ${all} in all`;
  return { state: "progressing", detail, doubts };
}

/** What several workloads are at together: failed as soon as one is, complete when all are. */
export function assessWorkloads(seen: WorkloadState[], service: Service): RolloutVerdict {
  const verdicts = seen.map((one) => ({
    name: one.deployment.metadata.name,
    verdict: assessWorkload(one, service),
  }));
  const failed = verdicts.find(({ verdict }) => verdict.state === "failed");
  if (failed) return failed.verdict;
  const going = verdicts.flatMap(({ name, verdict }) =>
    verdict.state === "progressing" ? [{ name, ...verdict }] : [],
  );
  if (going.length === 0) return { state: "complete" };
  const about = (name: string, detail: string) => (seen.length > 1 ? `${name}: ${detail}` : detail);
  return {
    state: "progressing",
    detail: going.map(({ name, detail }) => about(name, detail)).join("; "),
    doubts: going.flatMap(({ doubts }) => doubts),
  };
}

/**
 * A container that has ended since the version was up. Kubernetes starts it again at once and sees a loop in it only after the
 * second time, which may be when nobody looks any more.
 *
 * @param up how it was when it was complete
 */
export function findRestartSince(up: WorkloadState[], seen: WorkloadState[]): RolloutFailure | undefined {
  const idOf = (pod: Pod, { name }: ContainerStatus) => `${pod.metadata.name} ${name}`;
  const statuses = ({ status: { containerStatuses = [] } }: Pod) => containerStatuses;
  const restarts = new Map(
    up.flatMap(currentPods).flatMap((pod) => statuses(pod).map((one) => [idOf(pod, one), one.restartCount])),
  );
  // One that is evicted, or taken elsewhere, is no fault of the version.
  const staying = seen
    .flatMap(currentPods)
    .filter((pod) => !pod.metadata.deletionTimestamp && pod.status.phase !== "Failed");
  for (const pod of staying) {
    for (const status of statuses(pod)) {
      const { name, state, lastState, restartCount } = status;
      const before = restarts.get(idOf(pod, status));
      if (before === undefined) continue;
      const exit = state?.terminated ?? (restartCount > before ? lastState?.terminated : undefined);
      if (!exit) continue;
      const message = `${name} exited with ${exit.exitCode} after it had been ready`;
      return { reason: exit.reason ?? "Exited", message, pod: pod.metadata.name };
    }
  }
  return undefined;
}

/** The condition outlives what it is about: the deadline of the version before says nothing of this one. */
function isAboutCurrent({ message = "" }: Condition, { deployment, replicaSets }: WorkloadState): boolean {
  const [, named] = /ReplicaSet "([^"]+)"/.exec(message) ?? [];
  const current = replicaSets.find((set) => revisionOf(set) === revisionOf(deployment));
  return named === undefined || current === undefined || named === current.metadata.name;
}

/** Remembers how long each doubt has lasted, by this machine's clock: the cluster's may be another. */
export class FailureTimer {
  readonly #since = new Map<string, number>();

  /** @param now milliseconds of any steady clock */
  evaluate(verdict: RolloutVerdict, now: number): RolloutVerdict {
    if (verdict.state !== "progressing") return verdict;
    const lasting = new Set(verdict.doubts.map(keyOf));
    for (const key of this.#since.keys()) if (!lasting.has(key)) this.#since.delete(key);
    for (const doubt of verdict.doubts) {
      const since = this.#since.get(keyOf(doubt)) ?? now;
      this.#since.set(keyOf(doubt), since);
      const { patienceSeconds, ...failure } = doubt;
      if (now - since >= patienceSeconds * 1000) return { state: "failed", ...failure };
    }
    return verdict;
  }
}

function keyOf({ reason, pod = "" }: SuspectedFailure): string {
  return `${reason} ${pod}`;
}

function doubtsAbout(
  seen: WorkloadState,
  { readyTimeoutSeconds, scheduleTimeoutSeconds }: Service,
): SuspectedFailure[] {
  const own = currentPods(seen);
  const containers = own.flatMap((pod) => {
    const { containerStatuses = [], initContainerStatuses = [] } = pod.status;
    const doubts = [
      ...initContainerStatuses.map(stuck),
      ...containerStatuses.map((one) => stuck(one) ?? unready(one, readyTimeoutSeconds)),
    ];
    return doubts.flatMap((doubt) => (doubt ? [{ ...doubt, pod: pod.metadata.name }] : []));
  });

  const refused = condition(seen.deployment.status.conditions, "ReplicaFailure", "True");
  // Room that old pods make when they leave is found at the next try, and tries come ever more seldom.
  const patience = own.some(isReady) ? scheduleTimeoutSeconds * 4 : scheduleTimeoutSeconds;
  const unscheduled = own.filter((pod) => condition(pod.status.conditions, "PodScheduled", "False"));
  const without: SuspectedFailure[] = unscheduled.map(({ metadata, status }) => {
    const { reason = "Unschedulable", message = "" } = condition(status.conditions, "PodScheduled", "False")!;
    return { reason, message, pod: metadata.name, patienceSeconds: patience };
  });
  if (refused) {
    const { reason = "ReplicaFailure", message = "" } = refused;
    // Every other refusal stays one, however many pods leave.
    const patienceSeconds = /exceeded quota/.test(message) ? patience : 0;
    without.push({ reason, message, patienceSeconds });
  }
  // Where there is no room for all new pods at once, each old one that leaves makes some, and it leaves when a new one is
  // ready: so a pod without a place is of no concern while others still start or leave.
  const moving =
    oldPods(seen).some(({ metadata }) => metadata.deletionTimestamp) ||
    own.some((pod) => !isReady(pod) && condition(pod.status.conditions, "PodScheduled", "True"));
  return [...containers, ...without.filter(({ patienceSeconds }) => patienceSeconds === 0 || !moving)];
}

function stuck({ name, state, lastState, restartCount }: ContainerStatus): SuspectedFailure | undefined {
  const { waiting, terminated } = state ?? {};
  if (waiting?.reason && hopeless.has(waiting.reason)) {
    const exit = lastState?.terminated;
    const message = exit
      ? `${name} exits with ${exit.exitCode}${exit.message ? `: ${exit.message}` : ""}`
      : (waiting.message ?? "");
    return { reason: waiting.reason, message, patienceSeconds: UNREAD.test(message) ? UNREAD_SECONDS : 0 };
  }
  if (waiting?.reason === "ErrImagePull") {
    return { reason: waiting.reason, message: waiting.message ?? "", patienceSeconds: PULL_SECONDS };
  }
  // The second exit within seconds is the loop that Kubernetes calls CrashLoopBackOff a moment later.
  if (terminated && terminated.exitCode !== 0 && restartCount >= 1) {
    const message = `${name} exits with ${terminated.exitCode}`;
    return { reason: "CrashLoopBackOff", message, patienceSeconds: 0 };
  }
  return undefined;
}

function unready(
  { name, ready, state }: ContainerStatus,
  readySeconds: number,
): SuspectedFailure | undefined {
  if (ready || !state?.running) return undefined;
  const message = `${name} runs and has not passed its readiness probe for ${readySeconds} s`;
  return { reason: "NotReady", message, patienceSeconds: readySeconds };
}

function condition(
  conditions: Condition[] = [],
  type: string,
  status: Condition["status"],
): Condition | undefined {
  return conditions.find((condition) => condition.type === type && condition.status === status);
}

/** Whether a pod is one of the pods: by its name, which none that comes after it has. */
export function includesPod(pods: Pod[], { metadata }: Pod): boolean {
  return pods.some((pod) => pod.metadata.name === metadata.name);
}
