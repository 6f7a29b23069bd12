/** Gives the service's container a readiness probe if the manifests have none, and a worker a time to stay up. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeProbe } from "./convert-probes.ts";
import type { KubeObject } from "./objects.ts";
import { podTemplates } from "./pod-templates.ts";
import { configuredPort, findServicePort, isWorker, serviceContainer, sortWorkloads } from "./service-port.ts";

interface ProbedContainer {
  readinessProbe?: KubeProbe;
  startupProbe?: KubeProbe;
}

/** Seconds that a worker without a probe has to run. */
const MIN_READY_SECONDS = 5;

/**
 * Adds a TCP readiness probe to the container that serves the version, in place. Without a probe, a pod counts as ready
 * before it listens, so a version that crashes replaces the pods that serve. A worker has no port to probe. Its pods
 * count as available when they have run for some seconds.
 */
export function addDefaultReadiness(service: Service, manifests: KubeObject[]): void {
  const [workload] = sortWorkloads(service, manifests);
  const [template] = workload ? podTemplates(workload) : [];
  const container = template && (serviceContainer(service, template) as ProbedContainer | undefined);
  if (!workload || !container || container.readinessProbe || container.startupProbe) return;
  if (isWorker(service, manifests)) {
    workload.spec.minReadySeconds ??= MIN_READY_SECONDS;
    return;
  }
  const port = findServicePort(service, manifests)?.target ?? configuredPort(service, template);
  container.readinessProbe = { tcpSocket: { port }, periodSeconds: 1 };
}
