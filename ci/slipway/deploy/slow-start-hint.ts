/** Recognizes a service that runs and is not ready: it starts slowly, or its probe asks for the wrong path. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { serviceContainer, sortWorkloads } from "../kubernetes/service-port.ts";

/** The kubelet's events about probes. https://github.com/kubernetes/kubernetes/blob/v1.35.3/pkg/kubelet/prober/prober.go */
const READINESS = /\b(?:Readiness|Startup) probe failed: .*/g;
const ENDING = /\b(Liveness|Startup) probe failed\b/;
/** Replies of a process that has not opened its port, or does not want requests yet. */
const NOT_YET = /connection refused|statuscode: 5\d\d|deadline exceeded|\bi\/o timeout/;
/** Exits after the kubelet's SIGTERM: a clean end, the signal, and the SIGKILL that follows. */
const ENDED_BY_KUBELET = /\bexits with (?:0|137|143)\b|has ended it already/;

/** Returns the cause and the next step for a container that runs but is not ready. */
export function diagnoseSlowStart(output: string, service: Service, manifests: KubeObject[]): string | undefined {
  const replies = output.match(READINESS) ?? [];
  const [, status] = /statuscode: (4\d\d)/.exec(replies.at(-1) ?? "") ?? [];
  if (status) return `The service answers the probe with ${status}. Correct the \`path\` of the readinessProbe.`;
  if (!replies.some((reply) => NOT_YET.test(reply))) return undefined;
  const { readyTimeoutSeconds } = service;
  const first = `The process runs, but is not ready after ${readyTimeoutSeconds} s. If it starts slowly, set \`readyTimeoutSeconds: ${readyTimeoutSeconds * 10}\` in ci/pipeline.ts`;
  return hasStartupProbe(service, manifests) ? `${first}.` : `${first}, and ${startupProbe(readyTimeoutSeconds * 10)}.`;
}

/** Returns the cause and the next step for a container that the kubelet ends before it is ready. */
export function diagnoseProbeKill(
  reason: string,
  output: string,
  { readyTimeoutSeconds }: Service,
): string | undefined {
  const [, probe] = ENDING.exec(output) ?? /its (liveness|startup) probe failed/.exec(reason) ?? [];
  if (!probe || !ENDED_BY_KUBELET.test(reason) || /OOMKilled|memory limit/.test(reason)) return undefined;
  const remedy =
    probe.toLowerCase() === "startup"
      ? "raise `failureThreshold` of its startupProbe"
      : startupProbe(Math.max(120, readyTimeoutSeconds));
  return `The kubelet ends the process, because its ${probe.toLowerCase()} probe fails. If it starts slowly, ${remedy}.`;
}

const startupProbe = (seconds: number) =>
  `add a startupProbe with the path of its livenessProbe, \`periodSeconds: 1\` and \`failureThreshold: ${seconds}\``;

function hasStartupProbe(service: Service, manifests: KubeObject[]): boolean {
  const [template] = sortWorkloads(service, manifests).flatMap(podTemplates);
  const container = template && (serviceContainer(service, template) as { startupProbe?: object } | undefined);
  return container?.startupProbe !== undefined;
}
