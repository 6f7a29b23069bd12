/** Recognizes failures from before a rollout: the same command may run again after the cause is gone. */
import type { Pod } from "../kubernetes/objects.ts";
import { currentPods, type WorkloadState } from "../kubernetes/workload-state.ts";
import type { RolloutVerdict } from "./rollout-status.ts";

/** Seconds in which the kubelet and the controllers try again by themselves. */
const RETRY_SECONDS = 30;

const restartsOf = ({ status: { containerStatuses = [], initContainerStatuses = [] } }: Pod) =>
  [...initContainerStatuses, ...containerStatuses].reduce((sum, { restartCount }) => sum + restartCount, 0);
const keyOf = (pod: Pod) => `${pod.metadata.name} ${restartsOf(pod)}`;
const deadlineOf = ({ deployment: { status } }: WorkloadState) =>
  status.conditions?.find(({ reason }) => reason === "ProgressDeadlineExceeded")?.lastTransitionTime;

/**
 * Returns whether a verdict repeats a failure that the workloads had before the rollout, and may still pass.
 *
 * @param elapsedSeconds since the rollout began
 */
export function isStaleFailure(
  verdict: RolloutVerdict,
  before: WorkloadState[],
  states: WorkloadState[],
  elapsedSeconds: number,
): boolean {
  if (verdict.state !== "failed" || elapsedSeconds >= RETRY_SECONDS) return false;
  if (verdict.reason === "ProgressDeadlineExceeded") {
    const known = before.flatMap((state) => deadlineOf(state) ?? []);
    return states.some((state) => known.includes(deadlineOf(state) ?? ""));
  }
  const known = new Set(before.flatMap(currentPods).map(keyOf));
  const pod = states.flatMap(({ pods }) => pods).find(({ metadata }) => metadata.name === verdict.pod);
  return pod !== undefined && known.has(keyOf(pod));
}
