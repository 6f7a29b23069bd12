/** Finds the objects that pods name: ConfigMaps, Secrets, service accounts, claims and classes. */
import type { EnvSpec } from "./resolve-env.ts";
import type { KubeObject } from "./objects.ts";
import { podTemplates } from "./pod-templates.ts";

/** Kinds that a pod names. Without one of them, it does not start. */
export type ReferencedKind =
  "ConfigMap" | "Secret" | "ServiceAccount" | "PersistentVolumeClaim" | "PriorityClass" | "RuntimeClass";

/** A field that names another object. */
export interface ObjectReference {
  /** The object that has the field. */
  from: KubeObject;
  /** `spec.template.spec.volumes[0].secret.secretName` */
  field: string;
  kind: ReferencedKind;
  name: string;
  /** Keys that the object must have. */
  keys: string[];
  /** Whether the pod starts without the object and its keys. */
  isOptional?: boolean;
  /** Whether the object is a list of credentials to pull images with. */
  isPullSecret?: boolean;
}

interface Source {
  name?: string;
  secretName?: string;
  optional?: boolean;
  items?: { key: string }[];
}

interface Volume {
  configMap?: Source;
  secret?: Source;
  projected?: { sources?: { configMap?: Source; secret?: Source }[] };
  persistentVolumeClaim?: { claimName?: string };
  [type: string]: unknown;
}

interface ReferringPodSpec {
  containers: EnvSpec[];
  initContainers?: EnvSpec[];
  volumes?: Volume[];
  imagePullSecrets?: { name?: string }[];
  serviceAccountName?: string;
  serviceAccount?: string;
  priorityClassName?: string;
  runtimeClassName?: string;
}

type Found = Omit<ObjectReference, "from">;

/** Returns the path of the pod specification in an object. */
export function podSpecPath({ kind }: KubeObject): string {
  if (kind === "Pod") return "spec";
  return kind === "CronJob" ? "spec.jobTemplate.spec.template.spec" : "spec.template.spec";
}

/** Returns the references of an object's pods. */
export function findObjectReferences(from: KubeObject): ObjectReference[] {
  const path = podSpecPath(from);
  return podTemplates(from).flatMap(({ spec }) => {
    const pod = spec as unknown as ReferringPodSpec;
    const { initContainers = [], containers, volumes = [], imagePullSecrets = [] } = pod;
    const found = [
      ...initContainers.flatMap((container, i) => referencesOfEnv(container, `${path}.initContainers[${i}]`)),
      ...containers.flatMap((container, i) => referencesOfEnv(container, `${path}.containers[${i}]`)),
      ...volumes.flatMap((volume, i) => referencesOfVolume(volume, `${path}.volumes[${i}]`)),
      ...imagePullSecrets.flatMap(({ name }, i) =>
        named("Secret", name, `${path}.imagePullSecrets[${i}].name`).map((one) => ({ ...one, isPullSecret: true })),
      ),
      ...named("ServiceAccount", pod.serviceAccountName ?? pod.serviceAccount, `${path}.serviceAccountName`),
      ...named("PriorityClass", pod.priorityClassName, `${path}.priorityClassName`),
      ...named("RuntimeClass", pod.runtimeClassName, `${path}.runtimeClassName`),
    ];
    return found.map((one) => ({ from, ...one }));
  });
}

function named(kind: ReferencedKind, name: string | undefined, field: string, keys: string[] = []): Found[] {
  return name ? [{ kind, name, field, keys }] : [];
}

function referencesOfEnv({ env = [], envFrom = [] }: EnvSpec, path: string): Found[] {
  const all = envFrom.flatMap(({ configMapRef, secretRef }, i) => [
    ...ofSource("ConfigMap", configMapRef, `${path}.envFrom[${i}].configMapRef`),
    ...ofSource("Secret", secretRef, `${path}.envFrom[${i}].secretRef`),
  ]);
  const single = env.flatMap(({ valueFrom: { configMapKeyRef, secretKeyRef } = {} }, i) => [
    ...ofSource("ConfigMap", configMapKeyRef, `${path}.env[${i}].valueFrom.configMapKeyRef`, configMapKeyRef?.key),
    ...ofSource("Secret", secretKeyRef, `${path}.env[${i}].valueFrom.secretKeyRef`, secretKeyRef?.key),
  ]);
  return [...single, ...all];
}

function referencesOfVolume(volume: Volume, path: string): Found[] {
  const { configMap, secret, projected, persistentVolumeClaim, ...others } = volume;
  const sources = projected?.sources ?? [];
  return [
    ...ofSource("ConfigMap", configMap, `${path}.configMap`),
    ...ofSource("Secret", secret, `${path}.secret`),
    ...sources.flatMap((source, i) => [
      ...ofSource("ConfigMap", source.configMap, `${path}.projected.sources[${i}].configMap`),
      ...ofSource("Secret", source.secret, `${path}.projected.sources[${i}].secret`),
    ]),
    ...named("PersistentVolumeClaim", persistentVolumeClaim?.claimName, `${path}.persistentVolumeClaim.claimName`),
    // Credentials of storage: `csi.nodePublishSecretRef`, `cephfs.secretRef`, `azureFile.secretName`.
    ...Object.entries(others).flatMap(([type, given]) => {
      const { secretName, secretRef, nodePublishSecretRef } = (given ?? {}) as Record<string, unknown>;
      return [
        ...named("Secret", secretName as string | undefined, `${path}.${type}.secretName`),
        ...ofSource("Secret", secretRef as Source | undefined, `${path}.${type}.secretRef`),
        ...ofSource("Secret", nodePublishSecretRef as Source | undefined, `${path}.${type}.nodePublishSecretRef`),
      ];
    }),
  ];
}

function ofSource(kind: ReferencedKind, source: Source | undefined, path: string, key?: string): Found[] {
  if (!source) return [];
  const { name, secretName, items = [], optional = false } = source;
  const keys = key === undefined ? items.map((item) => item.key) : [key];
  const field = `${path}.${secretName === undefined ? "name" : "secretName"}`;
  return named(kind, name ?? secretName, field, keys).map((one) => (optional ? { ...one, isOptional: true } : one));
}

/** Finds the object of a reference among others. @param namespace of objects that name none */
export function findReferenced(
  { from, kind, name }: Pick<ObjectReference, "from" | "kind" | "name">,
  objects: KubeObject[],
  namespace: string,
): KubeObject | undefined {
  const isIn = (object: KubeObject) => object.metadata.namespace ?? namespace;
  return objects.find(
    (object) =>
      object.kind === kind && object.metadata.name === name && (isClusterScoped(kind) || isIn(object) === isIn(from)),
  );
}

/** Whether objects of a kind are in no namespace. */
export function isClusterScoped(kind: ReferencedKind): boolean {
  return kind === "PriorityClass" || kind === "RuntimeClass";
}
