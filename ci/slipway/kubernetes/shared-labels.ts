/** Leaves the labels that name a service to the first service of a namespace. */
import type { KubeObject } from "./objects.ts";

/** Returns whether a label names the service, so that each service of a namespace has another value. */
export function isIdentityLabel(key: string): boolean {
  return /^app(\.kubernetes\.io\/|$)|^helm\.sh\//.test(key);
}

/** Returns the pipeline of another service that owns a label. */
export function labelOwner({ metadata }: KubeObject, key: string, ownManager: string): string | undefined {
  const owner = (metadata.managedFields ?? []).find(({ manager = "", fieldsV1 }) => {
    const fields = fieldsV1?.["f:metadata"] as Record<string, Record<string, unknown>> | undefined;
    return manager !== ownManager && manager.endsWith("-pipeline") && fields?.["f:labels"]?.[`f:${key}`] !== undefined;
  });
  return owner?.manager;
}

/** Removes from a namespace's manifest the labels that name another service in the cluster. */
export function yieldSharedLabels(object: KubeObject, live: KubeObject, ownManager: string): void {
  for (const [key, value] of Object.entries(object.metadata.labels ?? {})) {
    const isOther = live.metadata.labels?.[key] !== value && labelOwner(live, key, ownManager) !== undefined;
    if (isOther && isIdentityLabel(key)) delete object.metadata.labels![key];
  }
}
