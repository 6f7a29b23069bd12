/** Manifests: from the overlay to objects of one version, and what the server would change with them. */
import { join } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { run } from "../ground/process.ts";
import type { Service } from "../ground/service.ts";
import { Refusal, type Api } from "./api.ts";
import { nameOf, type Deployment, type KubeObject } from "./objects.ts";
import type { Target } from "./target.ts";

/** Kinds that others of the same apply live in or run as; the rest may come in any order, the pods last. */
const order = ["Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "Secret"];

/**
 * What the overlay holds, as kustomize has it.
 *
 * @throws {PipelineError} "change" when it is not valid
 */
export async function render(
  { kubectl, overlay }: Pick<Target, "kubectl" | "overlay">,
  service: Service,
  signal: AbortSignal,
): Promise<KubeObject[]> {
  const program = kubectl.filter((word) => word !== "sudo" && !word.startsWith("--"));
  const { code, stdout, stderr } = await run([...program, "kustomize", join(service.project, overlay)], {
    signal,
  });
  if (code !== 0) {
    throw new PipelineError("change", `${overlay} is no valid kustomization`, { output: stderr });
  }
  const parsed = Bun.YAML.parse(stdout) as KubeObject | KubeObject[];
  const rank = (object: KubeObject) => {
    const place = order.indexOf(object.kind);
    if (place >= 0) return place;
    return isApp(service, object) ? order.length + 1 : order.length;
  };
  return [parsed].flat().sort((a, b) => rank(a) - rank(b));
}

/** Whether it is the service's Deployment. */
function isApp({ name }: Service, object: KubeObject): object is Deployment {
  return nameOf(object) === `Deployment/${name}`;
}

/** The manifests of one version: its image where the overlay names the service's, its id as a label of the pods. */
export function forVersion(
  service: Service,
  manifests: KubeObject[],
  id: string,
  image: string,
): KubeObject[] {
  const version = { "app.kubernetes.io/version": id };
  return structuredClone(manifests).map((object) => {
    if (!isApp(service, object)) return object;
    const { template } = object.spec;
    const containers = [...template.spec.containers, ...(template.spec.initContainers ?? [])];
    for (const container of containers) if (container.image === service.name) container.image = image;
    object.metadata.labels = { ...object.metadata.labels, ...version };
    template.metadata = { ...template.metadata, labels: { ...template.metadata?.labels, ...version } };
    return object;
  });
}

export interface Difference {
  /** `Deployment/helloapp` */
  object: string;
  /** Lines like `spec.replicas: 2 -> 3`; of an object that is new, none. */
  lines: string[];
  isNew: boolean;
}

/**
 * What an apply would change. The server checks and merges as it would for a real one and keeps nothing, so what others
 * have set, or a default, is no difference.
 *
 * @throws {PipelineError} "change" when the server refuses the manifests
 */
export async function differences(api: Api, manifests: KubeObject[]): Promise<Difference[]> {
  const compared = await Promise.all(
    manifests.map(async (object): Promise<Difference[]> => {
      const live = await api.find<KubeObject>(await api.pathOf(object));
      const merged = await api.apply(object, { dryRun: true }).catch((error: unknown) => {
        // A dry run cannot put anything into a namespace that is not there yet.
        if (error instanceof Refusal && error.status === 404 && !live) return object;
        throw refused("the dry run of", object, error);
      });
      if (!live) return [{ object: nameOf(object), lines: [], isNew: true }];
      const lines = compare(significant(live), significant(merged));
      return lines.length > 0 ? [{ object: nameOf(object), lines, isNew: false }] : [];
    }),
  );
  return compared.flat();
}

/** Applies all of it, in order. It is not interrupted: half of a version is none. */
export async function applyAll(api: Api, manifests: KubeObject[]): Promise<void> {
  for (const object of manifests) {
    await api.apply(object).catch((error: unknown) => {
      throw refused("applying", object, error);
    });
  }
}

/** Deletes what these manifests hold and those do not. A namespace stays: what else is in it is not ours. */
export async function prune(api: Api, before: KubeObject[], after: KubeObject[]): Promise<string[]> {
  const key = (object: KubeObject) => [object.apiVersion.split("/")[0], nameOf(object)].join(" ");
  const kept = new Set(after.map(key));
  const gone = before.filter((object) => object.kind !== "Namespace" && !kept.has(key(object)));
  for (const object of gone) await api.delete(object);
  return gone.map(nameOf);
}

/** The objects as the server has them, to come back to: without what the server itself writes. */
export async function snapshot(api: Api, manifests: KubeObject[]): Promise<KubeObject[]> {
  const found = await Promise.all(
    manifests.map(async (object) => api.find<KubeObject>(await api.pathOf(object))),
  );
  return found.flatMap((object) => {
    if (!object) return [];
    const { metadata, status: _, ...rest } = object as KubeObject & { status?: unknown };
    const { name, namespace, labels } = metadata;
    return [{ ...rest, metadata: { name, ...(namespace && { namespace }), ...(labels && { labels }) } }];
  });
}

/** Objects that the server calls invalid are the change's fault; a server that cannot be asked is not. */
function refused(what: string, object: KubeObject, error: unknown): unknown {
  if (!(error instanceof Refusal) || !error.isInvalid) return error;
  const message = `${what} ${nameOf(object)}: the cluster refuses it: ${error.reply}`;
  return new PipelineError("change", message, { hint: "Correct the manifests under k8s/.", cause: error });
}

function significant(object: KubeObject): unknown {
  const { metadata, status: _, ...rest } = object as KubeObject & { status?: unknown };
  const { labels } = metadata;
  const annotations = Object.entries(metadata.annotations ?? {}).filter(([name]) => !written.test(name));
  return { ...rest, metadata: { labels, annotations: Object.fromEntries(annotations) } };
}

/** Annotations that controllers write. */
const written = /^deployment\.kubernetes\.io\/|^kubernetes\.io\/change-cause$/;

/** The places where two values differ, one line each. */
export function compare(before: unknown, after: unknown, path = ""): string[] {
  if (Bun.deepEquals(before, after)) return [];
  if (isTree(before) && isTree(after) && Array.isArray(before) === Array.isArray(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) => compare(before[key], after[key], path ? `${path}.${key}` : key));
  }
  const show = (value: unknown) => (value === undefined ? "nothing" : JSON.stringify(value));
  return [`${path}: ${show(before)} -> ${show(after)}`];
}

function isTree(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
