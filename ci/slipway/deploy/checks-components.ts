/** Checks at the plan that the cluster has what the manifests' objects need to work. Without it they are stored and do nothing. */
import { PipelineError } from "../core/errors.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { podSpecPath } from "../kubernetes/references.ts";

interface Ingress extends KubeObject {
  spec: { ingressClassName?: string };
}

interface Claim {
  /** Path of the claim's specification in the object. */
  field: string;
  spec: { storageClassName?: string; volumeName?: string };
}

interface EphemeralVolume {
  ephemeral?: { volumeClaimTemplate?: Pick<Claim, "spec"> };
}

interface Autoscaler extends KubeObject {
  spec: { metrics?: { type: string }[] };
}

const STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses";
const VOLUMES = "/api/v1/persistentvolumes";
const DEFAULT_STORAGE = "storageclass.kubernetes.io/is-default-class";
const INGRESS_CLASSES = "/apis/networking.k8s.io/v1/ingressclasses";
const DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class";
/** The older form of `ingressClassName`. */
const CLASS_ANNOTATION = "kubernetes.io/ingress.class";
const GET_K3S = "On k3s, run its installer without `--disable`: `curl -sfL https://get.k3s.io | sudo sh -`.";

/** API groups of metrics by their type in an autoscaler, and how to get each. */
const metricSources: Record<string, { group: string; hint: string }> = {
  Resource: { group: "metrics.k8s.io", hint: `Install metrics-server. ${GET_K3S}` },
  ContainerResource: { group: "metrics.k8s.io", hint: `Install metrics-server. ${GET_K3S}` },
  Pods: {
    group: "custom.metrics.k8s.io",
    hint: "Install an adapter for custom metrics, for example prometheus-adapter.",
  },
  Object: {
    group: "custom.metrics.k8s.io",
    hint: "Install an adapter for custom metrics, for example prometheus-adapter.",
  },
  External: { group: "external.metrics.k8s.io", hint: "Install an adapter for external metrics, for example KEDA." },
};

/** @throws {PipelineError} "project" if an object needs something that the cluster does not have. Nothing was changed */
export async function assertComponentsWork(api: ApiClient, manifests: KubeObject[]): Promise<void> {
  await Promise.all(
    manifests.map(async (object) => {
      if (object.kind === "Ingress") await assertIngressClass(api, object as Ingress, manifests);
      for (const claim of claimsOf(object)) await assertStorageClass(api, object, claim, manifests);
      if (object.kind === "HorizontalPodAutoscaler") await assertMetrics(api, object as Autoscaler, manifests);
    }),
  );
}

async function assertIngressClass(api: ApiClient, ingress: Ingress, manifests: KubeObject[]): Promise<void> {
  const named = ingress.spec.ingressClassName ?? ingress.metadata.annotations?.[CLASS_ANNOTATION];
  const isWanted = ({ metadata }: KubeObject) =>
    named === undefined ? metadata.annotations?.[DEFAULT_CLASS] === "true" : metadata.name === named;
  if (manifests.some((object) => object.kind === "IngressClass" && isWanted(object))) return;
  const classes = await readable(api.list<KubeObject>(INGRESS_CLASSES));
  if (!classes || classes.some(isWanted)) return;
  const names = classes.map(({ metadata }) => metadata.name).join(", ") || "none";
  const lack = named === undefined ? "default IngressClass" : `IngressClass ${named}`;
  throw missing(ingress, `the cluster has no ${lack} (it has ${names}), so it would get no address`, {
    hint: `Install an ingress controller, or set \`ingressClassName\` to one of the cluster. ${GET_K3S}`,
  });
}

/** Returns the claim of a PersistentVolumeClaim, those of a StatefulSet's pods, and those that live as long as a pod. */
function claimsOf(object: KubeObject): Claim[] {
  const { spec = {} } = object as KubeObject & { spec?: Claim["spec"] & { volumeClaimTemplates?: Claim[] } };
  if (object.kind === "PersistentVolumeClaim") return [{ field: "spec", spec }];
  const templates = (object.kind === "StatefulSet" && spec.volumeClaimTemplates) || [];
  const path = podSpecPath(object);
  return [
    ...templates.map(({ spec }, i) => ({ field: `spec.volumeClaimTemplates[${i}].spec`, spec: spec ?? {} })),
    ...podTemplates(object).flatMap(({ spec }) =>
      ((spec as { volumes?: EphemeralVolume[] }).volumes ?? []).flatMap(({ ephemeral }, i) => {
        const field = `${path}.volumes[${i}].ephemeral.volumeClaimTemplate.spec`;
        return ephemeral ? [{ field, spec: ephemeral.volumeClaimTemplate?.spec ?? {} }] : [];
      }),
    ),
  ];
}

/** A claim needs a class that creates volumes, or a volume of the class. A claim that is bound has such a volume. */
async function assertStorageClass(
  api: ApiClient,
  object: KubeObject,
  { field, spec: { storageClassName: named, volumeName } }: Claim,
  manifests: KubeObject[],
): Promise<void> {
  if (volumeName !== undefined) return;
  const [classes, volumes] = await Promise.all(
    [STORAGE_CLASSES, VOLUMES].map((path) => readable(api.list<KubeObject & { spec?: Claim["spec"] }>(path))),
  );
  if (!classes || !volumes) return;
  const own = (kind: string) => manifests.filter((one) => one.kind === kind) as typeof volumes;
  const all = [...classes, ...own("StorageClass")];
  const isWanted = ({ metadata }: KubeObject) =>
    named === undefined ? metadata.annotations?.[DEFAULT_STORAGE] === "true" : metadata.name === named;
  const hasVolume = [...volumes, ...own("PersistentVolume")].some(
    ({ spec }) => named === undefined || (spec?.storageClassName ?? "") === named,
  );
  if (all.some(isWanted) || hasVolume) return;
  const names = all.map(({ metadata }) => metadata.name).join(", ") || "none";
  const lack = named === undefined ? "default StorageClass" : named && `StorageClass ${named}`;
  const reason = `the cluster has no ${lack || "volume without a class"} (its classes: ${names}), so no volume would be created`;
  throw missing(object, reason, {
    field: `${field}.storageClassName`,
    hint: `Set \`storageClassName\` to one of the cluster, or create the class. ${GET_K3S}`,
  });
}

async function assertMetrics(api: ApiClient, scaler: Autoscaler, manifests: KubeObject[]): Promise<void> {
  // Without metrics, an autoscaler uses the CPU.
  for (const { type } of scaler.spec.metrics?.length ? scaler.spec.metrics : [{ type: "Resource" }]) {
    const source = metricSources[type];
    if (
      !source ||
      manifests.some((object) => object.kind === "APIService" && object.metadata.name.endsWith(source.group))
    )
      continue;
    const group = await readable(api.find(`/apis/${source.group}`).then((found) => found ?? null));
    if (group !== null) continue;
    throw missing(scaler, `the cluster has no ${source.group}, so it would never know the load`, source);
  }
}

/** @returns undefined without the right to read */
function readable<T>(reading: Promise<T>): Promise<T | undefined> {
  return reading.catch((error: unknown) => {
    if (error instanceof ApiError && error.status === 403) return undefined;
    throw error;
  });
}

function missing(object: KubeObject, reason: string, { hint, field }: { hint: string; field?: string }): PipelineError {
  const name = field === undefined ? objectName(object) : `${objectName(object)} ${field}`;
  return new PipelineError("project", `${name} does not work here: ${reason}. Nothing was changed`, {
    code: "component-missing",
    hint: `${hint} Or remove the object from the overlay.`,
  });
}
