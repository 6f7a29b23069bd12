/**
 * Work of a deploy in the cluster: namespace, release history, preparation and completion. cli/deploy-flow.ts declares the order.
 *
 * The current version serves until the new pods pass their readiness probes (maxUnavailable 0), so a version that fails to become
 * ready costs no request.
 */
import { PipelineError } from "../core/errors.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { applyInOrder, createPartialFailure, snapshotObjects, withLeftovers } from "../kubernetes/apply.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { isReady, observeWorkloads, runningId, type WorkloadState } from "../kubernetes/workload-state.ts";
import { prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { splitPreDeployJobs, withVersion } from "../kubernetes/render.ts";
import { abortedDeploy, ensureDelivered, recordDelivery, type DeliveredImage } from "./image-delivery.ts";
import {
  versionFromManifests,
  deleteVersion,
  findRollbackTarget,
  listVersions,
  nextVerifiedAt,
  versionNameOf,
  versionsToDelete,
  referencedImages,
  saveVersion,
  type Version,
} from "./release-history.ts";
import { assertOwnProject } from "./checks-project.ts";
import { markPods, planSecrets } from "./deployed-secrets.ts";
import { deleteObsolete } from "./obsolete-objects.ts";
import { sortWorkloads } from "../kubernetes/service-port.ts";
import type { DeployContext, Plan } from "./plan.ts";
import type { DeployTransaction } from "./deploy-transaction.ts";
import { fetchVersion, type Endpoint } from "./verify-from-outside.ts";

/** A plan whose namespace exists. */
export interface PlanInNamespace {
  plan: Plan;
  /** Name of the namespace, if this run has created it. */
  created?: string;
}

/**
 * Creates the namespace of a first deploy. The image is delivered before: without a namespace there is no lock and no history, so a
 * failed delivery leaves nothing behind.
 */
export async function ensureNamespace(
  context: DeployContext,
  plan: Plan,
  archive: string,
  importing: Promise<Plan | undefined>,
): Promise<PlanInNamespace> {
  const { api } = context.target;
  if (await api.find(`/api/v1/namespaces/${api.service.namespace}`)) return { plan };
  await context.step("deliver", (show) => ensureDelivered(context, plan, archive, show, { importing }));
  const created = await createNamespace(context, plan);
  return { plan: { ...plan, delivered: true, isFresh: true }, created };
}

/**
 * Creates the namespace, which holds the lock and the release history.
 *
 * @returns the name to show to a person
 * @throws {PipelineError} "environment" if the manifests have none
 */
export async function createNamespace(
  { target: { api } }: DeployContext,
  { manifests }: Pick<Plan, "manifests">,
): Promise<string> {
  const { namespace } = api.service;
  const own = manifests.find(({ kind, metadata }) => kind === "Namespace" && metadata.name === namespace);
  if (!own) {
    throw new PipelineError(
      "environment",
      `namespace ${namespace} does not exist, and the manifests do not create it`,
      { code: "namespace-not-found", hint: `Create it with \`kubectl create namespace ${namespace}\`.` },
    );
  }
  await applyInOrder(api, await prepareForApply(api, [own]));
  return objectName(own);
}

/** Lists that must be empty for a namespace to be deleted. Kubernetes creates one ConfigMap in each namespace. */
const CONTENT = ["pods", "services", "secrets", "configmaps", "persistentvolumeclaims"];
const ROOT_CERTIFICATE = "kube-root-ca.crt";

/**
 * Deletes the namespace that this run has created, if the failed deploy left nothing in it.
 *
 * @returns the error to report: with the namespace as a leftover if it stays
 */
export async function removeCreatedNamespace(
  { target: { api }, signal }: DeployContext,
  { created, plan }: PlanInNamespace,
  error: unknown,
): Promise<unknown> {
  if (created === undefined) return error;
  const kept = () => withLeftovers([created], error);
  if (signal.aborted || !(error instanceof PipelineError)) return kept();
  try {
    const lists = await Promise.all(CONTENT.map((kind) => api.list(api.collection("/api/v1", kind))));
    const objects = await prepareForApply(
      api,
      plan.manifests.filter(({ kind }) => kind !== "Namespace"),
    );
    const isUsed =
      lists.flat().some(({ metadata }) => metadata.name !== ROOT_CERTIFICATE) || objects.some(({ live }) => live);
    if (isUsed) return kept();
    await api.find(`/api/v1/namespaces/${api.service.namespace}`, { method: "DELETE", signal: undefined });
    return error;
  } catch (failure) {
    if (failure instanceof PipelineError) return kept();
    throw failure;
  }
}

/**
 * Records the planned version before its image is used: the clean-up of another namespace's deploy keeps images of recorded versions.
 *
 * @returns the record to delete if the rollout does not begin; undefined if the version was recorded before
 */
export async function recordPlannedVersion(context: DeployContext, plan: Plan): Promise<Version | undefined> {
  const { version, versions } = plan;
  recordDelivery(context, plan);
  const known = versions.find((one) => one.name === version.name);
  try {
    await saveVersion(context.target.api, known ?? version);
  } catch (error) {
    throw await deleteRecords(context, known ? [] : [version], error);
  }
  return known ? undefined : version;
}

/**
 * Deletes the records of a rollout that did not begin.
 *
 * @returns the error to report: `error`, or a partial failure if a record could not be deleted
 */
export async function deleteRecords(
  { target: { api }, signal }: DeployContext,
  records: Version[],
  error: unknown,
): Promise<unknown> {
  for (const version of records) {
    try {
      await deleteVersion(api, version);
    } catch (failure) {
      return abortedDeploy(error, `its record Secret/${version.name} could not be deleted`, failure, signal);
    }
  }
  return error;
}

/**
 * Reads the cluster's state under the lock and decides what to write. If the image's name is known before its delivery, reading
 * and delivery overlap.
 *
 * @throws {PipelineError} "environment" if the image was removed meanwhile; no record is left then
 */
export async function prepareDeploy(
  context: DeployContext,
  plan: Plan,
  delivering: Promise<DeliveredImage>,
): Promise<DeployTransaction> {
  const { target, service, recordState, log, signal } = context;
  const { api } = target;
  const { id, name, endpoint } = plan;
  delivering.catch(() => {});
  const image = target.isImported ? name : (await delivering).reference;
  const workloads = sortWorkloads(service, plan.manifests);
  // Another deploy may have ended between the plan and the lock.
  const [before, versions] = await Promise.all([observeWorkloads(api, workloads), listVersions(api)]);
  await assertOwnProject(api, plan.manifests, versions);
  const { version, objects } = versionFromManifests(
    service,
    id,
    image,
    withVersion(service, plan.manifests, id, image, target.isImported),
    plan.version.commit,
  );
  // A value may have been set or removed since the plan.
  const secrets = await planSecrets(api, objects, plan.secrets);
  const { jobs, rest } = splitPreDeployJobs(markPods(service, objects, secrets?.after));
  const objectsToApply = await prepareForApply(api, rest);
  const isOwnVersion = before[0] && versions.some((one) => one.name === versionNameOf(before[0]!.deployment));
  const isUnknownState = before[0] && !isOwnVersion && !versions.some(({ verified }) => verified);
  const known = versions.find((one) => one.name === version.name);
  const isNew = !known?.verified && !plan.versions.some(({ name }) => name === version.name);
  const recordedVersions = isNew ? [version] : [];
  const { isProtected } = await delivering;
  let rollbackTarget: Version | undefined;
  try {
    const adopted = isUnknownState && (await adopt(api, rest, before[0]!, endpoint));
    if (adopted) {
      recordedVersions.push(adopted);
      await saveVersion(api, adopted);
    }
    rollbackTarget = adopted || findRollbackTarget(versions, version.name);
    signal.throwIfAborted();
    if (version.name !== plan.version.name || image !== plan.version.image) await deleteVersion(api, plan.version);
    // A clean-up for another namespace may have read the history before this record existed.
    const isThere = isProtected || !plan.delivered || target.find(id);
    const [, found] = await Promise.all([saveVersion(api, known ?? version), isThere]);
    if (!found) throw imageRemoved(name);
  } catch (error) {
    throw await deleteRecords(context, recordedVersions, error);
  }
  const recreates = before.some(isRecreated);
  const meanwhile = recreates ? "The service is down" : "The previous version serves";
  recordState(
    `The rollout of ${name} was under way and continues in the cluster. ${meanwhile} until it is ready. ` +
      "Run the same command to resume it, or `bun ci/pipeline.ts rollback` to undo it.",
  );
  if (recreates) log("strategy Recreate: the service is down until the new pod is ready");
  log(`apply ${target.overlay} with ${name}`);
  return {
    name,
    before,
    rollbackTarget,
    version,
    permanentEffects: [],
    recordedVersions,
    jobs,
    objects: objectsToApply,
    secrets: secrets && {
      write: () => secrets.before.write(api, secrets.change),
      restore: () => secrets.before.restore(api, secrets.change),
    },
    complete: (locked) => completeDeploy(locked, name, { version, rollbackTarget, manifests: rest }),
    rollout: { id, workloads, write: () => applyInOrder(api, objectsToApply), endpoint, before },
  };
}

function imageRemoved(name: string): PipelineError {
  return new PipelineError("environment", `a deploy to another namespace has removed the image ${name}`, {
    code: "image-removed",
    hint: "Run the command again. It delivers the image again.",
  });
}

const isRecreated = ({ deployment: { spec } }: WorkloadState) => spec.strategy?.type === "Recreate";

/** Records a running workload that slipway did not deploy, as a version to roll back to. */
async function adopt(
  api: ApiClient,
  manifests: KubeObject[],
  { deployment, pods }: WorkloadState,
  endpoint: Endpoint,
): Promise<Version | undefined> {
  if (!pods.some(isReady)) return undefined;
  const image = deployment.spec.template.spec.containers[0]?.image ?? "";
  // The tag may be any word. A verification compares with the id that the service returns.
  const { id = runningId(deployment) } = await fetchVersion(endpoint, { signal: api.signal });
  const objects = await snapshotObjects(api, manifests);
  const { version } = versionFromManifests(api.service, id, image, objects, undefined);
  return { ...version, deployer: undefined, verified: nextVerifiedAt([]) };
}

/** A verified version, and the versions and manifests to compare with for the clean-up. */
interface VerifiedDeploy {
  version: Version;
  rollbackTarget: Version | undefined;
  manifests: KubeObject[];
}

async function completeDeploy(context: DeployContext, name: string, deploy: VerifiedDeploy): Promise<void> {
  try {
    await cleanUp(context, deploy);
  } catch (error) {
    const state = `${name} serves and is verified, but the clean-up after it failed`;
    throw createPartialFailure(state, error, context.signal);
  }
}

/**
 * Deletes objects that the manifests no longer have, marks the version as verified, and removes versions and images beyond the limit.
 */
async function cleanUp({ target, service, log }: DeployContext, deploy: VerifiedDeploy): Promise<void> {
  const { api } = target;
  const { version, rollbackTarget, manifests } = deploy;
  const versions = await listVersions(api);
  const { deleted, left } = await deleteObsolete(api, {
    version,
    versions,
    manifests,
    keepVersions: service.keepVersions,
  });
  // The version is complete only now: the same command has to repeat a clean-up that failed.
  await saveVersion(api, { ...version, verified: nextVerifiedAt(versions) });
  const expired = versionsToDelete(versions, version, service.keepVersions);
  const previous = [...(rollbackTarget ? [rollbackTarget] : []), ...expired].flatMap((one) => one.manifests);
  const newlyLeft = left.filter((name) => previous.some((object) => objectName(object) === name));
  if (deleted.length > 0) log(`deleted, no longer in the manifests: ${deleted.join(", ")}`);
  if (newlyLeft.length > 0) log(`no longer in the manifests, but not deleted: ${newlyLeft.join(", ")}`);
  for (const one of expired) await deleteVersion(api, one);
  const removed = await target.clean(() => referencedImages(api));
  if (removed.length > 0) log(`removed ${removed.length} image${removed.length > 1 ? "s" : ""} of expired versions`);
}
