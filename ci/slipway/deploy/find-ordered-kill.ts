/**
 * Finds a container that the kubelet has decided to end. A container that becomes ready meanwhile serves until its grace period is
 * over, and would pass the verification.
 */
import { ApiError } from "../kubernetes/api-error.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { Event } from "../kubernetes/objects.ts";
import { currentPods, type WorkloadState } from "../kubernetes/workload-state.ts";
import type { RolloutFailure } from "./rollout-status.ts";

/** https://github.com/kubernetes/kubernetes/blob/v1.35.3/pkg/kubelet/kuberuntime/kuberuntime_manager.go */
const KILL = /^Container (\S+) failed (liveness|startup) probe, will be restarted/;

/** @param states the workloads when they became ready */
export async function findOrderedKill(api: ApiClient, states: WorkloadState[]): Promise<RolloutFailure | undefined> {
  const query = { fieldSelector: "reason=Killing" };
  const events = await api.list<Event>(api.collection("/api/v1", "events"), query).catch((error: unknown) => {
    // Events are a hint. A role may not permit them.
    if (error instanceof ApiError && error.status === 403) return [];
    throw error;
  });
  const pods = states.flatMap(currentPods);
  for (const { reason, message = "", involvedObject, lastTimestamp, eventTime } of events) {
    const [, container, probe] = (reason === "Killing" && KILL.exec(message)) || [];
    const pod = pods.find(({ metadata }) => involvedObject.kind === "Pod" && metadata.name === involvedObject.name);
    const status = pod?.status.containerStatuses?.find(({ name }) => name === container);
    const startedAt = Date.parse(status?.state?.running?.startedAt ?? "");
    // An older event is about a container that has ended since.
    if (!pod || !(Date.parse(eventTime ?? lastTimestamp ?? "") >= startedAt)) continue;
    const text = `${container} is ready, but the kubelet has ended it already: its ${probe} probe failed while it started`;
    return { reason: "Killed", message: text, pod: pod.metadata.name };
  }
  return undefined;
}
