/** A container's variables, as far as they can be known without the cluster. */
import type { KubeObject } from "./objects.ts";

interface Reference {
  name: string;
  optional?: boolean;
}

/** The part of a container that says them. */
export interface EnvSpec {
  env?: {
    name: string;
    value?: string;
    valueFrom?: {
      fieldRef?: { fieldPath: string };
      resourceFieldRef?: object;
      secretKeyRef?: Reference & { key: string };
      configMapKeyRef?: Reference & { key: string };
    };
  }[];
  envFrom?: { prefix?: string; secretRef?: Reference; configMapRef?: Reference }[];
}

export interface EnvContext {
  /** The image's own, `NAME=value`. */
  image: string[];
  /** Where ConfigMaps and Secrets may be. */
  manifests: KubeObject[];
  /** Values for variables that only the cluster knows. */
  overrides: Record<string, string>;
  pod: {
    name: string;
    namespace: string;
    labels: Record<string, string>;
    annotations: Record<string, string>;
    serviceAccount: string;
  };
}

interface Keys extends KubeObject {
  data?: Record<string, string>;
  stringData?: Record<string, string>;
}

/** Out of k3s's default range for pods. https://docs.k3s.io/cli/server#networking */
export const POD_ADDRESS = "10.42.0.2";
const NODE_ADDRESS = "10.42.0.1";

/**
 * The image's variables, what a container runtime adds (PATH, HOME, HOSTNAME), and the manifests', which win in that order:
 * of `envFrom`, then of `env`, where `$(NAME)` is one from before.
 */
export function resolveEnv(
  { env = [], envFrom = [] }: EnvSpec,
  { image, manifests, overrides, pod }: EnvContext,
): { env: Record<string, string>; unknown: string[]; untried: string[] } {
  const all: Record<string, string> = {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: "/",
    HOSTNAME: pod.name,
    // Of slipway/service: clients of a real pod need it, here it would only be waited for.
    DRAIN_DELAY_SECONDS: "0",
    ...Object.fromEntries(
      image.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
    ),
  };
  const [unknown, untried]: [string[], string[]] = [[], []];
  for (const { prefix = "", secretRef, configMapRef } of envFrom) {
    const [kind, reference] = secretRef ? ["Secret", secretRef] : ["ConfigMap", configMapRef];
    if (!reference) continue;
    const keys = keysOf(manifests, kind as string, reference.name);
    if (!keys) untried.push(`${kind}/${reference.name}`);
    for (const [name, value] of Object.entries(keys ?? {})) all[prefix + name] = value;
    // Which variables it has is not known: all that is stated may be meant.
    if (!keys) Object.assign(all, overrides);
  }
  for (const { name, value, valueFrom } of env) {
    const { fieldRef, secretKeyRef, configMapKeyRef } = valueFrom ?? {};
    const reference = secretKeyRef ?? configMapKeyRef;
    if (!valueFrom) {
      all[name] = expandReferences(value ?? "", all);
      continue;
    }
    const kind = secretKeyRef ? "Secret" : "ConfigMap";
    const known = fieldRef
      ? fieldOf(fieldRef.fieldPath, pod)
      : reference && keysOf(manifests, kind, reference.name)?.[reference.key];
    const taken = known ?? overrides[name];
    if (taken !== undefined) all[name] = taken;
    else if (!reference?.optional) unknown.push(name);
  }
  if (unknown.length > 0) untried.push(`the values of ${unknown.join(", ")}`);
  return { env: all, unknown, untried };
}

function keysOf(manifests: KubeObject[], kind: string, name: string): Record<string, string> | undefined {
  const found = manifests.find((object) => object.kind === kind && object.metadata.name === name) as
    Keys | undefined;
  if (!found) return undefined;
  const { data = {}, stringData = {} } = found;
  const plain =
    kind === "ConfigMap" ? data : mapValues(data, (text) => Buffer.from(text, "base64").toString());
  return { ...plain, ...stringData };
}

function mapValues(object: Record<string, string>, map: (value: string) => string): Record<string, string> {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, map(value)]));
}

/** https://kubernetes.io/docs/concepts/workloads/pods/downward-api/ */
function fieldOf(path: string, { name, namespace, labels, annotations, serviceAccount }: EnvContext["pod"]) {
  const [, group, key] = /^metadata\.(labels|annotations)\['(.*)'\]$/.exec(path) ?? [];
  if (group) return (group === "labels" ? labels : annotations)[key!] ?? "";
  const fields: Record<string, string> = {
    "metadata.name": name,
    "metadata.namespace": namespace,
    "metadata.uid": "00000000-0000-4000-8000-000000000000",
    "spec.nodeName": "rehearsal",
    "spec.serviceAccountName": serviceAccount,
    "status.hostIP": NODE_ADDRESS,
    "status.hostIPs": NODE_ADDRESS,
    "status.podIP": POD_ADDRESS,
    "status.podIPs": POD_ADDRESS,
  };
  return fields[path];
}

/**
 * `$(NAME)` is a variable from before, one that is not there stays as it is, and `$$` is a dollar sign.
 * https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
 */
export function expandReferences(text: string, env: Record<string, string>): string {
  return text.replace(/\$\$|\$\(([^)]+)\)/g, (whole, name?: string) =>
    name === undefined ? "$" : (env[name] ?? whole),
  );
}
