/**
 * Deletes the not-ready pods of a replaced version of a StatefulSet. With `podManagementPolicy: OrderedReady`, the default, the
 * controller waits for them before it creates a pod of another version, also if that is the version to roll back to.
 * https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback
 */
import { ApiError } from "../kubernetes/api-error.ts";
import type { Pod } from "../kubernetes/objects.ts";
import { isOrderedStatefulSet, isReady, oldPods, type WorkloadState } from "../kubernetes/workload-state.ts";
import type { DeployContext } from "./plan.ts";

/**
 * Creates the function to call with each observation after a write. A pod that becomes not ready later is left alone: the
 * controller replaces the pods in order, and a pod that it has not reached yet may start again meanwhile.
 */
export function stuckPodReplacer({ target: { api }, log }: DeployContext): (states: WorkloadState[]) => Promise<void> {
  /** Names of the not-ready pods after the write. A StatefulSet gives the same name to the pod that follows. */
  const stuck = new Map<string, Set<string>>();
  return async (states) => {
    for (const seen of states.filter(isOrderedAndObserved)) {
      const notReady = oldPods(seen).filter((pod) => !isReady(pod) && !pod.metadata.deletionTimestamp);
      const key = seen.deployment.metadata.name;
      const known = stuck.get(key) ?? new Set(notReady.map(({ metadata }) => metadata.name));
      stuck.set(key, known);
      for (const pod of notReady.filter(({ metadata }) => known.has(metadata.name))) {
        log(`delete pod ${pod.metadata.name}: it is of a replaced version, not ready, and holds the StatefulSet back`);
        await deletePod(pod);
      }
    }
  };

  async function deletePod({ metadata: { name, uid } }: Pod): Promise<void> {
    const body = { preconditions: { uid } };
    const path = api.collection("/api/v1", `pods/${name}`);
    await api.find(path, { method: "DELETE", body, signal: undefined }).catch((error: unknown) => {
      // The controller has replaced it meanwhile.
      if (!(error instanceof ApiError && error.status === 409)) throw error;
    });
  }
}

/** Whether the controller replaces the pods in order, and has named the version that it replaces them with. */
function isOrderedAndObserved({ deployment }: WorkloadState): boolean {
  const { metadata, status } = deployment;
  const isObserved = (status.observedGeneration ?? 0) >= (metadata.generation ?? 0);
  return isOrderedStatefulSet(deployment) && isObserved && !!status.updateRevision;
}
