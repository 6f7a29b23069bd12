/**
 * Hands over the fields of an object that `kubectl apply` or Helm created. As long as another manager owns a field, the field stays
 * when the manifests no longer have it. https://pkg.go.dev/k8s.io/client-go/util/csaupgrade
 */
import { ApiError } from "./api-error.ts";
import type { ApiClient } from "./api.ts";
import type { KubeObject } from "./objects.ts";

type Fields = Record<string, unknown>;
type ManagedFields = NonNullable<KubeObject["metadata"]["managedFields"]>;

/** Managers that applied manifests before slipway. Controllers, and commands such as `kubectl scale`, keep their fields. */
const FORMER_MANAGERS = new Set([
  "kubectl-client-side-apply",
  "kubectl",
  "kubectl-last-applied",
  "helm",
  "before-first-apply",
]);

/** Attempts of a write that conflicts with another writer. */
const MAX_ATTEMPTS = 5;

/** Whether the fields of a manager are handed over. */
export function isFormerManager({ manager = "", subresource }: ManagedFields[number]): boolean {
  return FORMER_MANAGERS.has(manager) && !subresource;
}

/** Whether other projects may apply fields of this kind too: their labels of a shared Namespace stay. */
const isShared = ({ kind }: KubeObject) => kind === "Namespace";

/** Makes the pipeline the owner of the former managers' fields. Without such managers, it changes nothing. */
export async function handOverFields(api: ApiClient, path: string, live: KubeObject): Promise<void> {
  let current: KubeObject | undefined = live;
  for (let attempt = 1; current; attempt += 1) {
    const managedFields = handedOver(current, api.fieldManager);
    if (!managedFields) return;
    const { resourceVersion } = current.metadata;
    const body = [
      { op: "replace", path: "/metadata/managedFields", value: managedFields },
      { op: "replace", path: "/metadata/resourceVersion", value: resourceVersion },
    ];
    const contentType = "application/json-patch+json";
    try {
      const query = { fieldManager: api.fieldManager };
      await api.json(path, { method: "PATCH", contentType, query, body, signal: undefined });
      return;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 409 || attempt === MAX_ATTEMPTS) throw error;
      current = await api.find<KubeObject>(path);
    }
  }
}

/** Returns the owners after the hand-over. Undefined if nothing is handed over. */
export function handedOver(object: KubeObject, fieldManager: string): ManagedFields | undefined {
  const { managedFields = [] } = object.metadata;
  const former = isShared(object) ? [] : managedFields.filter(isFormerManager);
  if (former.length === 0) return undefined;
  const isOwn = ({ manager, operation, subresource }: ManagedFields[number]) =>
    manager === fieldManager && operation === "Apply" && !subresource;
  const own = managedFields.find(isOwn) ?? { ...former[0], manager: fieldManager, operation: "Apply" };
  const rest = managedFields.filter((entry) => !isFormerManager(entry) && !isOwn(entry));
  return [{ ...own, fieldsV1: union([own, ...former]) }, ...rest];
}

/**
 * Predicts the effect of an apply after the hand-over. The server cannot: a dry run does not store the new owners.
 *
 * @param merged the object after a dry run without the hand-over
 */
export async function dryRunHandOver<T extends KubeObject>(api: ApiClient, path: string, merged: T): Promise<T> {
  const { managedFields = [] } = merged.metadata;
  if (!handedOver(merged, api.fieldManager)) return merged;
  const former = union(managedFields.filter(isFormerManager));
  const kept = union(managedFields.filter((entry) => !isFormerManager(entry)));
  const { managedFields: _, ...metadata } = merged.metadata;
  const body = structuredClone({ ...merged, metadata });
  removeFields(body, former, kept);
  // Restores the server's defaults of removed fields.
  return api.json<T>(path, { method: "PUT", query: { fieldManager: api.fieldManager, dryRun: "All" }, body });
}

function union(entries: ManagedFields): Fields {
  return entries.reduce<Fields>((all, { fieldsV1 = {} }) => merge(all, fieldsV1), {});
}

function merge(one: Fields, other: Fields): Fields {
  const merged = { ...one };
  for (const [key, value] of Object.entries(other)) merged[key] = merge((one[key] ?? {}) as Fields, value as Fields);
  return merged;
}

/**
 * Removes the fields that only former managers own.
 *
 * https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/ describes the keys: `f:` is a field, `k:` an
 * item of a list by its keys, `v:` a value in a set, and `.` the object itself
 */
function removeFields(value: unknown, former: Fields, kept: Fields): void {
  if (typeof value !== "object" || value === null) return;
  const container = value as Record<string, unknown> | unknown[];
  for (const [key, fields] of Object.entries(former) as [string, Fields][]) {
    const at = key === "." ? undefined : indexOf(container, key);
    if (at === undefined) continue;
    const child = (container as Record<string, unknown>)[at];
    const isLeaf = Object.keys(fields).length === 0 || "." in fields;
    if (isLeaf && !(key in kept)) {
      if (Array.isArray(container)) container.splice(Number(at), 1);
      else delete container[at];
    } else removeFields(child, fields, (kept[key] ?? {}) as Fields);
  }
}

/** Finds the property or the index that a key of `fieldsV1` names. */
function indexOf(container: Record<string, unknown> | unknown[], key: string): string | undefined {
  const [kind, name] = [key.slice(0, 2), key.slice(2)];
  if (!Array.isArray(container)) return kind === "f:" && name in container ? name : undefined;
  if (kind !== "k:" && kind !== "v:") return undefined;
  const wanted = JSON.parse(name) as unknown;
  const isWanted = (item: unknown) =>
    kind === "v:"
      ? item === wanted
      : Object.entries(wanted as Fields).every(([field, value]) => (item as Fields)[field] === value);
  const index = container.findIndex(isWanted);
  return index < 0 ? undefined : String(index);
}
