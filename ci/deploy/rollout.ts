/**
 * Decisions about a rollout, as functions over what was observed: no cluster needed to test them.
 *
 * `kubectl rollout status` waits for the whole progress deadline while the pods have said for a minute that they will
 * not come up. The pods are read here instead.
 */
import type { Condition, Deployment, Pod, ReplicaSet } from "./kubectl.ts";

export interface Observation {
  deployment: Deployment;
  replicaSets: ReplicaSet[];
  pods: Pod[];
  /** When it was observed, in milliseconds since 1970. */
  now: number;
}

export type Verdict =
  | { state: "progressing"; detail: string }
  | { state: "complete" }
  /** `pod` is the one whose logs tell more; some failures come before there is any. */
  | { state: "failed"; reason: string; message: string; pod?: string };

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

/** How long a started container may be without passing its readiness probe, in seconds. */
const NOT_READY_SECONDS = 8;
/** How long a pod may find no place, in seconds: another pod may be about to leave. */
const UNSCHEDULABLE_SECONDS = 8;

const REVISION = "deployment.kubernetes.io/revision";

/** The revision of a Deployment or ReplicaSet, as `kubectl rollout history` counts them; 0 before the first. */
export function revisionOf({ metadata }: Pick<Deployment, "metadata">): number {
  return Number(metadata.annotations?.[REVISION] ?? 0);
}

/** The tag of the image that a Deployment or ReplicaSet runs. */
export function tagOf({ spec }: Pick<Deployment, "spec">): string {
  const image = spec.template.spec.containers[0]?.image ?? "";
  return image.slice(image.lastIndexOf(":") + 1);
}

/** The ReplicaSet that serves: of those with available pods the newest. What a failed rollout goes back to. */
export function serving(replicaSets: ReplicaSet[]): ReplicaSet | undefined {
  return replicaSets
    .filter(({ status }) => (status.availableReplicas ?? 0) > 0)
    .sort((a, b) => revisionOf(b) - revisionOf(a))[0];
}

/** What a rollout is at: still going on, done, or never to be done and why. */
export function assess({ deployment, replicaSets, pods, now }: Observation): Verdict {
  const { metadata, spec, status } = deployment;
  if ((status.observedGeneration ?? 0) < (metadata.generation ?? 0)) {
    return { state: "progressing", detail: "waiting for the controller" };
  }
  const current = replicaSets.find((set) => revisionOf(set) === revisionOf(deployment));
  const own = pods.filter(
    ({ metadata }) =>
      !metadata.deletionTimestamp && metadata.ownerReferences?.[0]?.name === current?.metadata.name,
  );

  for (const pod of own) {
    const failure = failureOf(pod, now);
    if (failure) return { state: "failed", pod: pod.metadata.name, ...failure };
  }
  const refused = condition(status.conditions, "ReplicaFailure", "True");
  if (refused) {
    return { state: "failed", reason: refused.reason ?? "ReplicaFailure", message: refused.message ?? "" };
  }
  const late = condition(status.conditions, "Progressing", "False");
  if (late?.reason === "ProgressDeadlineExceeded") {
    return { state: "failed", reason: late.reason, message: late.message ?? "" };
  }

  const { updatedReplicas = 0, replicas = 0, availableReplicas = 0 } = status;
  if (
    updatedReplicas === spec.replicas &&
    replicas === spec.replicas &&
    availableReplicas === spec.replicas
  ) {
    return { state: "complete" };
  }
  const ready = own.filter((pod) => condition(pod.status.conditions, "Ready", "True")).length;
  return { state: "progressing", detail: `${ready} of ${spec.replicas} new pods ready, ${replicas} in all` };
}

function failureOf(pod: Pod, now: number): { reason: string; message: string } | undefined {
  const unscheduled = condition(pod.status.conditions, "PodScheduled", "False");
  if (unscheduled && secondsSince(unscheduled.lastTransitionTime, now) >= UNSCHEDULABLE_SECONDS) {
    return { reason: unscheduled.reason ?? "Unschedulable", message: unscheduled.message ?? "" };
  }
  for (const { ready, state, lastState, restartCount } of pod.status.containerStatuses ?? []) {
    const { waiting, running, terminated } = state ?? {};
    if (waiting?.reason && hopeless.has(waiting.reason)) {
      const exit = lastState?.terminated;
      const message = exit
        ? `exits with ${exit.exitCode}${exit.message ? `: ${exit.message}` : ""}`
        : waiting.message;
      return { reason: waiting.reason, message: message ?? "" };
    }
    // The second exit within seconds is the loop that Kubernetes calls CrashLoopBackOff a moment later.
    if (terminated && restartCount >= 1) {
      return { reason: "CrashLoopBackOff", message: `exits with ${terminated.exitCode}` };
    }
    if (running && !ready && secondsSince(running.startedAt, now) >= NOT_READY_SECONDS) {
      return {
        reason: "NotReady",
        message: `runs for ${NOT_READY_SECONDS} s and has not passed its readiness probe`,
      };
    }
  }
  return undefined;
}

function condition(
  conditions: Condition[] = [],
  type: string,
  status: Condition["status"],
): Condition | undefined {
  return conditions.find((condition) => condition.type === type && condition.status === status);
}

function secondsSince(time: string | undefined, now: number): number {
  return time === undefined ? 0 : (now - Date.parse(time)) / 1000;
}
