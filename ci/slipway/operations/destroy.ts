/** Removes a service from the cluster: everything that slipway made for it. */
import type { DeployContext } from "../deploy/plan.ts";
import { assertOwnProject } from "../deploy/checks-project.ts";
import { deleteVersion, listVersions, referencedImages, type Version } from "../deploy/release-history.ts";
import { assertGranted } from "../deploy/required-rights.ts";
import { PipelineError } from "../core/errors.ts";
import { createPartialFailure } from "../kubernetes/apply.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import { objectName, type KubeObject, type Pod } from "../kubernetes/objects.ts";
import { CREATED_BY, prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";

export interface DestroyOptions {
  /** Whether claims are deleted, with their data. */
  hasVolumes: boolean;
  /** Whether the namespace is deleted, with all in it. */
  hasNamespace: boolean;
}

interface Claim extends KubeObject {
  spec?: { resources?: { requests?: { storage?: string } } };
  status?: { capacity?: { storage?: string } };
}

export interface Inventory {
  /** Objects that slipway has created, workloads first. */
  own: { object: KubeObject; path: string }[];
  claims: Claim[];
  versions: Version[];
  images: string[];
  /** Objects of the manifests that others created. */
  foreign: string[];
}

/** Seconds that pods may take to end, beyond their grace period. */
const TERMINATION_SECONDS = 60;
const POLL_MS = 500;
const neverListed = new Set(["Namespace", "CustomResourceDefinition", "PersistentVolume"]);

/**
 * Lists the objects that a deletion would delete. Changes nothing.
 *
 * @throws {PipelineError} "project" if the objects belong to another project
 */
export async function takeInventory(context: DeployContext): Promise<Inventory> {
  const { target, service, signal, log } = context;
  const { api } = target;
  const versions = await listVersions(api, log);
  const current = await renderManifests(target, service, signal).catch((error: unknown) => {
    if (!(error instanceof PipelineError)) throw error;
    log(`only objects of stored versions are looked for: ${error.message}`);
    return [];
  });
  const all = [...current, ...versions.flatMap(({ manifests }) => manifests)];
  const unique = new Map(all.map((object) => [`${objectName(object)} ${object.metadata.namespace ?? ""}`, object]));
  const manifests = [...unique.values()].filter(({ kind }) => !neverListed.has(kind));
  await assertOwnProject(api, manifests, versions);
  const jobs = await listAll(context, "/apis/batch/v1", "jobs");
  const prepared = (await prepareForApply(api, manifests)).filter(({ live }) => live);
  const isOwn = (object: KubeObject | undefined) => object?.metadata.annotations?.[CREATED_BY] === service.name;
  const listed = jobs.filter(isOwn).map((job) => ({
    object: { ...job, apiVersion: "batch/v1", kind: "Job" },
    path: api.collection("/apis/batch/v1", `jobs/${job.metadata.name}`),
  }));
  const isClaim = ({ kind }: KubeObject) => kind === "PersistentVolumeClaim";
  const found = prepared
    .filter(({ object, live }) => isOwn(live) && !isClaim(object))
    .map(({ object, path }) => ({ object, path: path! }));
  const own = new Map([...found, ...listed].map((one) => [one.path, one]));
  const ownClaims = prepared.filter(({ object, live }) => isClaim(object) && isOwn(live)).map(({ live }) => live!);
  const claims = new Map(
    [...(await listAll(context, "/api/v1", "persistentvolumeclaims")), ...ownClaims].map((claim) => [
      claim.metadata.name,
      claim,
    ]),
  );
  return {
    own: [...own.values()].sort((a, b) => Number(isWorkload(b.object)) - Number(isWorkload(a.object))),
    claims: [...claims.values()],
    versions,
    images: await listImagesOnNodes(context),
    foreign: prepared
      .filter(({ object, live }) => !isOwn(live) && !isClaim(object))
      .map(({ object }) => objectName(object)),
  };
}

/** Lists objects with the service's label. Without the right to list them, there are none to report. */
async function listAll({ target: { api } }: DeployContext, group: string, plural: string): Promise<KubeObject[]> {
  return api.list(api.collection(group, plural), { labelSelector: api.selector }).catch((error: unknown) => {
    if (error instanceof ApiError && [403, 404].includes(error.status)) return [];
    throw error;
  });
}

/** Asks the target for its images, and keeps each one. */
async function listImagesOnNodes({ target }: DeployContext): Promise<string[]> {
  const names = new Set<string>();
  const keepAll = { has: (name: string) => Boolean(names.add(name)) } as unknown as Set<string>;
  await target.clean(async () => keepAll);
  return [...names];
}

/** Describes an inventory as lines. Empty if there is nothing to delete. */
export function describeInventory(inventory: Inventory, options: DestroyOptions, namespace: string): string[] {
  const { own, claims, versions, images, foreign } = inventory;
  const claimLines = claims.map((claim) => `  PersistentVolumeClaim/${claim.metadata.name}  ${sizeOf(claim)}`);
  const section = (title: string, lines: string[]) => (lines.length > 0 ? [`${title}:`, ...lines] : []);
  const deleted = [
    ...own.map(({ object }) => `  ${objectName(object)}`),
    ...versions.map(({ name, id }) => `  Secret/${name}  stored version ${id}`),
    ...images.map((name) => `  ${name}  image on the nodes`),
    ...(options.hasVolumes || options.hasNamespace ? claimLines.map((line) => `${line}, with its data`) : []),
    ...(options.hasNamespace ? [`  Namespace/${namespace}  with everything in it`] : []),
  ];
  const left = [
    ...(options.hasVolumes || options.hasNamespace ? [] : claimLines.map((line) => `${line} (--volumes deletes it)`)),
    ...(options.hasNamespace ? [] : [`  Namespace/${namespace}  (--namespace deletes it)`]),
    ...(options.hasNamespace ? [] : foreign.map((name) => `  ${name}  made by others`)),
  ];
  return deleted.length === 0 ? [] : [...section("this is deleted", deleted), ...section("this stays", left)];
}

function sizeOf({ spec, status }: Claim): string {
  return status?.capacity?.storage ?? spec?.resources?.requests?.storage ?? "of unknown size";
}

/** @throws {PipelineError} "environment" with all missing rights, before anything is deleted */
export async function assertDeletable(
  { target: { api } }: DeployContext,
  { own, claims, versions }: Inventory,
  options: DestroyOptions,
): Promise<void> {
  const paths = [
    ...own.map(({ path }) => path),
    ...versions.map(({ name }) => api.collection("/api/v1", `secrets/${name}`)),
    ...(options.hasVolumes
      ? claims.map(({ metadata }) => api.collection("/api/v1", `persistentvolumeclaims/${metadata.name}`))
      : []),
    ...(options.hasNamespace ? [`/api/v1/namespaces/${api.service.namespace}`] : []),
  ];
  const rights = paths.map((path) => {
    const [, group = "", place, resource = "", name] =
      /^\/(?:api|apis\/([^/]+))\/[^/]+\/(?:namespaces\/([^/]+)\/(?=[^/]+\/))?([^/]+)\/([^/]+)$/.exec(path) ?? [];
    const isClusterWide = place === undefined && resource !== "namespaces";
    return { verb: "delete", group, resource, name, ...(isClusterWide && { isClusterWide }) };
  });
  await assertGranted(api, rights);
}

/**
 * Deletes the inventory, the release history last: the same command goes on after an interruption. The caller holds the lock.
 *
 * @throws {PipelineError} "partial" if it fails in the middle
 */
export async function deleteInventory(
  context: DeployContext,
  inventory: Inventory,
  options: DestroyOptions,
): Promise<void> {
  const { target, service, signal, log, recordState } = context;
  const { api } = target;
  const remaining = "A part of the objects is deleted. Run the same command again to continue.";
  recordState(remaining);
  const remove = async (path: string) => {
    signal.throwIfAborted();
    const body = { propagationPolicy: "Background" };
    await api.find(path, { method: "DELETE", body, signal: undefined });
  };
  try {
    for (const { path } of inventory.own) await remove(path);
    await waitForPods(context);
    if (options.hasVolumes)
      for (const { metadata } of inventory.claims)
        await remove(api.collection("/api/v1", `persistentvolumeclaims/${metadata.name}`));
    const own = new Set(inventory.versions.map(({ image }) => image));
    const others = async () => {
      const referenced = await referencedImages(api);
      const shared = await imagesElsewhere(context);
      return new Set([...referenced].filter((image) => !own.has(image) || shared.has(image)));
    };
    const removed = await target.clean(others);
    if (removed.length > 0) log(`removed ${removed.length} images from the nodes`);
    for (const version of inventory.versions) {
      signal.throwIfAborted();
      await deleteVersion(api, version);
    }
  } catch (error) {
    throw createPartialFailure(
      `${service.name} is deleted in part`,
      error,
      signal,
      "Run the same command again to continue.",
    );
  }
}

/** Returns the service's images that other namespaces use. */
async function imagesElsewhere({ target: { api }, service }: DeployContext): Promise<Set<string>> {
  const [secrets, pods] = await Promise.all([
    api.list<KubeObject & { data?: { image?: string } }>("/api/v1/secrets", {
      labelSelector: `${api.selector},app.kubernetes.io/component=version`,
    }),
    api.list<Pod>("/api/v1/pods"),
  ]);
  const isElsewhere = ({ metadata }: KubeObject) => metadata.namespace !== service.namespace;
  return new Set([
    ...secrets.filter(isElsewhere).map(({ data }) => Buffer.from(data?.image ?? "", "base64").toString()),
    ...pods.filter(isElsewhere).flatMap(({ spec }) => spec.containers.map(({ image }) => image)),
  ]);
}

async function waitForPods({ target: { api }, signal, log }: DeployContext): Promise<void> {
  const list = () => api.list<Pod>(api.collection("/api/v1", "pods"), { labelSelector: api.selector });
  const pods = await list();
  const grace = Math.max(0, ...pods.map(({ spec }) => spec.terminationGracePeriodSeconds ?? 30));
  const end = performance.now() + (grace + TERMINATION_SECONDS) * 1000;
  for (;;) {
    signal.throwIfAborted();
    const left = (await list()).filter(({ metadata }) => metadata.ownerReferences !== undefined);
    if (left.length === 0) return;
    if (performance.now() > end)
      return log(`still terminating: ${left.map(({ metadata }) => metadata.name).join(", ")}`);
    await Bun.sleep(POLL_MS);
  }
}

/** Deletes the namespace. It ends in the background. */
export async function deleteNamespace({ target: { api } }: DeployContext): Promise<void> {
  await api.find(`/api/v1/namespaces/${api.service.namespace}`, { method: "DELETE", signal: undefined });
}
