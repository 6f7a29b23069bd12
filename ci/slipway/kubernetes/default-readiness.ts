/** Gives the service's container a readiness probe if the manifests have none. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeProbe } from "./convert-probes.ts";
import type { KubeObject } from "./objects.ts";
import { podTemplates } from "./pod-templates.ts";
import { configuredPort, findServicePort, serviceContainer, sortWorkloads } from "./service-port.ts";

interface ProbedContainer {
  readinessProbe?: KubeProbe;
  startupProbe?: KubeProbe;
}

/**
 * Adds a TCP readiness probe to the container that serves the version, in place. Without a probe, a pod counts as ready
 * before it listens, so a version that crashes replaces the pods that serve.
 */
export function addDefaultReadiness(service: Service, manifests: KubeObject[]): void {
  const [workload] = sortWorkloads(service, manifests);
  const [template] = workload ? podTemplates(workload) : [];
  const container = template && (serviceContainer(service, template) as ProbedContainer | undefined);
  if (!container || container.readinessProbe || container.startupProbe) return;
  const port = findServicePort(service, manifests)?.target ?? configuredPort(service, template);
  container.readinessProbe = { tcpSocket: { port }, periodSeconds: 1 };
}
