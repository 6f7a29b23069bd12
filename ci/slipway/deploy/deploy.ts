/**
 * The deploy: deliver, apply, watch, verify; and back again when the new version is no good, or when something fails in the
 * middle.
 *
 * The old version serves until the new one has passed its readiness probes (maxUnavailable 0), so a version that does
 * not come up costs nobody a request.
 */
import { PipelineError } from "../core/errors.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { applyAll, partialFailure, withLeftovers, prune, snapshotObjects } from "../kubernetes/apply.ts";
import { prepareForApply } from "../kubernetes/prepare-apply.ts";
import { rollOut, type RolloutResult } from "./rollout.ts";
import {
  findRollbackTarget,
  deleteVersion,
  saveVersion,
  referencedImages,
  listVersions,
  createVersion,
} from "./history.ts";
import { nextVerifiedAt, referencedSecrets, prunableVersions, type Version } from "./history.ts";
import { runPreDeployJobs } from "./pre-deploy-jobs.ts";
import { withLock } from "./lock.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { runningId, isReady, observeWorkloads, type WorkloadState } from "../kubernetes/observe.ts";
import { workloadsIn, type DeployContext, type Plan } from "./plan.ts";
import { splitPreDeployJobs, withVersion } from "../kubernetes/render.ts";
import { undoDeploy, type DeployTransaction } from "./undo.ts";
import { fetchVersion, type Endpoint } from "./verify.ts";

/**
 * Deploys a plan and proves it.
 *
 * @param archive the docker-archive to deliver where the image is not there
 * @param hurry ends the wait for the last pods of the version before
 * @throws {PipelineError} "project" when the new version does not come up, "environment" when something else fails; what was
 * there before is then back. "partial" where the way back was not open
 */
export async function deploy(
  context: DeployContext,
  plan: Plan,
  archive: string,
  hurry?: AbortSignal,
): Promise<RolloutResult> {
  const { target, recordState } = context;
  const { api } = target;
  const { name, manifests } = plan;
  if (await isMissing(api)) {
    // Before there is a namespace there is no lock, and nothing that could be left behind.
    const image = await deliverImage(context, plan, archive);
    const made = await makeNamespace(api, manifests);
    try {
      return await withLock(context, `deploy of ${name}`, (locked) =>
        applyAndRollOut(locked, plan, { image, hurry }),
      );
    } catch (error) {
      throw withLeftovers([made], error);
    }
  }
  return withLock(context, `deploy of ${name}`, async (locked) => {
    recordState(`${name} was being delivered; nothing was rolled out, what ran goes on running.`);
    // Kept before it is there: whoever tidies the node for another namespace must not take it for one that nobody needs.
    const kept = plan.versions.find((version) => version.name === plan.version.name);
    let hasBegun = false;
    const begins = () => void (hasBegun = true);
    try {
      await saveVersion(api, kept ?? plan.version);
      const image = await deliverImage(locked, plan, archive);
      return await applyAndRollOut(locked, plan, { image, hurry, begins });
    } catch (error) {
      // What was not begun is not kept. Whatever came after that has its own way back.
      return unnote(locked, kept || hasBegun ? [] : [plan.version], error);
    }
  });
}

/**
 * Forgets what was kept for a rollout that has not begun.
 *
 * @param error why it has not
 * @throws the error; {PipelineError} "partial" where that fails as well
 */
async function unnote(
  { target: { api }, signal }: DeployContext,
  noted: Version[],
  error: unknown,
): Promise<never> {
  for (const version of noted) {
    await deleteVersion(api, version).catch((left: unknown) => {
      throw notBegun(error, `the note of it could not be removed, Secret/${version.name}`, left, signal);
    });
  }
  throw error;
}

/** Of what did not begin and could not be tidied up: why not, and what is left. */
function notBegun(error: unknown, what: string, left: unknown, signal: AbortSignal): PipelineError {
  const why = error instanceof Error ? error.message : String(error);
  return partialFailure(`${why}. Nothing was rolled out, but ${what}`, left, signal);
}

/** Brings a plan's image to where it is not yet. */
export async function deliverImage(
  { step, target }: DeployContext,
  plan: Plan,
  archive: string,
): Promise<string> {
  // Somebody may have tidied up since. That this run brought it has been shown.
  const fresh = plan.isFresh ? await target.find(plan.id) : undefined;
  if (fresh) return fresh;
  return step("deliver", async (show) => {
    const there = plan.delivered ? await target.find(plan.id) : undefined;
    return there ? { value: there, reused: true } : { value: await target.deliver(archive, plan.id, show) };
  });
}

/**
 * Takes an image away that was brought for a deploy which did not begin.
 *
 * @param error why not
 * @returns what is to be thrown: that, or "partial" where the image could not be taken away
 */
export async function removeDeliveredImage(
  { target, signal }: DeployContext,
  { name }: Plan,
  error: unknown,
): Promise<unknown> {
  try {
    await target.clean(() => referencedImages(target.api));
    return error;
  } catch (left) {
    return notBegun(error, `the image ${name} could not be removed`, left, signal);
  }
}

interface RollingOut {
  /** How the manifests name the image. */
  image: string;
  hurry?: AbortSignal | undefined;
  /** Is told before something is written that has its own way back. */
  begins?(): void;
}

async function applyAndRollOut(
  context: DeployContext,
  plan: Plan,
  { image, hurry, begins }: RollingOut,
): Promise<RolloutResult> {
  const { target, service, recordState, log, signal } = context;
  const { api } = target;
  const { id, name, manifests, endpoint } = plan;
  const workloads = workloadsIn(service, manifests);
  // Read again: somebody else may have deployed between the plan and the lock.
  const [before, kept] = await Promise.all([observeWorkloads(api, workloads), listVersions(api)]);
  const { version, objects } = createVersion(
    service,
    id,
    image,
    withVersion(service, manifests, id, image),
    plan.version.commit,
  );
  const { jobs, rest } = splitPreDeployJobs(objects);
  const fitted = await prepareForApply(api, rest);
  const unknown = before[0] && !kept.some(({ verified }) => verified);
  const known = kept.find((one) => one.name === version.name);
  const isNew = !known?.verified && !plan.versions.some(({ name }) => name === version.name);
  const noted = isNew ? [version] : [];
  let back: Version | undefined;
  try {
    const adopted = unknown && (await adopt(api, rest, before[0]!, endpoint));
    if (adopted) noted.push(adopted);
    if (adopted) await saveVersion(api, adopted);
    back = adopted || findRollbackTarget(kept, version.name);
    signal.throwIfAborted();
    if (version.name !== plan.version.name || image !== plan.version.image)
      await deleteVersion(api, plan.version);
    // Who tidied up for another namespace may have read what is kept before it was noted here.
    const [, still] = await Promise.all([
      saveVersion(api, known ?? version),
      !plan.delivered || target.find(id),
    ]);
    if (!still) throw takenAway(name);
  } catch (error) {
    return unnote(context, noted, error);
  }
  begins?.();
  recordState(
    `The rollout of ${name} was under way and goes on in the cluster; what ran serves until it is ready. ` +
      "The same command picks it up, `bun ci/pipeline.ts rollback` undoes it.",
  );
  if (before.some(isRecreated))
    log("one pod at a time (Recreate): nobody is served while the new one starts");
  log(`apply ${target.overlay} with ${name}`);
  const change: DeployTransaction = {
    name,
    fitted,
    before,
    rollbackTarget: back,
    version,
    permanentEffects: [],
    recordedVersions: noted,
  };
  let outcome: RolloutResult;
  try {
    await runPreDeployJobs(context, jobs, (job) => void change.permanentEffects.push(job));
    const write = () => applyAll(api, fitted);
    outcome = await rollOut(context, {
      id,
      stepName: "rollout",
      workloads,
      write,
      endpoint,
      before,
      skipWait: hurry,
    });
  } catch (error) {
    return undoDeploy(context, change, error);
  }
  try {
    await tidy(context, version, back, rest);
  } catch (error) {
    const what = `${name} serves, verified, but that could not be taken down, nor what nobody needs be removed`;
    throw partialFailure(what, error, signal);
  }
  return outcome;
}

function takenAway(name: string): PipelineError {
  const message = `the image ${name} was there and has been taken away since, by a deploy to another namespace`;
  return new PipelineError("environment", message, { hint: "Run the command again: it is brought again." });
}

const isRecreated = ({ deployment: { spec } }: WorkloadState) => spec.strategy?.type === "Recreate";

async function isMissing(api: ApiClient): Promise<boolean> {
  return (await api.find(`/api/v1/namespaces/${api.service.namespace}`)) === undefined;
}

/** The lock and the versions live in the service's namespace: it comes first. @returns what a person calls it */
async function makeNamespace(api: ApiClient, manifests: KubeObject[]): Promise<string> {
  const { namespace } = api.service;
  const own = manifests.find(({ kind, metadata }) => kind === "Namespace" && metadata.name === namespace);
  if (!own) {
    const message = `there is no namespace ${namespace}, and the manifests have none`;
    throw new PipelineError("environment", message, {
      hint: `Create it with \`kubectl create namespace ${namespace}\`.`,
    });
  }
  await applyAll(api, await prepareForApply(api, [own]));
  return objectName(own);
}

/** What somebody deployed without the pipeline, as a version to come back to. */
async function adopt(
  api: ApiClient,
  manifests: KubeObject[],
  { deployment, pods }: WorkloadState,
  endpoint: Endpoint,
): Promise<Version | undefined> {
  if (!pods.some(isReady)) return undefined;
  const image = deployment.spec.template.spec.containers[0]?.image ?? "";
  // Its tag may be any; what it answers with is what a verification will ask for.
  const { id = runningId(deployment) } = await fetchVersion(endpoint, { signal: api.signal });
  const { version } = createVersion(api.service, id, image, await snapshotObjects(api, manifests), undefined);
  return { ...version, verified: nextVerifiedAt([]) };
}

/** Takes down that a version was proven, and removes what no version needs any more. */
async function tidy(
  { target, service, log }: DeployContext,
  version: Version,
  back: Version | undefined,
  manifests: KubeObject[],
): Promise<void> {
  const { api } = target;
  const versions = await listVersions(api);
  await saveVersion(api, { ...version, verified: nextVerifiedAt(versions) });
  const old = prunableVersions(versions, version, service.keepVersions);
  const needed = referencedSecrets([version, ...versions.filter((one) => !old.includes(one))]);
  // The version before, and those that are not kept any more: their Secrets were needed until now.
  for (const before of [...(back ? [back] : []), ...old]) {
    const { deleted, left } = await prune(api, before.manifests, manifests, needed);
    if (deleted.length > 0) log(`deleted, because the manifests no longer have it: ${deleted.join(", ")}`);
    if (left.length > 0) log(`no longer in the manifests, and left where it is: ${left.join(", ")}`);
  }
  for (const one of old) await deleteVersion(api, one);
  const removed = await target.clean(() => referencedImages(api));
  if (removed.length > 0)
    log(`removed ${removed.length} image${removed.length > 1 ? "s" : ""} of versions that are not kept`);
}
