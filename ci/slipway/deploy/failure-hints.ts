/** Explains a failed container with what its log, its exit and the manifests reveal, in a cluster and in a smoke test. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { diagnoseEarlyEnd, diagnoseExit } from "./exit-hints.ts";
import { diagnoseBlockedEgress, diagnoseLogs, diagnosePortMismatch } from "./log-hints.ts";
import { diagnoseListeningPort, diagnoseLocalOnly, portsInLog } from "./port-hints.ts";
import { diagnoseProbeKill, diagnoseSlowStart } from "./slow-start-hint.ts";

export interface ContainerFailure {
  service: Service;
  manifests: KubeObject[];
  /** Output of the container, or the diagnostics that contain it. */
  output: string;
  /** The failure in words, with the exit code or the signal if the container ended. */
  reason: string;
  /** Whether the container runs but is not ready. */
  isSilent?: boolean;
  /** Ports on which the service listens. Default: those that its log names. */
  ports?: number[];
}

/** Returns cause and next step as sentences, or undefined. */
export function explainContainerFailure(failure: ContainerFailure): string | undefined {
  const { service, manifests, output, reason, isSilent = false, ports = portsInLog(output) } = failure;
  return (
    diagnoseProbeKill(reason, output, service) ??
    diagnoseExit(reason) ??
    diagnoseLogs(output, service, manifests) ??
    diagnoseBlockedEgress(output, service, manifests) ??
    (isSilent
      ? (diagnosePortMismatch(service, manifests) ??
        diagnoseListeningPort(ports, service, manifests) ??
        diagnoseLocalOnly(output) ??
        diagnoseBlockedEgress(output, service, manifests, isSilent) ??
        diagnoseSlowStart(output, service, manifests))
      : diagnoseEarlyEnd(reason))
  );
}
