/** Checks at the plan that the cluster has what the manifests' objects need to work. Without it they are stored and do nothing. */
import { PipelineError } from "../core/errors.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";

interface Ingress extends KubeObject {
  spec: { ingressClassName?: string };
}

interface Autoscaler extends KubeObject {
  spec: { metrics?: { type: string }[] };
}

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

function missing(object: KubeObject, reason: string, { hint }: { hint: string }): PipelineError {
  return new PipelineError("project", `${objectName(object)} does not work here: ${reason}. Nothing was changed`, {
    code: "component-missing",
    hint: `${hint} Or remove the object from the overlay.`,
  });
}
