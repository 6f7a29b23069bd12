/**
 * The deploy: deliver, apply, watch, verify; and back again when the new version is no good, or when something fails in the
 * middle.
 *
 * The old version serves until the new one has passed its readiness probes (maxUnavailable 0), so a version that does
 * not come up costs nobody a request.
 */
import { PipelineError } from "../core/errors.ts";
import type { Api } from "../kubernetes/api.ts";
import { applyAll, halfway, leaving, prune, snapshot } from "../kubernetes/apply.ts";
import { fit } from "../kubernetes/prepare-apply.ts";
import { bring, type Outcome } from "./rollout.ts";
import { earlier, forget, keep, keptImages, listVersions, newVersion } from "./history.ts";
import { proofTime, secretsOf, superfluous, type Version } from "./history.ts";
import { runFirst } from "./pre-deploy-jobs.ts";
import { locked } from "./lock.ts";
import { nameOf, type KubeObject } from "../kubernetes/objects.ts";
import { idOf, isReady, observeAll, type Observation } from "../kubernetes/observe.ts";
import { workloadsIn, type Deploy, type Plan } from "./plan.ts";
import { apart, forVersion } from "../kubernetes/render.ts";
import { undo, type Begun } from "./undo.ts";
import { ask, type Endpoint } from "./verify.ts";

/**
 * Deploys a plan and proves it.
 *
 * @param archive the docker-archive to deliver where the image is not there
 * @param hurry ends the wait for the last pods of the version before
 * @throws {PipelineError} "change" when the new version does not come up, "surroundings" when something else fails; what was
 * there before is then back. "halfway" where the way back was not open
 */
export async function deploy(
  run: Deploy,
  plan: Plan,
  archive: string,
  hurry?: AbortSignal,
): Promise<Outcome> {
  const { target, leaves } = run;
  const { api } = target;
  const { name, manifests } = plan;
  if (await isMissing(api)) {
    // Before there is a namespace there is no lock, and nothing that could be left behind.
    const image = await deliver(run, plan, archive);
    const made = await makeNamespace(api, manifests);
    try {
      return await locked(run, `deploy of ${name}`, (underLock) =>
        rollOut(underLock, plan, { image, hurry }),
      );
    } catch (error) {
      throw leaving([made], error);
    }
  }
  return locked(run, `deploy of ${name}`, async (underLock) => {
    leaves(`${name} was being delivered; nothing was rolled out, what ran goes on running.`);
    // Kept before it is there: whoever tidies the node for another namespace must not take it for one that nobody needs.
    const kept = plan.versions.find((version) => version.name === plan.version.name);
    let hasBegun = false;
    const begins = () => void (hasBegun = true);
    try {
      await keep(api, kept ?? plan.version);
      const image = await deliver(underLock, plan, archive);
      return await rollOut(underLock, plan, { image, hurry, begins });
    } catch (error) {
      // What was not begun is not kept. Whatever came after that has its own way back.
      return unnote(underLock, kept || hasBegun ? [] : [plan.version], error);
    }
  });
}

/**
 * Forgets what was kept for a rollout that has not begun.
 *
 * @param error why it has not
 * @throws the error; {PipelineError} "halfway" where that fails as well
 */
async function unnote({ target: { api }, signal }: Deploy, noted: Version[], error: unknown): Promise<never> {
  for (const version of noted) {
    await forget(api, version).catch((left: unknown) => {
      throw notBegun(error, `the note of it could not be removed, Secret/${version.name}`, left, signal);
    });
  }
  throw error;
}

/** Of what did not begin and could not be tidied up: why not, and what is left. */
function notBegun(error: unknown, what: string, left: unknown, signal: AbortSignal): PipelineError {
  const why = error instanceof Error ? error.message : String(error);
  return halfway(`${why}. Nothing was rolled out, but ${what}`, left, signal);
}

/** Brings a plan's image to where it is not yet. */
export async function deliver({ step, target }: Deploy, plan: Plan, archive: string): Promise<string> {
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
 * @returns what is to be thrown: that, or "halfway" where the image could not be taken away
 */
export async function withdraw({ target, signal }: Deploy, { name }: Plan, error: unknown): Promise<unknown> {
  try {
    await target.clean(() => keptImages(target.api));
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

async function rollOut(run: Deploy, plan: Plan, { image, hurry, begins }: RollingOut): Promise<Outcome> {
  const { target, service, leaves, say, signal } = run;
  const { api } = target;
  const { id, name, manifests, endpoint } = plan;
  const workloads = workloadsIn(service, manifests);
  // Read again: somebody else may have deployed between the plan and the lock.
  const [before, kept] = await Promise.all([observeAll(api, workloads), listVersions(api)]);
  const { version, objects } = newVersion(
    service,
    id,
    image,
    forVersion(service, manifests, id, image),
    plan.version.commit,
  );
  const { first, rest } = apart(objects);
  const fitted = await fit(api, rest);
  const unknown = before[0] && !kept.some(({ verified }) => verified);
  const known = kept.find((one) => one.name === version.name);
  const isNew = !known?.verified && !plan.versions.some(({ name }) => name === version.name);
  const noted = isNew ? [version] : [];
  let back: Version | undefined;
  try {
    const adopted = unknown && (await adopt(api, rest, before[0]!, endpoint));
    if (adopted) noted.push(adopted);
    if (adopted) await keep(api, adopted);
    back = adopted || earlier(kept, version.name);
    signal.throwIfAborted();
    if (version.name !== plan.version.name || image !== plan.version.image) await forget(api, plan.version);
    // Who tidied up for another namespace may have read what is kept before it was noted here.
    const [, still] = await Promise.all([keep(api, known ?? version), !plan.delivered || target.find(id)]);
    if (!still) throw takenAway(name);
  } catch (error) {
    return unnote(run, noted, error);
  }
  begins?.();
  leaves(
    `The rollout of ${name} was under way and goes on in the cluster; what ran serves until it is ready. ` +
      "The same command picks it up, `bun ci/pipeline.ts rollback` undoes it.",
  );
  if (before.some(isRecreated))
    say("one pod at a time (Recreate): nobody is served while the new one starts");
  say(`apply ${target.overlay} with ${name}`);
  const change: Begun = { name, fitted, before, back, version, stays: [], noted };
  let outcome: Outcome;
  try {
    await runFirst(run, first, (job) => void change.stays.push(job));
    const write = () => applyAll(api, fitted);
    outcome = await bring(run, { id, what: "rollout", workloads, write, endpoint, before, hurry });
  } catch (error) {
    return undo(run, change, error);
  }
  try {
    await tidy(run, version, back, rest);
  } catch (error) {
    const what = `${name} serves, verified, but that could not be taken down, nor what nobody needs be removed`;
    throw halfway(what, error, signal);
  }
  return outcome;
}

function takenAway(name: string): PipelineError {
  const message = `the image ${name} was there and has been taken away since, by a deploy to another namespace`;
  return new PipelineError("surroundings", message, { hint: "Run the command again: it is brought again." });
}

const isRecreated = ({ deployment: { spec } }: Observation) => spec.strategy?.type === "Recreate";

async function isMissing(api: Api): Promise<boolean> {
  return (await api.find(`/api/v1/namespaces/${api.service.namespace}`)) === undefined;
}

/** The lock and the versions live in the service's namespace: it comes first. @returns what a person calls it */
async function makeNamespace(api: Api, manifests: KubeObject[]): Promise<string> {
  const { namespace } = api.service;
  const own = manifests.find(({ kind, metadata }) => kind === "Namespace" && metadata.name === namespace);
  if (!own) {
    const message = `there is no namespace ${namespace}, and the manifests have none`;
    throw new PipelineError("surroundings", message, {
      hint: `Create it with \`kubectl create namespace ${namespace}\`.`,
    });
  }
  await applyAll(api, await fit(api, [own]));
  return nameOf(own);
}

/** What somebody deployed without the pipeline, as a version to come back to. */
async function adopt(
  api: Api,
  manifests: KubeObject[],
  { deployment, pods }: Observation,
  endpoint: Endpoint,
): Promise<Version | undefined> {
  if (!pods.some(isReady)) return undefined;
  const image = deployment.spec.template.spec.containers[0]?.image ?? "";
  // Its tag may be any; what it answers with is what a verification will ask for.
  const { id = idOf(deployment) } = await ask(endpoint, { signal: api.signal });
  const { version } = newVersion(api.service, id, image, await snapshot(api, manifests), undefined);
  return { ...version, verified: proofTime([]) };
}

/** Takes down that a version was proven, and removes what no version needs any more. */
async function tidy(
  { target, service, say }: Deploy,
  version: Version,
  back: Version | undefined,
  manifests: KubeObject[],
): Promise<void> {
  const { api } = target;
  const versions = await listVersions(api);
  await keep(api, { ...version, verified: proofTime(versions) });
  const old = superfluous(versions, version, service.keep);
  const needed = secretsOf([version, ...versions.filter((one) => !old.includes(one))]);
  // The version before, and those that are not kept any more: their Secrets were needed until now.
  for (const before of [...(back ? [back] : []), ...old]) {
    const { deleted, left } = await prune(api, before.manifests, manifests, needed);
    if (deleted.length > 0) say(`deleted, because the manifests no longer have it: ${deleted.join(", ")}`);
    if (left.length > 0) say(`no longer in the manifests, and left where it is: ${left.join(", ")}`);
  }
  for (const one of old) await forget(api, one);
  const removed = await target.clean(() => keptImages(api));
  if (removed.length > 0)
    say(`removed ${removed.length} image${removed.length > 1 ? "s" : ""} of versions that are not kept`);
}
