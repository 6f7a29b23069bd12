/** Applies manifests, restores objects to their previous state, and deletes obsolete objects. */
import { PipelineError } from "../core/errors.ts";
import { ApiError } from "./api-error.ts";
import type { ApiClient, ApiRequest } from "./api.ts";
import { explainRejection } from "./diff.ts";
import { handOverFields } from "./hand-over-fields.ts";
import { CREATED_BY, prepareForApply, type PreparedObject } from "./prepare-for-apply.ts";
import { objectName, type KubeObject, type Workload } from "./objects.ts";

/** Kinds whose deletion would also delete data or objects of others. They are never deleted automatically. */
const neverDeleted = new Set(["Namespace", "CustomResourceDefinition", "PersistentVolumeClaim", "PersistentVolume"]);

/** Seconds that the server may take to serve a kind after its definition is applied. */
const DISCOVERY_TIMEOUT_SECONDS = 20;

/**
 * Applies all objects in order. It is not interruptible: half a version must not stay.
 *
 * @throws {PipelineError} "project" if the server rejects an object. The objects before it are applied by then
 */
export async function applyInOrder(api: ApiClient, prepared: PreparedObject[]): Promise<void> {
  for (const { object, path, live, scaled } of prepared) {
    if (path === undefined) await waitForKind(api, object);
    else if (live) await handOverFields(api, path, live);
    // The autoscaler may have changed the replicas while a pre-deploy Job ran.
    const [current = { object }] = scaled ? await prepareForApply(api, [object]) : [];
    await api.apply(current.object).catch((error: unknown) => {
      throw explainRejection("apply", object, error);
    });
  }
}

async function waitForKind(api: ApiClient, object: KubeObject): Promise<void> {
  const end = performance.now() + DISCOVERY_TIMEOUT_SECONDS * 1000;
  while ((await api.findPath(object)) === undefined && performance.now() < end) await Bun.sleep(200);
}

/**
 * Restores changed objects and deletes new ones, except for the kinds that are never deleted.
 *
 * @param before the objects before the change, from prepareForApply()
 * @returns names of the objects that were not deleted
 */
export async function restoreObjects(api: ApiClient, before: PreparedObject[]): Promise<string[]> {
  const kept: string[] = [];
  // In reverse order: pods before the objects that they need.
  for (const { object, live, scaled } of [...before].reverse()) {
    const path = await api.findPath(object);
    if (path === undefined) continue;
    if (live) await restoreObject(api, path, live, scaled);
    else if (neverDeleted.has(object.kind)) kept.push(objectName(object));
    else await api.delete(object);
  }
  return kept;
}

/** Attempts of a write that conflicts with another writer. */
const MAX_ATTEMPTS = 5;

/**
 * Replaces an object with its previous state, field owners (managedFields) included. Without the owners, the next
 * apply could not remove fields that the pipeline had set.
 *
 * @param scaled whether an autoscaler sets the replicas. Its current number is kept
 */
async function restoreObject(api: ApiClient, path: string, live: KubeObject, scaled: boolean): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const current = await api.find<KubeObject>(path);
    if (current && current.metadata.resourceVersion === live.metadata.resourceVersion) return;
    try {
      const request: ApiRequest = {
        query: { fieldManager: api.fieldManager },
        signal: undefined,
        retryBudgetSeconds: api.retryBudgetSeconds,
      };
      if (!current) {
        const collection = path.slice(0, path.lastIndexOf("/"));
        await api.json(collection, { ...request, method: "POST", body: restoredObject(live) });
        return;
      }
      const body: KubeObject & { spec?: object } = restoredObject(live, current);
      if (scaled) body.spec = { ...body.spec, replicas: (current as Workload).spec.replicas };
      await api.json(path, { ...request, method: "PUT", body });
      const { managedFields } = live.metadata;
      if (!managedFields) return;
      const patch = [{ op: "replace", path: "/metadata/managedFields", value: managedFields }];
      const contentType = "application/json-patch+json";
      await api.json(path, { ...request, method: "PATCH", contentType, body: patch });
      return;
    } catch (error) {
      const isConflict = error instanceof ApiError && [404, 409].includes(error.status);
      if (!isConflict || attempt === MAX_ATTEMPTS) throw error;
    }
  }
}

/**
 * Builds the object to write.
 *
 * @param current the object to replace. Default: the object is created again
 */
function restoredObject(live: KubeObject, current?: KubeObject): KubeObject {
  const { status: _, ...object } = live as KubeObject & { status?: unknown };
  const {
    uid: _uid,
    resourceVersion: _version,
    creationTimestamp: _time,
    managedFields: _fields,
    ...rest
  } = object.metadata;
  const { generation: _generation, ...metadata } = rest;
  // The controller counts revisions up. An old number would confuse it.
  const revision = "deployment.kubernetes.io/revision";
  const currentRevision = current?.metadata.annotations?.[revision];
  const annotations = {
    ...metadata.annotations,
    ...(currentRevision !== undefined && { [revision]: currentRevision }),
  };
  const identity = current && {
    resourceVersion: current.metadata.resourceVersion!,
    uid: current.metadata.uid!,
  };
  return {
    ...object,
    metadata: { ...metadata, ...(Object.keys(annotations).length > 0 && { annotations }), ...identity },
  };
}

/**
 * Deletes objects of the old manifests that the new manifests no longer contain, if the pipeline created them.
 *
 * @param needed names of objects that stored versions need, `Kind/name`
 * @returns the deleted objects, and the remaining ones: created by others, or of a kind that is never deleted
 */
export async function prune(
  api: ApiClient,
  before: KubeObject[],
  after: KubeObject[],
  needed: ReadonlySet<string> = new Set(),
): Promise<{ deleted: string[]; left: string[] }> {
  const { ours, left } = await findObsolete(api, before, after, needed);
  for (const object of ours) await api.delete(object);
  return { deleted: ours.map(objectName), left };
}

/** Finds the objects that prune() deletes, and the names of those that it leaves. The parameters are the same. */
export async function findObsolete(
  api: ApiClient,
  before: KubeObject[],
  after: KubeObject[],
  needed: ReadonlySet<string> = new Set(),
): Promise<{ ours: KubeObject[]; left: string[] }> {
  const keyIn = (object: KubeObject) => keyOf(object, api.service.namespace);
  const wanted = new Set(after.map(keyIn));
  const obsolete = new Map(
    before.flatMap((object) =>
      wanted.has(keyIn(object)) || needed.has(objectName(object)) ? [] : [[keyIn(object), object] as const],
    ),
  );
  const found = (await prepareForApply(api, [...obsolete.values()])).filter(({ live }) => live);
  const isOurs = ({ object: { kind }, live }: PreparedObject) =>
    live?.metadata.annotations?.[CREATED_BY] === api.service.name && !neverDeleted.has(kind);
  return {
    ours: found.filter(isOurs).map(({ object }) => object),
    left: found.filter((one) => !isOurs(one)).map(({ object }) => objectName(object)),
  };
}

/** Identifies an object across API versions. Objects without a namespace are in the service's. */
function keyOf({ apiVersion, kind, metadata }: KubeObject, defaultNamespace: string): string {
  const { namespace = defaultNamespace, name } = metadata;
  return [apiVersion.replace(/\/?[^/]*$/, ""), kind, namespace, name].join(" ");
}

/** Reads live objects as manifests to restore later, without the fields that the server writes. */
export async function snapshotObjects(api: ApiClient, manifests: KubeObject[]): Promise<KubeObject[]> {
  const found = await prepareForApply(api, manifests);
  return found.flatMap(({ live }) => {
    if (!live) return [];
    const { metadata, status: _, ...rest } = live as KubeObject & { status?: unknown };
    const { name, namespace, labels } = metadata;
    const annotations = Object.entries(metadata.annotations ?? {}).filter(
      ([name]) => !/^(deployment\.)?kubernetes\.io\/|^kubectl\./.test(name),
    );
    return [
      {
        ...rest,
        metadata: {
          name,
          ...(namespace && { namespace }),
          ...(labels && { labels }),
          ...(annotations.length > 0 && { annotations: Object.fromEntries(annotations) }),
        },
      },
    ];
  });
}

/**
 * Builds the "partial" error for a failed rollback: the state of the cluster, and the command that continues.
 *
 * @param state of the cluster, as the beginning of the message
 * @param resumeHint how to continue. Default: RESUME_HINT
 * @throws the error unchanged if it is an interruption or a bug
 */
export function createPartialFailure(
  state: string,
  error: unknown,
  signal: AbortSignal,
  resumeHint = RESUME_HINT,
): PipelineError {
  // If the lock was lost, that is the reason, and its state must be reported too.
  const reason: unknown = signal.aborted ? signal.reason : error;
  if (!(reason instanceof PipelineError) || reason.kind === "interrupted") throw reason;
  const { code, message, hint = "", cause } = reason;
  return new PipelineError("partial", `${state}: ${message}`, {
    code,
    hint: `${hint} ${resumeHint}`.trim(),
    cause,
  });
}

/**
 * Adds leftover objects to an "environment" error and makes it "partial": with leftovers it is not true that nothing
 * was changed.
 */
export function withLeftovers(left: string[], error: unknown): unknown {
  if (left.length === 0 || !(error instanceof PipelineError) || error.kind !== "environment") return error;
  const { code, message, hint = "", output } = error;
  const state = `${message}. Left in the cluster, not deleted automatically: ${left.join(", ")}`;
  return new PipelineError("partial", state, { code, hint: `${hint} ${RESUME_HINT}`.trim(), output, cause: error });
}

/** Next step after a partial failure. */
export const RESUME_HINT =
  "Run the same command again to continue. `bun ci/pipeline.ts status` shows the current state.";
