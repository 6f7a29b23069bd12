/** The rights that a deploy needs in the cluster, and the Role that grants them. k8s/rbac/deployer.yaml has the same. */
import { PipelineError } from "../core/errors.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { splitPreDeployJobs } from "../kubernetes/render.ts";
import { findMissingRights, type Right } from "../kubernetes/rights.ts";
import { isOrderedStatefulSet } from "../kubernetes/workload-state.ts";

/** Rights on an object of the overlay. `update` and `delete` are for the automatic rollback and removed manifests. */
const OBJECT_VERBS = ["get", "create", "patch", "update", "delete"];
/** A Namespace is never deleted. */
const NAMESPACE_VERBS = ["get", "patch", "update"];

/**
 * Lists the rights of a deploy.
 *
 * @param proxied path of the endpoint if it leads through the API server's proxy
 */
export async function requiredRights(
  api: ApiClient,
  manifests: KubeObject[],
  proxied: string | undefined,
): Promise<Right[]> {
  const { name, namespace } = api.service;
  const on = (group: string, resource: string, verbs: string[], objectName?: string): Right[] =>
    verbs.map((verb) => ({ verb, group, resource, name: objectName }));
  const isOverlayNamespace = manifests.some(
    ({ kind, metadata }) => kind === "Namespace" && metadata.name === namespace,
  );
  const rights = [
    ...on("coordination.k8s.io", "leases", ["create"]),
    ...on("coordination.k8s.io", "leases", ["get", "update", "delete"], `${name}-deploy`),
    ...on("", "secrets", ["list", "create", "patch", "delete"]),
    ...on("", "pods", ["get", "list"]),
    ...on("", "pods/log", ["get"]),
    ...on("", "events", ["list"]),
    ...on("apps", "replicasets", ["list"]),
    ...on("autoscaling", "horizontalpodautoscalers", ["list"]),
    // `rollback` and `status` look up the main workload as each of the three kinds.
    ...["deployments", "statefulsets", "daemonsets"].flatMap((resource) => on("apps", resource, ["get"], name)),
    ...on("", "namespaces", isOverlayNamespace ? NAMESPACE_VERBS : ["get"], namespace),
  ];
  const [, resource, target] = /\/(services|pods)\/([^/]+)\/proxy\//.exec(proxied ?? "") ?? [];
  if (resource && target)
    rights.push(...on("", `${resource}/proxy`, ["get"], resource === "services" ? target : undefined));
  if (manifests.some(isOrderedStatefulSet)) rights.push(...on("", "pods", ["delete"]));
  const { jobs } = splitPreDeployJobs(manifests);
  for (const object of manifests) {
    if (object.kind === "Namespace" && object.metadata.name === namespace) continue;
    const path = await api.findPath(object);
    const place = path && /^\/(?:api|apis\/([^/]+))\/[^/]+\/(?:namespaces\/([^/]+)\/)?([^/]+)\/[^/]+$/.exec(path);
    // Another namespace needs a Role of its own: the server's answer names it.
    if (!place || (place[2] !== undefined && place[2] !== namespace)) continue;
    const [, group = "", inNamespace, plural = ""] = place;
    const verbs = jobs.includes(object) ? ["get", "create", "patch", "delete"] : OBJECT_VERBS;
    for (const right of on(group, plural, verbs, object.metadata.name)) {
      // A create request has no name that a rule could restrict.
      const named = right.verb === "create" ? { ...right, name: undefined } : right;
      rights.push(inNamespace === undefined ? { ...named, isClusterWide: true } : named);
    }
  }
  return rights;
}

/** @throws {PipelineError} "environment" that names all missing rights, with the Role that grants them as its output */
export async function assertRights(
  api: ApiClient,
  manifests: KubeObject[],
  proxied: string | undefined,
): Promise<void> {
  await assertGranted(api, await requiredRights(api, manifests, proxied));
}

/** @throws as {@link assertRights} */
export async function assertGranted(api: ApiClient, rights: Right[]): Promise<void> {
  const missing = await findMissingRights(api, rights);
  if (missing.length === 0) return;
  const groups = groupRights(missing);
  const names = groups.map(({ resource, verbs }) => `${resource} (${verbs.join(", ")})`);
  const total = groups.reduce((sum, { verbs }) => sum + verbs.length, 0);
  const count = total === 1 ? "1 right" : `${total} rights`;
  throw new PipelineError(
    "environment",
    `the kubeconfig's user lacks ${count} in ${api.service.namespace}: ${names.join("; ")}. Nothing was changed`,
    {
      code: "rights-missing",
      hint: "Ask an administrator to apply the Role above and to bind it to the user.",
      output: renderRoles(api, missing),
    },
  );
}

interface RightsGroup {
  group: string;
  resource: string;
  verbs: string[];
}

function groupRights(rights: Right[]): RightsGroup[] {
  const groups = new Map<string, RightsGroup>();
  for (const { group, resource, verb } of rights) {
    const key = `${group}/${resource}`;
    const found = groups.get(key) ?? { group, resource, verbs: [] };
    if (!found.verbs.includes(verb)) found.verbs.push(verb);
    groups.set(key, found);
  }
  return [...groups.values()];
}

/** Writes the missing rights as a Role, and the cluster-wide ones as a ClusterRole. */
function renderRoles({ service: { name, namespace } }: ApiClient, missing: Right[]): string {
  const render = (kind: string, rights: Right[]) =>
    rights.length === 0
      ? []
      : [
          [
            "apiVersion: rbac.authorization.k8s.io/v1",
            `kind: ${kind}`,
            "metadata:",
            `  name: ${name}-deployer-missing`,
            ...(kind === "Role" ? [`  namespace: ${namespace}`] : []),
            "rules:",
            ...groupRights(rights).map(
              ({ group, resource, verbs }) =>
                `  - { apiGroups: ["${group}"], resources: [${resource}], verbs: [${verbs.join(", ")}] }`,
            ),
          ].join("\n"),
        ];
  return [
    ...render(
      "Role",
      missing.filter(({ isClusterWide }) => !isClusterWide),
    ),
    ...render(
      "ClusterRole",
      missing.filter(({ isClusterWide }) => isClusterWide),
    ),
  ].join("\n---\n");
}
