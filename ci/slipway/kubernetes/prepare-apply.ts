/**
 * Manifests beside what the cluster has: what is sent is what they say, but for what is somebody else's to say, the number of
 * pods that an autoscaler has chosen, and with a note on what the pipeline itself has made.
 */
import { cloneJson } from "../core/lossless-json.ts";
import { ApiError, type ApiClient } from "./api.ts";
import { objectName, type KubeObject, type Workload } from "./objects.ts";
import { isWorkload } from "./observe.ts";

/** Says which pipeline made an object, and so may delete it. */
export const CREATED_BY = "slipway/created-by";

export interface PreparedObject {
  /** What is applied. */
  object: KubeObject;
  /** What the cluster has of it; undefined: nothing. */
  live: KubeObject | undefined;
  /** undefined: the cluster does not know such a kind, or not yet. */
  path: string | undefined;
  /** Whether an autoscaler of the cluster's has its number of pods in hand. */
  scaled: boolean;
}

interface Autoscaler extends KubeObject {
  spec: { minReplicas?: number; scaleTargetRef: { kind: string; name: string } };
}

/** Looks each object up. Nothing is changed by it. */
export async function prepareForApply(api: ApiClient, manifests: KubeObject[]): Promise<PreparedObject[]> {
  const [found, there] = await Promise.all([
    Promise.all(
      manifests.map(async (object) => {
        const path = await api.findPath(object);
        return { object, path, live: path === undefined ? undefined : await api.find<KubeObject>(path) };
      }),
    ),
    autoscalers(api, manifests),
  ]);
  // Those of the manifests count before they are there.
  const own = manifests.filter(({ kind }) => kind === "HorizontalPodAutoscaler") as Autoscaler[];
  const scalers = [...own, ...there];
  return found.map(({ object, path, live }) => {
    const sent = cloneJson(object);
    if (!live || live.metadata.annotations?.[CREATED_BY] !== undefined) {
      sent.metadata.annotations = { ...sent.metadata.annotations, [CREATED_BY]: api.service.name };
    }
    if (isWorkload(sent)) keepReplicas(api, sent, live as Workload | undefined, scalerOf(sent, scalers));
    return { object: sent, path, live, scaled: scalerOf(sent, there) !== undefined };
  });
}

/** Those that the cluster has beside these workloads, whoever made them. */
async function autoscalers(api: ApiClient, manifests: KubeObject[]): Promise<Autoscaler[]> {
  if (!manifests.some(isWorkload)) return [];
  const path = api.collection("/apis/autoscaling/v2", "horizontalpodautoscalers");
  return api.list<Autoscaler>(path).catch((error: unknown) => {
    // Who may not list them, or has no such kind, has none to mind. From a server that is unwell that does not follow.
    if (error instanceof ApiError && [403, 404].includes(error.status)) return [];
    throw error;
  });
}

function scalerOf(object: KubeObject, scalers: Autoscaler[]): Autoscaler | undefined {
  return scalers.find(
    ({ spec: { scaleTargetRef: target } }) => objectName(object) === `${target.kind}/${target.name}`,
  );
}

/** An autoscaler's number stays what it is; before its first decision it is its least. */
function keepReplicas(
  { fieldManager }: ApiClient,
  own: Workload,
  live: Workload | undefined,
  scaler: Autoscaler | undefined,
): void {
  if (!scaler) return;
  if (!live) {
    own.spec.replicas = scaler.spec.minReplicas ?? 1;
    return;
  }
  // A field that is sent is owned. Where somebody else owns it as well, it stays when it is not sent any more; where
  // nobody does, it would fall back to one pod.
  const others = (live.metadata.managedFields ?? []).filter(({ manager }) => manager !== fieldManager);
  const isOthers = others.some(({ fieldsV1 }) => {
    const spec = fieldsV1?.["f:spec"] as Record<string, unknown> | undefined;
    return spec !== undefined && "f:replicas" in spec;
  });
  if (isOthers) delete own.spec.replicas;
  else if (live.spec.replicas !== undefined) own.spec.replicas = live.spec.replicas;
}
