/** Finds pods that cannot be ready within the time that a rollout waits for them. */
import type { KubeProbe } from "../kubernetes/convert-probes.ts";
import { objectName, type Workload } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { podSpecPath } from "../kubernetes/references.ts";
import { sortWorkloads } from "../kubernetes/service-port.ts";
import { isOrderedStatefulSet } from "../kubernetes/workload-state.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

type DelayedProbe = KubeProbe & { successThreshold?: number };
interface ProbedContainer {
  name: string;
  readinessProbe?: DelayedProbe;
  startupProbe?: DelayedProbe;
}
type Rollout = Workload & { spec: { progressDeadlineSeconds?: number; minReadySeconds?: number } };

/** The earliest moment at which a container can be ready, and the field that decides it. */
interface Earliest {
  seconds: number;
  field: string;
}

/** Finds delays that are as long as the time to become ready. */
export function findLateReadiness({ service, manifests }: CheckInput): ManifestProblem[] {
  const { readyTimeoutSeconds, rolloutTimeoutSeconds } = service;
  return (sortWorkloads(service, manifests) as Rollout[]).flatMap((workload): ManifestProblem[] => {
    const object = objectName(workload);
    const containers = podTemplates(workload).flatMap(({ spec }) => spec.containers as ProbedContainer[]);
    const all = containers.map((container, i) => earliestOf(container, `${podSpecPath(workload)}.containers[${i}]`));
    const late = all.filter(({ seconds }) => seconds >= readyTimeoutSeconds);
    const ready = Math.max(0, ...all.map(({ seconds }) => seconds));
    const { minReadySeconds = 0, progressDeadlineSeconds, replicas = 1 } = workload.spec ?? {};
    const decisive = all.find(({ seconds }) => seconds === ready);
    const field = minReadySeconds > ready || !decisive ? "spec.minReadySeconds" : decisive.field;
    const available = ready + minReadySeconds;
    // One pod after the other.
    const total = isOrderedStatefulSet(workload) ? available * replicas : available;
    if (late.length > 0)
      return late.map(({ seconds, field }) => ({
        object,
        field,
        problem: `the container is ready after ${seconds} s at the earliest, but readyTimeoutSeconds is ${readyTimeoutSeconds}`,
        remedy: `Reduce the delay: a startupProbe waits for a slow start. Or set \`readyTimeoutSeconds: ${seconds * 2}\` in ci/pipeline.ts`,
      }));
    if (progressDeadlineSeconds !== undefined && available >= progressDeadlineSeconds) {
      const problem = `a pod counts after ${available} s at the earliest, but progressDeadlineSeconds is ${progressDeadlineSeconds}`;
      return [{ object, field, problem, remedy: "Reduce the delay, or raise progressDeadlineSeconds" }];
    }
    if (total < rolloutTimeoutSeconds) return [];
    const problem = `the rollout takes ${total} s at the least, but rolloutTimeoutSeconds is ${rolloutTimeoutSeconds}`;
    const remedy = `Reduce the delay, or set \`rolloutTimeoutSeconds: ${total * 2}\` in ci/pipeline.ts`;
    return [{ object, field, problem, remedy }];
  });
}

/** Both delays begin with the container. https://kubernetes.io/docs/concepts/workloads/pods/probes/ */
function earliestOf({ readinessProbe, startupProbe }: ProbedContainer, path: string): Earliest {
  const { initialDelaySeconds = 0, periodSeconds = 10, successThreshold = 1 } = readinessProbe ?? {};
  const startDelay = startupProbe?.initialDelaySeconds ?? 0;
  const repeats = readinessProbe ? periodSeconds * (successThreshold - 1) : 0;
  const delay = Math.max(initialDelaySeconds, startDelay);
  const probe = startDelay > initialDelaySeconds ? "startupProbe" : "readinessProbe";
  const field = repeats > delay ? "readinessProbe.successThreshold" : `${probe}.initialDelaySeconds`;
  return { seconds: delay + repeats, field: `${path}.${field}` };
}
