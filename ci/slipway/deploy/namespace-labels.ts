/** Finds labels of a namespace that two services set to different values. */
import type { KubeObject } from "../kubernetes/objects.ts";
import { isIdentityLabel, labelOwner } from "../kubernetes/shared-labels.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

/** Finds labels that another service has set to another value. Labels that name the service are no conflict. */
export function findNamespaceConflicts({ manifests, namespace, service }: CheckInput): ManifestProblem[] {
  const own = manifests.find(({ kind, metadata }) => kind === "Namespace" && metadata.name === service.namespace);
  if (!own || !namespace) return [];
  return Object.entries(own.metadata.labels ?? {}).flatMap(([key, value]): ManifestProblem[] => {
    const owner = labelOwner(namespace as KubeObject, key, `${service.name}-pipeline`);
    const live = namespace.metadata.labels?.[key];
    if (isIdentityLabel(key) || owner === undefined || live === value) return [];
    const problem = `${owner.replace(/-pipeline$/, "")} has set ${live}, and these manifests say ${value}`;
    const remedy = "Set the same value in the manifests of both services";
    return [{ object: `Namespace/${service.namespace}`, field: `metadata.labels.${key}`, problem, remedy }];
  });
}
