/** Resolves a container's environment variables without a cluster, as far as possible. */
import type { KubeObject } from "./objects.ts";

interface Reference {
  name: string;
  optional?: boolean;
}

/** The part of a container that sets variables. */
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
  /** The image's variables, `NAME=value`. */
  image: string[];
  /** Manifests with the ConfigMaps and Secrets. */
  manifests: KubeObject[];
  /** Values for variables that are known only in the cluster. */
  overrides: Record<string, string>;
  pod: {
    name: string;
    namespace: string;
    labels: Record<string, string>;
    annotations: Record<string, string>;
    serviceAccount: string;
  };
}

interface KeyValues extends KubeObject {
  data?: Record<string, string>;
  stringData?: Record<string, string>;
}

/** From k3s's default pod network. https://docs.k3s.io/cli/server#networking */
export const POD_ADDRESS = "10.42.0.2";
const NODE_ADDRESS = "10.42.0.1";

/**
 * Merges, with increasing precedence: the runtime's defaults (PATH, HOME, HOSTNAME), the image's variables,
 * `envFrom`, `env`. In `env`, `$(NAME)` refers to an earlier variable.
 */
export function resolveEnv(
  { env = [], envFrom = [] }: EnvSpec,
  { image, manifests, overrides, pod }: EnvContext,
): { env: Record<string, string>; unknown: string[]; untried: string[] } {
  const all: Record<string, string> = {
    PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    HOME: "/",
    HOSTNAME: pod.name,
    // Read by slipway/service: a real pod's clients need the delay, here it would only cost time.
    DRAIN_DELAY_SECONDS: "0",
    ...Object.fromEntries(
      image.map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]),
    ),
  };
  const [unknown, untried]: [string[], string[]] = [[], []];
  for (const { prefix = "", secretRef, configMapRef } of envFrom) {
    const [kind, reference] = secretRef ? ["Secret", secretRef] : ["ConfigMap", configMapRef];
    if (!reference) continue;
    const keys = keysOf(manifests, kind as string, reference.name);
    if (!keys) untried.push(`${kind}/${reference.name}`);
    for (const [name, value] of Object.entries(keys ?? {})) all[prefix + name] = value;
    // Its variable names are unknown, so any override may belong to it.
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
    const resolved = known ?? overrides[name];
    if (resolved !== undefined) all[name] = resolved;
    else if (!reference?.optional) unknown.push(name);
  }
  if (unknown.length > 0) untried.push(`the values of ${unknown.join(", ")}`);
  return { env: all, unknown, untried };
}

function keysOf(manifests: KubeObject[], kind: string, name: string): Record<string, string> | undefined {
  const found = manifests.find((object) => object.kind === kind && object.metadata.name === name) as
    KeyValues | undefined;
  if (!found) return undefined;
  const { data = {}, stringData = {} } = found;
  const plain = kind === "ConfigMap" ? data : mapValues(data, (text) => Buffer.from(text, "base64").toString());
  return { ...plain, ...stringData };
}

function mapValues(object: Record<string, string>, map: (value: string) => string): Record<string, string> {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, map(value)]));
}

/** Resolves a fieldRef. https://kubernetes.io/docs/concepts/workloads/pods/downward-api/ */
function fieldOf(path: string, { name, namespace, labels, annotations, serviceAccount }: EnvContext["pod"]) {
  const [, group, key] = /^metadata\.(labels|annotations)\['(.*)'\]$/.exec(path) ?? [];
  if (group) return (group === "labels" ? labels : annotations)[key!] ?? "";
  const fields: Record<string, string> = {
    "metadata.name": name,
    "metadata.namespace": namespace,
    "metadata.uid": "00000000-0000-4000-8000-000000000000",
    "spec.nodeName": "smoke-test",
    "spec.serviceAccountName": serviceAccount,
    "status.hostIP": NODE_ADDRESS,
    "status.hostIPs": NODE_ADDRESS,
    "status.podIP": POD_ADDRESS,
    "status.podIPs": POD_ADDRESS,
  };
  return fields[path];
}

/**
 * Expands `$(NAME)` to an earlier variable and `$$` to a dollar sign. Unknown names stay as they are.
 * https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
 */
export function expandReferences(text: string, env: Record<string, string>): string {
  return text.replace(/\$\$|\$\(([^)]+)\)/g, (whole, name?: string) =>
    name === undefined ? "$" : (env[name] ?? whole),
  );
}
