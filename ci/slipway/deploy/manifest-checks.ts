/**
 * Checks of the rendered manifests against the assumptions of a deploy and the live cluster. `plan` runs them before
 * anything is delivered.
 */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError, type ErrorKind } from "../core/errors.ts";
import { objectName, type KubeObject, type Workload } from "../kubernetes/objects.ts";
import { findEnvConflicts } from "./env-conflicts.ts";
import { findExamples } from "./example-values.ts";
import { findNamespaceConflicts } from "./namespace-labels.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";
import { findPortProblems } from "./port-checks.ts";
import { findMissingPrograms } from "./program-checks.ts";
import { findLateReadiness } from "./readiness-checks.ts";
import { findMissingReferences } from "./reference-checks.ts";
import { servicesOf, sortWorkloads } from "../kubernetes/service-port.ts";
import { splitPreDeployJobs } from "../kubernetes/render.ts";
import { podTemplates, containersOf } from "../kubernetes/pod-templates.ts";

export interface ManifestCheck {
  name: string;
  kind: Extract<ErrorKind, "project" | "environment">;
  code: ErrorCode;
  find(input: CheckInput): ManifestProblem[];
}

const problemOf = (object: KubeObject, field: string, problem: string, remedy: string): ManifestProblem => ({
  object: objectName(object),
  field,
  problem,
  remedy,
});

/** Workloads with the fields that stop a rollout. */
type PausableWorkload = Workload & {
  spec: {
    paused?: boolean;
    updateStrategy?: { type?: string; rollingUpdate?: { partition?: number } };
  };
};

function findPaused({ manifests, service }: CheckInput): ManifestProblem[] {
  const workloads = sortWorkloads(service, manifests) as PausableWorkload[];
  const paused = workloads.flatMap((workload) => {
    const { paused, updateStrategy: { type, rollingUpdate } = {} } = workload.spec ?? {};
    const found: ManifestProblem[] = [];
    if (paused) found.push(problemOf(workload, "spec.paused", "a paused rollout never ends", "Remove the field"));
    if (type === "OnDelete")
      found.push(
        problemOf(
          workload,
          "spec.updateStrategy.type",
          "with OnDelete, pods keep the old version",
          "Use RollingUpdate",
        ),
      );
    const { partition = 0 } = rollingUpdate ?? {};
    if (partition > 0)
      found.push(
        problemOf(
          workload,
          "spec.updateStrategy.rollingUpdate.partition",
          `pods below ${partition} keep the old version`,
          "Remove the field",
        ),
      );
    return found;
  });
  const suspended = splitPreDeployJobs(manifests).jobs.filter(
    (job) => (job as KubeObject & { spec?: { suspend?: boolean } }).spec?.suspend,
  );
  return [
    ...paused,
    ...suspended.map((job) => problemOf(job, "spec.suspend", "a suspended Job never ends", "Remove the field")),
  ];
}

function findForeignImages({ manifests, service, overlay }: CheckInput): ManifestProblem[] {
  const workloads = sortWorkloads(service, manifests);
  const [main] = workloads;
  if (!main) {
    const remedy = "Add a Deployment, or run `slipway init`";
    return [{ object: overlay, field: "", problem: "there is no Deployment, StatefulSet or DaemonSet", remedy }];
  }
  const templates = workloads.flatMap(podTemplates);
  if (templates.flatMap(containersOf).some(({ image }) => image === service.name)) return [];
  const images = podTemplates(main).flatMap(({ spec }) => spec.containers);
  const index = Math.max(
    0,
    images.findIndex(({ name }) => name === service.name),
  );
  const field = `spec.template.spec.containers[${index}].image`;
  const image = images[index]?.image ?? "nothing";
  return [problemOf(main, field, `${image} is not the image of ${service.name}`, `Write \`image: ${service.name}\``)];
}

function findOtherNamespaces({ manifests, service }: CheckInput): ManifestProblem[] {
  const workloads = sortWorkloads(service, manifests);
  const needed: KubeObject[] = [...workloads, ...servicesOf(manifests, workloads[0])];
  return needed
    .filter(({ metadata }) => metadata.namespace !== undefined && metadata.namespace !== service.namespace)
    .map((object) =>
      problemOf(
        object,
        "metadata.namespace",
        `${object.metadata.namespace} is not the service's namespace ${service.namespace}`,
        `Remove the field, or set \`namespace: "${object.metadata.namespace}"\` in ci/pipeline.ts`,
      ),
    );
}

function findDeletedNamespace({ namespace, service }: CheckInput): ManifestProblem[] {
  if (!namespace?.metadata.deletionTimestamp) return [];
  const remedy = "Wait until the namespace is deleted, then run the command again";
  return [{ object: `Namespace/${service.namespace}`, field: "", problem: "the cluster is deleting it", remedy }];
}

function findMissingNamespace({ namespace, manifests, service }: CheckInput): ManifestProblem[] {
  const isOwn = manifests.some(({ kind, metadata }) => kind === "Namespace" && metadata.name === service.namespace);
  if (namespace !== null || isOwn) return [];
  const problem = "the namespace does not exist, and the manifests do not create it";
  const remedy = `Create it with \`kubectl create namespace ${service.namespace}\``;
  return [{ object: `Namespace/${service.namespace}`, field: "", problem, remedy }];
}

/** All checks. Problems of the first kind that has any are reported together. */
export const manifestChecks: readonly ManifestCheck[] = [
  { name: "image", kind: "project", code: "manifests-unsuitable", find: findForeignImages },
  { name: "namespace", kind: "project", code: "manifests-unsuitable", find: findOtherNamespaces },
  { name: "paused", kind: "project", code: "manifests-unsuitable", find: findPaused },
  { name: "variables", kind: "project", code: "manifests-unsuitable", find: findEnvConflicts },
  { name: "ports", kind: "project", code: "manifests-unsuitable", find: findPortProblems },
  { name: "examples", kind: "project", code: "manifests-unsuitable", find: findExamples },
  { name: "programs", kind: "project", code: "program-missing", find: findMissingPrograms },
  { name: "late readiness", kind: "project", code: "readiness-too-late", find: findLateReadiness },
  { name: "references", kind: "project", code: "reference-missing", find: findMissingReferences },
  { name: "shared namespace", kind: "project", code: "namespace-shared", find: findNamespaceConflicts },
  { name: "deleted namespace", kind: "environment", code: "namespace-terminating", find: findDeletedNamespace },
  { name: "missing namespace", kind: "environment", code: "namespace-not-found", find: findMissingNamespace },
];

/** @throws {PipelineError} that names every object and field with a problem, and the remedies */
export function assertSuitable(input: CheckInput): void {
  const found = manifestChecks.flatMap((check) => check.find(input).map((problem) => ({ ...problem, check })));
  const [first] = found;
  if (!first) return;
  const same = found.filter(({ check }) => check.kind === first.check.kind);
  const lines = same.map(({ object, field, problem }) => `${object}${field && ` ${field}`}: ${problem}`);
  const remedies = [...new Set(same.map(({ remedy }) => `${remedy}.`))];
  throw new PipelineError(first.check.kind, `${lines.join("; ")}. Nothing was changed`, {
    code: first.check.code,
    hint: remedies.join(" "),
  });
}

/** Returns the names of other namespaces that the checks ask for. */
export function namespacesToFind(manifests: KubeObject[]): string[] {
  const text = JSON.stringify(manifests.filter(({ kind }) => kind === "NetworkPolicy"));
  return [...new Set([...text.matchAll(/"kubernetes\.io\/metadata\.name":"([^"]+)"/g)].map(([, name]) => name!))];
}
