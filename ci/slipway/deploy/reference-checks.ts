/** Finds objects and keys that pods name, and that neither the manifests nor the cluster have. */
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { keysOf } from "../kubernetes/read-referenced.ts";
import { secretName } from "../kubernetes/settings-env.ts";
import { findObjectReferences, findReferenced, type ObjectReference } from "../kubernetes/references.ts";
import type { Service } from "../core/resolve-service.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

/** Objects that Kubernetes creates in each namespace. */
const AUTOMATIC = new Set(["ServiceAccount/default", "ConfigMap/kube-root-ca.crt"]);

/** Kinds that stay in the cluster when the manifests no longer have them. */
const STAYS = new Set<ObjectReference["kind"]>(["PersistentVolumeClaim", "Secret"]);

type Scope = Pick<CheckInput, "service" | "manifests" | "isImported">;

/** A reference that the manifests do not satisfy. */
interface OpenReference extends ObjectReference {
  /** Keys that the manifests' object lacks. Undefined if the manifests lack the object. */
  lackedKeys: string[] | undefined;
}

/** Returns the references that only the cluster can satisfy. */
export function openReferences(scope: Scope): OpenReference[] {
  const { service, manifests } = scope;
  return manifests.flatMap(findObjectReferences).flatMap((reference): OpenReference[] => {
    if (
      reference.isOptional ||
      AUTOMATIC.has(`${reference.kind}/${reference.name}`) ||
      // Its values have a check of their own, which knows the values that the deploy stores.
      (reference.kind === "Secret" && reference.name === secretName(service)) ||
      (reference.isPullSecret && !pulls(scope, reference))
    )
      return [];
    const own = findReferenced(reference, manifests, service.namespace);
    if (!own) return isMadeByController(reference, manifests) ? [] : [{ ...reference, lackedKeys: undefined }];
    if (isFilledByController(own)) return [];
    const lackedKeys = reference.keys.filter((key) => !keysOf(own).includes(key));
    return lackedKeys.length > 0 ? [{ ...reference, lackedKeys }] : [];
  });
}

/** Finds references that neither the manifests nor the cluster satisfy. Without the right to read, an object may exist. */
export function findMissingReferences(input: CheckInput): ManifestProblem[] {
  const { service, namespace, findLive } = input;
  const groups = Map.groupBy(openReferences(input), ({ kind, name }) => `${kind}/${name}`);
  return [...groups].flatMap(([target, references]): ManifestProblem[] => {
    const [first] = references as [OpenReference];
    const live = findLive(first);
    if (live === undefined) return [];
    const object = objectName(first.from);
    if (live === null && first.lackedKeys === undefined) {
      const problem = `${target} is neither in the manifests nor in the cluster`;
      const remedy = describeCreation(references, service, namespace === null);
      return [{ object, field: first.field, problem, remedy }];
    }
    if (first.lackedKeys === undefined && live?.creator === service.name && !STAYS.has(first.kind)) {
      const problem = `this deploy deletes ${target}, because the manifests no longer have it`;
      return [
        { object, field: first.field, problem, remedy: `Add ${target} to the manifests again, or remove the field` },
      ];
    }
    const lacks = references.flatMap(({ from, field, keys, lackedKeys = keys }) =>
      lackedKeys.filter((key) => !live?.keys.has(key)).map((key) => ({ from, field, key })),
    );
    return lacks.map(({ from, field, key }) => ({
      object: objectName(from),
      field,
      problem: `${target} has no key ${key}`,
      remedy:
        first.lackedKeys === undefined
          ? `Add it with \`${kubectl} patch ${target.toLowerCase()} -p '{"${dataField(first)}":{"${key}":"…"}}'\``
          : `Add ${key} to ${target} in the manifests, or set \`optional: true\` at the reference`,
    }));
  });
}

const kubectl = "bun ci/pipeline.ts kubectl --";
const dataField = ({ kind }: ObjectReference) => (kind === "Secret" ? "stringData" : "data");

/** Whether a container of the pod needs credentials to pull its image. Imported images are on the nodes. */
function pulls({ service, isImported }: Scope, { from }: ObjectReference): boolean {
  const containers = podTemplates(from).flatMap(({ spec }) => [...spec.containers, ...(spec.initContainers ?? [])]);
  return !isImported || containers.some(({ image }) => image !== service.name);
}

/** Whether a custom resource of the manifests may create the object: a sealed or external Secret, a certificate, a database. */
function isMadeByController({ name }: ObjectReference, manifests: KubeObject[]): boolean {
  return manifests.some((object) => {
    const [group = "", version] = object.apiVersion.split("/");
    if (version === undefined || !group.includes(".") || group.endsWith(".k8s.io")) return false;
    return name.includes(object.metadata.name) || JSON.stringify(object).includes(JSON.stringify(name));
  });
}

/** Whether a controller adds keys to the object: a token, or an injected certificate. */
function isFilledByController(object: KubeObject): boolean {
  const { type } = object as KubeObject & { type?: string };
  const { labels, annotations } = object.metadata;
  const notes = Object.keys({ ...labels, ...annotations });
  return type === "kubernetes.io/service-account-token" || notes.some((key) => key.includes("inject"));
}

/** Describes how to create the object, as a sentence without its period. */
function describeCreation(references: OpenReference[], { namespace }: Service, isNew: boolean): string {
  const [{ kind, name, isPullSecret }] = references as [OpenReference];
  const keys = [...new Set(references.flatMap((reference) => reference.keys))];
  const values = (keys.length > 0 ? keys : ["KEY"]).map((key) => `--from-literal=${key}=…`).join(" ");
  const credentials = "--docker-server=… --docker-username=… --docker-password=…";
  const commands: Partial<Record<ObjectReference["kind"], string>> = {
    Secret: isPullSecret ? `secret docker-registry ${name} ${credentials}` : `secret generic ${name} ${values}`,
    ConfigMap: `configmap ${name} ${values}`,
    ServiceAccount: `serviceaccount ${name}`,
    PriorityClass: `priorityclass ${name} --value=1000`,
  };
  const command = commands[kind];
  if (!command) {
    const what =
      kind === "RuntimeClass" ? "Install its runtime in the cluster" : `Add ${kind}/${name} to the manifests`;
    return `${what}, or correct the name`;
  }
  const first = isNew && kind !== "PriorityClass" ? `${kubectl} create namespace ${namespace} && ` : "";
  return `Create it with \`${first}${kubectl} create ${command}\`, or add it to the manifests`;
}
