/** Checks at the plan that the kubelet leaves a starting container the time that the settings give it. */
import { PipelineError } from "../core/errors.ts";
import type { KubeProbe } from "../kubernetes/convert-probes.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";

interface ProbedContainer {
  name: string;
  livenessProbe?: KubeProbe;
  startupProbe?: KubeProbe;
}

/**
 * @throws {PipelineError} "project" if liveness probes end a container before `readyTimeoutSeconds`. It could become ready after the
 *   kubelet has decided to end it, and would restart for ever
 */
export function assertTimeToStart(manifests: KubeObject[], readyTimeoutSeconds: number): void {
  for (const object of manifests.filter(isWorkload)) {
    for (const container of podTemplates(object).flatMap(({ spec }) => spec.containers as ProbedContainer[])) {
      const { name, livenessProbe, startupProbe } = container;
      if (!livenessProbe && !startupProbe) continue;
      const window = secondsOf(startupProbe) + secondsOf(livenessProbe);
      if (readyTimeoutSeconds <= window) continue;
      const probe = startupProbe ? "startupProbe" : "livenessProbe";
      throw new PipelineError(
        "project",
        `readyTimeoutSeconds is ${readyTimeoutSeconds}, but the ${probe} of ${name} in ${objectName(object)} ends a ` +
          `container that takes more than ${window} s to start. Nothing was changed`,
        {
          code: "probe-too-short",
          hint:
            `Give ${name} a startupProbe with the path of its livenessProbe, \`periodSeconds: 1\` and ` +
            `\`failureThreshold: ${readyTimeoutSeconds}\`, or set a shorter readyTimeoutSeconds.`,
        },
      );
    }
  }
}

/** Returns the seconds until a probe that never passes ends the container, with Kubernetes' defaults. 0 without a probe. */
function secondsOf(probe: KubeProbe | undefined): number {
  if (!probe) return 0;
  const { initialDelaySeconds = 0, periodSeconds = 10, failureThreshold = 3 } = probe;
  return initialDelaySeconds + periodSeconds * failureThreshold;
}
