/**
 * Prepares manifests for apply: looks up the live objects, keeps the replicas that an autoscaler has set, and adds
 * the created-by annotation to new objects.
 */
import { cloneJson } from "../core/lossless-json.ts";
import { ApiError } from "./api-error.ts";
import type { ApiClient } from "./api.ts";
import { isFormerManager } from "./hand-over-fields.ts";
import { objectName, type KubeObject, type Workload } from "./objects.ts";
import { yieldSharedLabels } from "./shared-labels.ts";
import { isWorkload } from "./workload-state.ts";

/** Annotation with the pipeline that created an object. Only such objects are ever deleted. */
export const CREATED_BY = "slipway/created-by";

/** Annotation with the project that an object belongs to, see core/project-identity.ts. */
export const PROJECT = "slipway/project";

/** Objects that serve a version bear their project. Others, such as a Namespace, may be shared by projects. */
export function bearsIdentity(object: KubeObject): boolean {
  return object.kind === "Service" || isWorkload(object);
}

export interface PreparedObject {
  /** The object to apply. */
  object: KubeObject;
  /** The object in the cluster. Undefined if it does not exist. */
  live: KubeObject | undefined;
  /** The API path. Undefined if the cluster does not have the kind, or not yet. */
  path: string | undefined;
  /** True if an autoscaler in the cluster sets its replicas. */
  scaled: boolean;
}

interface Autoscaler extends KubeObject {
  spec: { minReplicas?: number; scaleTargetRef: { kind: string; name: string } };
}

/** Looks up each object and returns what to apply. Changes nothing in the cluster. */
export async function prepareForApply(api: ApiClient, manifests: KubeObject[]): Promise<PreparedObject[]> {
  const [found, liveScalers] = await Promise.all([
    Promise.all(
      manifests.map(async (object) => {
        const path = await api.findPath(object);
        return { object, path, live: path === undefined ? undefined : await api.find<KubeObject>(path) };
      }),
    ),
    listAutoscalers(api, manifests),
  ]);
  // Autoscalers in the manifests count before they are applied.
  const newScalers = manifests.filter(({ kind }) => kind === "HorizontalPodAutoscaler") as Autoscaler[];
  const scalers = [...newScalers, ...liveScalers];
  return found.map(({ object, path, live }) => {
    const prepared = cloneJson(object);
    if (live && object.kind === "Namespace") yieldSharedLabels(prepared, live, api.fieldManager);
    const creator = live?.metadata.annotations?.[CREATED_BY];
    if (!live || creator === api.service.name || (creator !== undefined && object.kind !== "Namespace")) {
      prepared.metadata.annotations = { ...prepared.metadata.annotations, [CREATED_BY]: api.service.name };
    }
    const { identity } = api.service;
    if (identity !== undefined && bearsIdentity(prepared)) {
      prepared.metadata.annotations = { ...prepared.metadata.annotations, [PROJECT]: identity };
    }
    if (isWorkload(prepared)) keepReplicas(api, prepared, live as Workload | undefined, scalerOf(prepared, scalers));
    return { object: prepared, path, live, scaled: scalerOf(prepared, liveScalers) !== undefined };
  });
}

/** Lists all autoscalers of the namespace, also those of others. */
async function listAutoscalers(api: ApiClient, manifests: KubeObject[]): Promise<Autoscaler[]> {
  if (!manifests.some(isWorkload)) return [];
  const path = api.collection("/apis/autoscaling/v2", "horizontalpodautoscalers");
  return api.list<Autoscaler>(path).catch((error: unknown) => {
    // Without the right to list them, or without the kind, there is none to respect. A server error does not mean
    // that.
    if (error instanceof ApiError && [403, 404].includes(error.status)) return [];
    throw error;
  });
}

function scalerOf(object: KubeObject, scalers: Autoscaler[]): Autoscaler | undefined {
  return scalers.find(({ spec: { scaleTargetRef: target } }) => objectName(object) === `${target.kind}/${target.name}`);
}

/** Keeps the autoscaler's current replicas. Before its first decision, sets its minimum. */
function keepReplicas(
  { fieldManager }: ApiClient,
  workload: Workload,
  live: Workload | undefined,
  scaler: Autoscaler | undefined,
): void {
  if (!scaler) return;
  if (!live) {
    workload.spec.replicas = scaler.spec.minReplicas ?? 1;
    return;
  }
  // A field that is sent is owned. If another manager owns it too, it stays when it is no longer sent. Otherwise it
  // would fall back to one pod.
  const otherManagers = (live.metadata.managedFields ?? []).filter(
    (entry) => entry.manager !== fieldManager && !isFormerManager(entry),
  );
  const isOwnedByOther = otherManagers.some(({ fieldsV1 }) => {
    const spec = fieldsV1?.["f:spec"] as Record<string, unknown> | undefined;
    return spec !== undefined && "f:replicas" in spec;
  });
  if (isOwnedByOther) delete workload.spec.replicas;
  else if (live.spec.replicas !== undefined) workload.spec.replicas = live.spec.replicas;
}
