/** What the cluster has of a service: its workloads, and which pods are whose. */
import type { ApiClient } from "./api.ts";
import type { KubeObject, Pod, ReplicaSet, Workload } from "./objects.ts";

/** One workload, the sets of pods that it has made, and the pods. */
export interface WorkloadState {
  /** A Deployment; a StatefulSet or a DaemonSet as well. */
  deployment: Workload;
  /** Of a Deployment; others have none. */
  replicaSets: ReplicaSet[];
  /** All of its pods, of whatever version. */
  pods: Pod[];
}

const REVISION = "deployment.kubernetes.io/revision";
const VERSION = "app.kubernetes.io/version";

/** Plural names of the kinds that keep pods running; all are of apps/v1. */
const workloads: Record<string, string> = {
  Deployment: "deployments",
  StatefulSet: "statefulsets",
  DaemonSet: "daemonsets",
};

/** Whether an object keeps pods running. */
export function isWorkload(object: KubeObject): object is Workload {
  return object.kind in workloads;
}

/** Names a workload, as its manifest does. */
export type WorkloadName = Pick<KubeObject, "kind"> & { metadata: Pick<KubeObject["metadata"], "name"> };

/** What a service is deployed as, where no manifest says more. */
export function defaultWorkload({ service }: ApiClient): WorkloadName {
  return { kind: "Deployment", metadata: { name: service.name } };
}

/** The workloads that are there, in the order of their names' list; the first is the one whose id counts. */
export async function observeWorkloads(
  api: ApiClient,
  names: WorkloadName[] = [defaultWorkload(api)],
): Promise<WorkloadState[]> {
  const all = { labelSelector: api.selector };
  const find = ({ kind, metadata: { name } }: WorkloadName) =>
    api.find<Workload>(api.collection("/apis/apps/v1", `${workloads[kind]}/${name}`));
  const [found, replicaSets, pods] = await Promise.all([
    Promise.all(names.map(find)),
    api.list<ReplicaSet>(api.collection("/apis/apps/v1", "replicasets"), all),
    api.list<Pod>(api.collection("/api/v1", "pods"), all),
  ]);
  return found.flatMap((deployment, i) => {
    if (!deployment) return [];
    // Objects of a list have no kind.
    const workload = { ...deployment, kind: names[i]!.kind };
    const sets = replicaSets.filter((set) => isOwned(set, workload));
    const own = pods.filter((pod) => isOwned(pod, workload) || sets.some((set) => isOwned(pod, set)));
    return [{ deployment: workload, replicaSets: sets, pods: own }];
  });
}

/** As observeAll(), of one; undefined when it is not there. */
export async function observeWorkload(
  api: ApiClient,
  name: WorkloadName = defaultWorkload(api),
): Promise<WorkloadState | undefined> {
  return (await observeWorkloads(api, [name]))[0];
}

/** By the owner's uid, where it is known; a namesake of before had another. */
function isOwned({ metadata: { ownerReferences = [] } }: KubeObject, { metadata }: KubeObject): boolean {
  return ownerReferences.some(({ name, uid }) =>
    uid !== undefined && metadata.uid !== undefined ? uid === metadata.uid : name === metadata.name,
  );
}

/** The revision of a Deployment or ReplicaSet, as `kubectl rollout history` counts them; 0 before the first. */
export function revisionOf({ metadata }: Pick<KubeObject, "metadata">): number {
  return Number(metadata.annotations?.[REVISION] ?? 0);
}

/** The id that a workload runs: its label, or the image's tag where others deployed it. */
export function runningId({ spec }: Pick<Workload, "spec">): string {
  const { metadata, spec: pod } = spec.template;
  const image = pod.containers[0]?.image ?? "";
  return metadata?.labels?.[VERSION] ?? image.slice(image.lastIndexOf(":") + 1);
}

/**
 * Pods of the version that the workload asks for now, without those that are leaving, and those that have ended: a pod that
 * was evicted is replaced, and says nothing of its version.
 */
export function currentPods(seen: WorkloadState): Pod[] {
  return seen.pods.filter((pod) => isLive(pod) && isCurrent(pod, seen));
}

/** Pods of other versions, and those that are leaving; what has ended is of no concern to anybody. */
export function oldPods(seen: WorkloadState): Pod[] {
  return seen.pods.filter((pod) => !hasEnded(pod) && !(isLive(pod) && isCurrent(pod, seen)));
}

const hasEnded = ({ metadata, status }: Pod) =>
  !metadata.deletionTimestamp && (status.phase === "Failed" || status.phase === "Succeeded");
const isLive = (pod: Pod) => !pod.metadata.deletionTimestamp && !hasEnded(pod);

function isCurrent(pod: Pod, { deployment, replicaSets }: WorkloadState): boolean {
  const { labels = {}, ownerReferences } = pod.metadata;
  if (deployment.kind === "StatefulSet") {
    return labels["controller-revision-hash"] === deployment.status.updateRevision;
  }
  if (deployment.kind === "DaemonSet") {
    const { annotations } = deployment.metadata;
    return labels["pod-template-generation"] === annotations?.["deprecated.daemonset.template.generation"];
  }
  const current = replicaSets.find((set) => revisionOf(set) === revisionOf(deployment));
  return ownerReferences?.[0]?.name === current?.metadata.name;
}

export function isReady(pod: Pod): boolean {
  return (pod.status.conditions ?? []).some(({ type, status }) => type === "Ready" && status === "True");
}
