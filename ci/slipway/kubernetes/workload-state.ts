/** Reads a service's workloads, and groups their pods into current and old. */
import type { ApiClient } from "./api.ts";
import type { KubeObject, Pod, PodSelector, ReplicaSet, Workload } from "./objects.ts";

/** A workload with its ReplicaSets and pods. */
export interface WorkloadState {
  /** The workload: a Deployment, a StatefulSet or a DaemonSet. */
  deployment: Workload;
  /** ReplicaSets of a Deployment. Empty for other kinds. */
  replicaSets: ReplicaSet[];
  /** All its pods, of all versions. */
  pods: Pod[];
}

const REVISION = "deployment.kubernetes.io/revision";
const VERSION = "app.kubernetes.io/version";

/** Plural names of the workload kinds, all of apps/v1. */
const pluralNames: Record<string, string> = {
  Deployment: "deployments",
  StatefulSet: "statefulsets",
  DaemonSet: "daemonsets",
};

/** Returns whether an object is a workload. */
export function isWorkload(object: KubeObject): object is Workload {
  return object.kind in pluralNames;
}

/** Identifies a workload, as its manifest does. */
export type WorkloadName = Pick<KubeObject, "kind"> & {
  metadata: Pick<KubeObject["metadata"], "name">;
  /** Of a manifest. If it has the selector, one request less is needed in sequence. */
  spec?: { selector?: PodSelector; replicas?: number };
};

/** Whether the controller replaces the pods in order. */
export function isOrderedStatefulSet(object: KubeObject): boolean {
  return object.kind === "StatefulSet" && (object as Partial<Workload>).spec?.podManagementPolicy !== "Parallel";
}

/** The workload to observe if no manifests are given. */
export function defaultWorkloadName({ service }: ApiClient): WorkloadName {
  return { kind: "Deployment", metadata: { name: service.name } };
}

/** Reads the workloads that exist, in the order of `names`. The first one's id counts as the deployed version. */
export async function observeWorkloads(
  api: ApiClient,
  names: WorkloadName[] = [defaultWorkloadName(api)],
): Promise<WorkloadState[]> {
  const find = ({ kind, metadata: { name } }: WorkloadName) =>
    api.find<Workload>(api.collection("/apis/apps/v1", `${pluralNames[kind]}/${name}`));
  const finding = Promise.all(names.map(find));
  const isKnown = names.every(({ spec }) => spec?.selector !== undefined);
  const selectors = new Set(
    (isKnown ? names : (await finding).filter((one) => one !== undefined)).map(
      ({ spec }) => selectorText(spec?.selector) ?? api.selector,
    ),
  );
  const list = async <T extends KubeObject>(collection: string) =>
    (await Promise.all([...selectors].map((labelSelector) => api.list<T>(collection, { labelSelector })))).flat();
  const [found, replicaSets, pods] = await Promise.all([
    finding,
    list<ReplicaSet>(api.collection("/apis/apps/v1", "replicasets")),
    list<Pod>(api.collection("/api/v1", "pods")),
  ]);
  return found.flatMap((deployment, i) => {
    if (!deployment) return [];
    // Objects in a list have no `kind`.
    const workload = { ...deployment, kind: names[i]!.kind };
    const sets = replicaSets.filter((set) => isOwned(set, workload));
    const ownPods = pods.filter((pod) => isOwned(pod, workload) || sets.some((set) => isOwned(pod, set)));
    return [{ deployment: workload, replicaSets: sets, pods: ownPods }];
  });
}

/** Writes a selector as a query. Undefined if there is none, as in old stored versions. */
export function selectorText({ matchLabels = {}, matchExpressions = [] }: PodSelector = {}): string | undefined {
  const terms = [
    ...Object.entries(matchLabels).map(([key, value]) => `${key}=${value}`),
    ...matchExpressions.map(({ key, operator, values = [] }) => {
      if (operator === "Exists") return key;
      if (operator === "DoesNotExist") return `!${key}`;
      return `${key} ${operator === "In" ? "in" : "notin"} (${values.join(",")})`;
    }),
  ];
  return terms.length > 0 ? terms.join(",") : undefined;
}

/** Compares the owner's uid if it is known: a deleted namesake had another uid. */
function isOwned({ metadata: { ownerReferences = [] } }: KubeObject, { metadata }: KubeObject): boolean {
  return ownerReferences.some(({ name, uid }) =>
    uid !== undefined && metadata.uid !== undefined ? uid === metadata.uid : name === metadata.name,
  );
}

/** Returns the revision as `kubectl rollout history` counts it. 0 before the first. */
export function revisionOf({ metadata }: Pick<KubeObject, "metadata">): number {
  return Number(metadata.annotations?.[REVISION] ?? 0);
}

/** Returns the id that a workload runs: its version label, or the image's tag if others deployed it. */
export function runningId({ spec }: Pick<Workload, "spec">): string {
  const { metadata, spec: pod } = spec.template;
  const image = pod.containers[0]?.image ?? "";
  return metadata?.labels?.[VERSION] ?? image.slice(image.lastIndexOf(":") + 1);
}

/**
 * Returns the pods of the workload's current version that are neither terminating nor ended. An evicted pod, for
 * example, is replaced and says nothing about its version.
 */
export function currentPods(seen: WorkloadState): Pod[] {
  return seen.pods.filter((pod) => isLive(pod) && isCurrent(pod, seen));
}

/** Returns the pods of other versions and the terminating pods, without those that have ended. */
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
  const current = currentReplicaSet({ deployment, replicaSets });
  return current !== undefined && ownerReferences?.[0]?.name === current.metadata.name;
}

/**
 * Finds the ReplicaSet of a Deployment's pod template, as the controller does. The Deployment's revision is that of the previous
 * template until the controller creates the new ReplicaSet. With `strategy: Recreate` it waits for the end of the old pods first.
 *
 * @returns undefined if the controller has not created it yet
 */
export function currentReplicaSet({
  deployment,
  replicaSets,
}: Pick<WorkloadState, "deployment" | "replicaSets">): ReplicaSet | undefined {
  const wanted = comparableTemplate(deployment);
  const matching = replicaSets.filter((set) => Bun.deepEquals(comparableTemplate(set), wanted));
  return matching.find((set) => revisionOf(set) === revisionOf(deployment)) ?? matching[0];
}

/** A pod template without the label that the controller adds, and without nulls, which mean an absent field. */
function comparableTemplate({ spec: { template } }: Pick<Workload, "spec">): unknown {
  return JSON.parse(JSON.stringify(template), (key, value) =>
    value === null || key === "pod-template-hash" ? undefined : value,
  );
}

export function isReady(pod: Pod): boolean {
  return (pod.status.conditions ?? []).some(({ type, status }) => type === "Ready" && status === "True");
}
