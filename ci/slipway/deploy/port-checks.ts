/** Finds Service ports that reach no container port, and container ports that differ from PORT. */
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import {
  configuredPort,
  findServicePort,
  isWorker,
  serviceContainer,
  servicesOf,
  sortWorkloads,
  targetOf,
} from "../kubernetes/service-port.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

/** Finds ports that lead nowhere. */
export function findPortProblems(input: CheckInput): ManifestProblem[] {
  const { service, manifests, wasVerified } = input;
  const [workload] = sortWorkloads(service, manifests);
  if (!workload) return [];
  const [template] = podTemplates(workload);
  if (!template) return [];
  const expected = configuredPort(service, template);
  const declared = template.spec.containers.flatMap(({ ports = [] }) => ports.map((port) => port.containerPort));
  const isReached = (target: number | undefined) =>
    declared.length === 0 || target === expected || (target !== undefined && declared.includes(target));
  const problems = servicesOf(manifests, workload).flatMap((found) =>
    (found.spec.ports ?? []).flatMap((port, i, others): ManifestProblem[] => {
      // Beside the port that answers, a container may have ports that it does not declare.
      const target = targetOf(port, template);
      const field = `spec.ports[${i}].targetPort`;
      if (target === undefined) {
        const remedy = `Give a container port of ${objectName(workload)} this name`;
        return [{ object: objectName(found), field, problem: `no container has a port ${port.targetPort}`, remedy }];
      }
      if (isReached(target) || others.some((other) => isReached(targetOf(other, template)))) return [];
      const problem = `no container has the port ${target} (${objectName(workload)} has ${declared.join(", ")})`;
      return [{ object: objectName(found), field, problem, remedy: `Write \`targetPort: ${expected}\`` }];
    }),
  );
  // A service may listen on a fixed port, whatever PORT says. A verified version has shown that it does.
  return problems.length > 0 || wasVerified ? problems : findPortMismatch(input, workload, expected);
}

function findPortMismatch(
  { service, manifests }: CheckInput,
  workload: KubeObject,
  expected: number,
): ManifestProblem[] {
  const template = podTemplates(workload)[0]!;
  const container = serviceContainer(service, template);
  const declared = container?.ports?.map(({ containerPort }) => containerPort) ?? [];
  const reached = findServicePort(service, manifests)?.target;
  if (isWorker(service, manifests)) return [];
  if (declared.length === 0 || declared.includes(expected) || reached === expected) return [];
  const index = template.spec.containers.indexOf(container!);
  const field = `spec.template.spec.containers[${index}].ports[0].containerPort`;
  const problem = `the service gets PORT=${expected}, but containerPort is ${declared.join(", ")}`;
  const remedy = `Set \`port: ${declared[0]}\` in ci/pipeline.ts, or \`containerPort: ${expected}\` in the manifests`;
  return [{ object: objectName(workload), field, problem, remedy }];
}
