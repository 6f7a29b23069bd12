/** Finds the workload that serves the version, and the Service port that leads to it. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject, KubeService, PodTemplate, Workload } from "./objects.ts";
import { containersOf, podTemplates } from "./pod-templates.ts";
import { isWorkload } from "./workload-state.ts";

/** A port of a Service that leads to the service's container. */
export interface ServicePort {
  /** Name of the Service. */
  service: string;
  /** Name of the port, or its number if it has none. */
  port: string;
  nodePort: number | undefined;
  /** Container port, if the pod template has it. */
  target: number | undefined;
}

/**
 * Sorts the manifests' workloads: first the one with the service's name, then those that run its image. The first
 * one's pods serve the version.
 */
export function sortWorkloads({ name }: Service, manifests: KubeObject[]): Workload[] {
  const runsImage = (object: KubeObject) =>
    podTemplates(object)
      .flatMap(containersOf)
      .some(({ image = "" }) => image === name || image.startsWith(`${name}:`));
  const rank = (object: Workload) => (object.metadata.name === name ? 0 : runsImage(object) ? 1 : 2);
  return manifests.filter(isWorkload).toSorted((a, b) => rank(a) - rank(b));
}

/** Returns the service's container in a pod template. */
export function serviceContainer({ name }: Service, { spec: { containers } }: PodTemplate) {
  const runsImage = ({ image = "" }: { image?: string }) => image === name || image.startsWith(`${name}:`);
  return containers.find(runsImage) ?? containers.find((container) => container.name === name) ?? containers[0];
}

/**
 * Returns whether the service is a worker, such as a queue consumer or a timer: nothing names a port that returns the
 * version. A Service, the setting `port`, the variable PORT, and a container port or probe with the default port name
 * it. A worker may have other ports, for example for metrics.
 */
export function isWorker(service: Service, manifests: KubeObject[]): boolean {
  const [workload] = sortWorkloads(service, manifests);
  const template = workload?.spec?.template;
  if (!template || service.isPortSet || findServicePort(service, manifests)) return false;
  const container = serviceContainer(service, template);
  const probes = [container?.startupProbe, container?.readinessProbe, container?.livenessProbe];
  const named = [
    ...(container?.ports ?? []).map(({ containerPort }) => containerPort),
    ...probes.map((probe) => Number((probe?.httpGet ?? probe?.tcpSocket ?? probe?.grpc)?.port)),
  ];
  return !container?.env?.some(({ name }) => name === "PORT") && !named.includes(service.port);
}

/** Returns the port that the service gets as PORT: from the container's environment, or from the settings. */
export function configuredPort(service: Service, template: PodTemplate | undefined): number {
  const container = template && serviceContainer(service, template);
  const value = container?.env?.find(({ name }) => name === "PORT")?.value;
  return Number(value) || service.port;
}

/** Returns the container port of a Service's port. Undefined if the pod template has no port of that name. */
export function targetOf(
  { port, targetPort = port }: { port: number; targetPort?: number | string },
  template: PodTemplate | undefined,
): number | undefined {
  if (typeof targetPort === "number") return targetPort;
  const ports = template?.spec.containers.flatMap(({ ports = [] }) => ports) ?? [];
  return ports.find(({ name }) => name === targetPort)?.containerPort;
}

/** Returns the Services that lead to a workload's pods: those that select them. */
export function servicesOf(manifests: KubeObject[], workload: Workload | undefined): KubeService[] {
  const labels = workload?.spec?.template?.metadata?.labels ?? {};
  return (manifests as KubeService[]).filter(({ apiVersion, kind, spec }) => {
    if (kind !== "Service" || apiVersion !== "v1" || spec?.type === "ExternalName") return false;
    const selector = Object.entries(spec?.selector ?? {});
    return selector.length > 0 && selector.every(([key, value]) => labels[key] === value);
  });
}

/**
 * Finds the Service port that answers with the version: of a Service that selects the service's pods, the port that
 * leads to PORT. Prefers a node port, then the name `http`, then the Service with the service's name.
 */
export function findServicePort(service: Service, manifests: KubeObject[]): ServicePort | undefined {
  const [workload] = sortWorkloads(service, manifests);
  const template = workload?.spec?.template;
  const expected = configuredPort(service, template);
  const named = manifests.filter(
    ({ kind, metadata }) => kind === "Service" && metadata.name === service.name,
  ) as KubeService[];
  const selecting = servicesOf(manifests, workload);
  // Without labels to compare, the name decides.
  const services = selecting.length > 0 ? selecting : named;
  const found = services.flatMap(({ metadata, spec }) =>
    (spec?.ports ?? [])
      .filter(({ protocol = "TCP" }) => protocol === "TCP")
      .map((port) => {
        const target = targetOf(port, template);
        const score =
          (target === expected ? 8 : 0) +
          (port.nodePort !== undefined ? 4 : 0) +
          (port.name === "http" ? 2 : 0) +
          (metadata.name === service.name ? 1 : 0);
        const { nodePort } = port;
        return { score, service: metadata.name, port: port.name ?? String(port.port), nodePort, target };
      }),
  );
  const [best] = found.toSorted((a, b) => b.score - a.score);
  if (!best) return undefined;
  const { score: _, ...port } = best;
  return port;
}
