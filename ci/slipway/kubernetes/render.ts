/** Renders an overlay to objects, and sets a version's image and labels in them. */
import { join } from "node:path";
import { parseAllDocuments, visit } from "yaml";
import { PipelineError } from "../core/errors.ts";
import { cloneJson, rawJsonNumber } from "../core/lossless-json.ts";
import { runProcess, type ProcessResult } from "../core/process.ts";
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject } from "./objects.ts";
import { addDefaultReadiness } from "./default-readiness.ts";
import { containersOf, podTemplates } from "./pod-templates.ts";
import { adoptServiceImage, renamedImages } from "./service-images.ts";
import { addSettingsEnv } from "./settings-env.ts";
import { isWorkload } from "./workload-state.ts";

/** Kinds to apply first because others need them. All other kinds follow in any order, workloads last. */
const APPLY_FIRST = ["Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "Secret"];

/** Source of the manifests. */
export interface ManifestSource {
  /** kubectl command for this cluster. */
  kubectl: string[];
  /** The kustomize overlay, relative to the project. */
  overlay: string;
  /** Runs kustomize on the overlay. Default: `kubectl kustomize` on this machine. */
  kustomize?(overlay: string): Promise<ProcessResult>;
}

/**
 * Renders the overlay with kustomize, in the order to apply.
 *
 * @throws {PipelineError} "project" if it is invalid
 */
export async function renderManifests(
  { kubectl, overlay, kustomize }: ManifestSource,
  service: Service,
  signal: AbortSignal,
): Promise<KubeObject[]> {
  const locally = () => kustomizeLocally(kubectl, join(service.project, overlay), signal);
  const { code, stdout, stderr } = await (kustomize ? kustomize(overlay) : locally());
  if (code !== 0) {
    throw new PipelineError("project", `${overlay} is not a valid kustomization`, {
      code: "manifests-invalid",
      output: stderr,
    });
  }
  const rank = (object: KubeObject) => {
    const index = APPLY_FIRST.indexOf(object.kind);
    if (index >= 0) return index;
    return isWorkload(object) ? APPLY_FIRST.length + 1 : APPLY_FIRST.length;
  };
  const objects = parseManifests(stdout, overlay).sort((a, b) => rank(a) - rank(b));
  adoptServiceImage(service.name, objects, renamedImages(service.name, join(service.project, overlay)));
  return addSettingsEnv(service, objects);
}

/** Runs `kubectl kustomize` on a directory. */
export function kustomizeLocally(kubectl: string[], directory: string, signal: AbortSignal): Promise<ProcessResult> {
  const program = kubectl.filter((argument) => argument !== "sudo" && !argument.startsWith("--"));
  return runProcess([...program, "kustomize", directory], { signal, timeoutSeconds: 60 });
}

/**
 * Parses YAML as Kubernetes does. An integer keeps all its digits. A number beyond the range of a float is text, such
 * as `7e81234` (a short commit). https://pkg.go.dev/sigs.k8s.io/yaml
 *
 * @param from the source, for the error
 * @throws {PipelineError} "project" if it is not valid YAML
 */
export function parseManifests(text: string, from: string): KubeObject[] {
  return parseAllDocuments(text, { merge: true }).flatMap((document) => {
    const [error] = document.errors;
    if (error)
      throw new PipelineError("project", `${from} is not valid YAML: ${error.message}`, { code: "manifests-invalid" });
    visit(document, {
      Scalar(_, scalar) {
        if (typeof scalar.value !== "number" || scalar.source === undefined) return;
        if (!Number.isFinite(scalar.value)) scalar.value = scalar.source;
        else if (/^[-+]?\d+$/.test(scalar.source) && !Number.isSafeInteger(scalar.value)) {
          // Its digits go into JSON unchanged.
          scalar.value = rawJsonNumber(scalar.source.replace(/^\+/, ""));
        }
      },
    });
    return flattenLists(document.toJS() as KubeObject | KubeObject[] | null);
  });
}

/** Flattens objects of kind List. */
function flattenLists(parsed: KubeObject | KubeObject[] | null): KubeObject[] {
  return [parsed ?? []].flat().flatMap((object) => {
    const { items } = object as KubeObject & { items?: KubeObject[] };
    // A kustomization file may have no kind.
    return object.kind?.endsWith("List") && Array.isArray(items) ? items : [object];
  });
}

/**
 * Returns the manifests of one version. Containers with the service's image get the version's image, workloads and
 * their pods the id as a label, and the container that serves a readiness probe.
 *
 * @param image the image's name in pods
 * @param isImported whether nodes have the image without a registry. The kubelet must never ask one for it then: if the image is
 *   gone, Docker Hub may have another one of this name
 */
export function withVersion(
  service: Service,
  manifests: KubeObject[],
  id: string,
  image: string,
  isImported = false,
): KubeObject[] {
  const version = { "app.kubernetes.io/version": id };
  const copies = cloneJson(manifests);
  addDefaultReadiness(service, copies);
  return copies.map((object) => {
    const templates = podTemplates(object);
    for (const container of templates.flatMap(containersOf)) {
      if (container.image !== service.name) continue;
      container.image = image;
      if (isImported) container.imagePullPolicy = "Never";
    }
    if (!isWorkload(object)) return object;
    object.metadata.labels = { ...object.metadata.labels, ...version };
    for (const template of templates) {
      template.metadata = { ...template.metadata, labels: { ...template.metadata?.labels, ...version } };
    }
    return object;
  });
}

/** Annotation of a Job that must succeed before the rollout, for example a migration. */
export const PRE_DEPLOY_ANNOTATION = "slipway/pre-deploy";
/** The same annotation in versions that a cluster stored before 0.2.0. */
const LEGACY_PRE_DEPLOY_ANNOTATION = "slipway/first";

/** Separates the Jobs that run before the rollout from the other objects. */
export function splitPreDeployJobs(manifests: KubeObject[]): { jobs: KubeObject[]; rest: KubeObject[] } {
  const names = [PRE_DEPLOY_ANNOTATION, LEGACY_PRE_DEPLOY_ANNOTATION];
  const isPreDeployJob = ({ kind, metadata }: KubeObject) =>
    kind === "Job" && names.some((name) => metadata.annotations?.[name] === "true");
  return {
    jobs: manifests.filter(isPreDeployJob),
    rest: manifests.filter((object) => !isPreDeployJob(object)),
  };
}
