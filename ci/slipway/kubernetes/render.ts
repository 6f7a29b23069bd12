/** From the overlay to objects, and from them to those of one version. */
import { join } from "node:path";
import { parseAllDocuments, visit } from "yaml";
import { PipelineError } from "../core/errors.ts";
import { cloneJson, rawJsonNumber } from "../core/lossless-json.ts";
import { runProcess, type ProcessResult } from "../core/process.ts";
import type { Service } from "../core/service-config.ts";
import type { KubeObject, PodTemplate } from "./objects.ts";
import { isWorkload } from "./observe.ts";

/** Kinds that others of the same apply live in or run as; the rest may come in any order, the pods last. */
const order = ["Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "Secret"];

/** Where manifests come from. */
export interface ManifestSource {
  /** kubectl as a person would type it for this cluster, for the line to run next. */
  kubectl: string[];
  /** The kustomize overlay, a directory relative to the project. */
  overlay: string;
  /** Runs kustomize on the overlay. Default: `kubectl kustomize` on this machine. */
  kustomize?(overlay: string): Promise<ProcessResult>;
}

/**
 * What the overlay holds, as kustomize has it.
 *
 * @throws {PipelineError} "project" when it is not valid
 */
export async function renderManifests(
  { kubectl, overlay, kustomize }: ManifestSource,
  service: Service,
  signal: AbortSignal,
): Promise<KubeObject[]> {
  const here = () => kustomizeLocally(kubectl, join(service.project, overlay), signal);
  const { code, stdout, stderr } = await (kustomize ? kustomize(overlay) : here());
  if (code !== 0) {
    throw new PipelineError("project", `${overlay} is no valid kustomization`, { output: stderr });
  }
  const rank = (object: KubeObject) => {
    const place = order.indexOf(object.kind);
    if (place >= 0) return place;
    return isWorkload(object) ? order.length + 1 : order.length;
  };
  return parseManifests(stdout, overlay).sort((a, b) => rank(a) - rank(b));
}

/** Runs kustomize on a directory, by the kubectl of these words. */
export function kustomizeLocally(
  kubectl: string[],
  directory: string,
  signal: AbortSignal,
): Promise<ProcessResult> {
  const program = kubectl.filter((word) => word !== "sudo" && !word.startsWith("--"));
  return runProcess([...program, "kustomize", directory], { signal, timeoutSeconds: 60 });
}

/**
 * Objects of YAML as Kubernetes reads it: a float that no float can hold is a text (`7e81234`, a short commit), and an integer
 * keeps all of its digits. https://pkg.go.dev/sigs.k8s.io/yaml
 *
 * @param from what the text is, for the error
 * @throws {PipelineError} "project" when it is no YAML
 */
export function parseManifests(text: string, from: string): KubeObject[] {
  return parseAllDocuments(text, { merge: true }).flatMap((document) => {
    const [error] = document.errors;
    if (error) throw new PipelineError("project", `${from} is no valid YAML: ${error.message}`);
    visit(document, {
      Scalar(_, scalar) {
        if (typeof scalar.value !== "number" || scalar.source === undefined) return;
        if (!Number.isFinite(scalar.value)) scalar.value = scalar.source;
        else if (/^[-+]?\d+$/.test(scalar.source) && !Number.isSafeInteger(scalar.value)) {
          // Written into JSON as it stands.
          scalar.value = rawJsonNumber(scalar.source.replace(/^\+/, ""));
        }
      },
    });
    return flat(document.toJS() as KubeObject | KubeObject[] | null);
  });
}

/** Objects of a list, also of one that is an object of kind List. */
function flat(parsed: KubeObject | KubeObject[] | null): KubeObject[] {
  return [parsed ?? []].flat().flatMap((object) => {
    const { items } = object as KubeObject & { items?: KubeObject[] };
    // A kustomization may be without a kind.
    return object.kind?.endsWith("List") && Array.isArray(items) ? items : [object];
  });
}

/** The templates of pods that an object has, of whatever kind it is. */
export function podTemplates(object: KubeObject): PodTemplate[] {
  const { spec } = object as KubeObject & {
    spec?: { template?: PodTemplate; jobTemplate?: { spec?: { template?: PodTemplate } } };
  };
  if (object.kind === "Pod") return [object as unknown as PodTemplate];
  return [spec?.template, spec?.jobTemplate?.spec?.template].filter(
    (one) => one?.spec?.containers !== undefined,
  ) as PodTemplate[];
}

/** All containers of a template, those that come first as well. */
export function containersOf({ spec }: PodTemplate): { name: string; image: string }[] {
  return [...spec.containers, ...(spec.initContainers ?? [])];
}

/**
 * The manifests of one version: its image wherever they name the service's, its id as a label of the pods that keep running.
 *
 * @param image how pods name it
 */
export function withVersion(
  service: Service,
  manifests: KubeObject[],
  id: string,
  image: string,
): KubeObject[] {
  const version = { "app.kubernetes.io/version": id };
  return cloneJson(manifests).map((object) => {
    const templates = podTemplates(object);
    for (const container of templates.flatMap(containersOf)) {
      if (container.image === service.name) container.image = image;
    }
    if (!isWorkload(object)) return object;
    object.metadata.labels = { ...object.metadata.labels, ...version };
    for (const template of templates) {
      template.metadata = { ...template.metadata, labels: { ...template.metadata?.labels, ...version } };
    }
    return object;
  });
}

/** Annotation of a Job that has to succeed before the pods change, for example a migration. */
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
