/** Manifests into the cluster, and out of it again: what was there before comes back, to the letter. */
import { PipelineError } from "../core/errors.ts";
import { ApiError, type ApiClient } from "./api.ts";
import { explainRejection } from "./diff.ts";
import { CREATED_BY, prepareForApply, type PreparedObject } from "./prepare-apply.ts";
import { objectName, type KubeObject, type Workload } from "./objects.ts";

/** Kinds whose end takes with it what is not ours: they are never deleted unasked. */
const precious = new Set([
  "Namespace",
  "CustomResourceDefinition",
  "PersistentVolumeClaim",
  "PersistentVolume",
]);

/** Seconds that the server may take to know the kind of a definition that it has just been given. */
const DEFINED_SECONDS = 20;

/**
 * Applies all of it, in order. It is not interrupted: half of a version is none.
 *
 * @throws {PipelineError} "project" when the server refuses one of them; the ones before it are applied then
 */
export async function applyAll(api: ApiClient, fitted: PreparedObject[]): Promise<void> {
  for (const { object, path, scaled } of fitted) {
    if (path === undefined) await untilKnown(api, object);
    // An autoscaler may have decided anew while a Job ran before.
    const [now = { object }] = scaled ? await prepareForApply(api, [object]) : [];
    await api.apply(now.object).catch((error: unknown) => {
      throw explainRejection("applying", object, error);
    });
  }
}

async function untilKnown(api: ApiClient, object: KubeObject): Promise<void> {
  const end = performance.now() + DEFINED_SECONDS * 1000;
  while ((await api.findPath(object)) === undefined && performance.now() < end) await Bun.sleep(200);
}

/**
 * Brings back what the cluster had: what is another is what it was, and what was not there is deleted, but for the precious.
 *
 * @param before what was there, as fit() has found it
 * @returns what was left, because it is not deleted unasked
 */
export async function restoreObjects(api: ApiClient, before: PreparedObject[]): Promise<string[]> {
  const left: string[] = [];
  // What came last goes first: pods before what they need.
  for (const { object, live, scaled } of [...before].reverse()) {
    const path = await api.findPath(object);
    if (path === undefined) continue;
    if (live) await putBack(api, path, live, scaled);
    else if (precious.has(object.kind)) left.push(objectName(object));
    else await api.delete(object);
  }
  return left;
}

/** Tries of a write that somebody else's has overtaken. */
const TRIES = 5;

/**
 * Replaces an object by what it was. Who owned which of its fields is put back as well: otherwise the next apply could not
 * take out again what it has put in.
 *
 * @param scaled whether its number of pods is an autoscaler's, which may have decided anew meanwhile
 */
async function putBack(api: ApiClient, path: string, live: KubeObject, scaled: boolean): Promise<void> {
  for (let tried = 1; ; tried += 1) {
    const now = await api.find<KubeObject>(path);
    if (now && now.metadata.resourceVersion === live.metadata.resourceVersion) return;
    try {
      const request = {
        query: { fieldManager: api.fieldManager },
        signal: undefined,
        retryBudgetSeconds: api.retryBudgetSeconds,
      };
      if (!now) {
        const collection = path.slice(0, path.lastIndexOf("/"));
        await api.json(collection, { ...request, method: "POST", body: asItWas(live) });
        return;
      }
      const body: KubeObject & { spec?: object } = asItWas(live, now);
      if (scaled) body.spec = { ...body.spec, replicas: (now as Workload).spec.replicas };
      await api.json(path, { ...request, method: "PUT", body });
      const { managedFields } = live.metadata;
      if (!managedFields) return;
      const patch = [{ op: "replace", path: "/metadata/managedFields", value: managedFields }];
      const contentType = "application/json-patch+json";
      await api.json(path, { ...request, method: "PATCH", contentType, body: patch });
      return;
    } catch (error) {
      const overtaken = error instanceof ApiError && [404, 409].includes(error.status);
      if (!overtaken || tried === TRIES) throw error;
    }
  }
}

/** @param now what replaces it has to name; undefined: it is made anew */
function asItWas(live: KubeObject, now?: KubeObject): KubeObject {
  const { status: _, ...object } = live as KubeObject & { status?: unknown };
  const {
    uid: _uid,
    resourceVersion: _version,
    creationTimestamp: _time,
    managedFields: _fields,
    ...rest
  } = object.metadata;
  const { generation: _generation, ...metadata } = rest;
  // The controller counts revisions, and would be told of one that was.
  const revision = "deployment.kubernetes.io/revision";
  const counted = now?.metadata.annotations?.[revision];
  const annotations = { ...metadata.annotations, ...(counted !== undefined && { [revision]: counted }) };
  const place = now && { resourceVersion: now.metadata.resourceVersion!, uid: now.metadata.uid! };
  return {
    ...object,
    metadata: { ...metadata, ...(Object.keys(annotations).length > 0 && { annotations }), ...place },
  };
}

/**
 * Deletes what these manifests hold and those do not, where the pipeline has made it.
 *
 * @param kept names of objects that some other version needs, `Kind/name`
 * @returns what was deleted; and what was left, because somebody else made it or it is not deleted unasked
 */
export async function prune(
  api: ApiClient,
  before: KubeObject[],
  after: KubeObject[],
  kept: ReadonlySet<string> = new Set(),
): Promise<{ deleted: string[]; left: string[] }> {
  const wanted = new Set(after.map(keyOf));
  const gone = before.filter((object) => !wanted.has(keyOf(object)) && !kept.has(objectName(object)));
  const [deleted, left]: [string[], string[]] = [[], []];
  for (const { object, live } of await prepareForApply(api, gone)) {
    if (!live) continue;
    const isOurs = live.metadata.annotations?.[CREATED_BY] === api.service.name;
    if (isOurs && !precious.has(object.kind)) {
      await api.delete(object);
      deleted.push(objectName(object));
    } else left.push(objectName(object));
  }
  return { deleted, left };
}

/** Without the version of the API: an object is the same in all. */
function keyOf({ apiVersion, kind, metadata: { namespace = "", name } }: KubeObject): string {
  return [apiVersion.replace(/\/?[^/]*$/, ""), kind, namespace, name].join(" ");
}

/** Objects as the server has them, as manifests to come back to: without what the server itself writes. */
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
 * What is left where even the way back failed, as an error: what state things are in, and how to go on.
 *
 * @param goOn how, as a sentence; default: the same command
 * @throws what was not the pipeline's own to fail at, as it is: an interruption, or a mistake in its code
 */
export function partialFailure(
  what: string,
  error: unknown,
  signal: AbortSignal,
  goOn = GO_ON,
): PipelineError {
  // Of a lock that was lost, too, what state it has left things in is to be said.
  const reason: unknown = signal.aborted ? signal.reason : error;
  if (!(reason instanceof PipelineError) || reason.kind === "interrupted") throw reason;
  const { message, hint = "", cause } = reason;
  return new PipelineError("partial", `${what}: ${message}`, { hint: `${hint} ${goOn}`.trim(), cause });
}

/**
 * An error that says what is left of what was undone, because it is not deleted unasked: then it is not so that nothing was
 * changed.
 */
export function withLeftovers(left: string[], error: unknown): unknown {
  if (left.length === 0 || !(error instanceof PipelineError) || error.kind !== "environment") return error;
  const { message, hint = "", output } = error;
  const what = `${message}. Left, because it is not deleted unasked: ${left.join(", ")}`;
  return new PipelineError("partial", what, { hint: `${hint} ${GO_ON}`.trim(), output, cause: error });
}

/** What to do where something was left. */
const GO_ON =
  "The same command goes on from there; `bun ci/pipeline.ts status` shows what the cluster is at.";
