/**
 * The deploy: deliver, apply, watch, verify; and back again when the new version is no good.
 *
 * The old version serves until the new one has passed its readiness probes (maxUnavailable 0), so a version that does
 * not come up costs nobody a request.
 */
import { PipelineError } from "../ground/errors.ts";
import type { Api } from "./api.ts";
import { bring, NotUp, type Outcome } from "./follow.ts";
import { earlier, forget, keep, keptImages, listVersions, newVersion } from "./history.ts";
import { proofTime, superfluous, type Version } from "./history.ts";
import { locked } from "./lock.ts";
import { applyAll, forVersion, prune, snapshot } from "./manifests.ts";
import type { KubeObject } from "./objects.ts";
import type { Deploy, Plan } from "./plan.ts";
import { idOf, observe, type Observation } from "./rollout.ts";
import { undo } from "./undo.ts";
import { ask, type Endpoint } from "./verify.ts";

/**
 * Deploys a plan and proves it.
 *
 * @param archive the docker-archive to deliver where the image is not there
 * @param hurry ends the wait for the last pods of the version before
 * @throws {PipelineError} "change" when the new version does not come up; the version before is then back
 */
export async function deploy(
  run: Deploy,
  plan: Plan,
  archive: string,
  hurry?: AbortSignal,
): Promise<Outcome> {
  const { target, service, leaves, say } = run;
  const { api } = target;
  const { id, name, manifests, endpoint } = plan;
  await ensureNamespace(api, manifests);
  return locked(run, `deploy of ${name}`, async (signal, underLock) => {
    leaves(`${name} was being delivered; nothing was rolled out, what ran goes on running.`);
    // Kept before it is there: whoever tidies the node for another namespace must not take it for one that nobody needs.
    await keep(api, { ...plan.version, verified: proofOf(plan.version, plan.versions) });
    const image = await run.step("deliver", async () => {
      const there = plan.delivered ? await target.find(id) : undefined;
      return there ? { value: there, reused: true } : { value: await target.deliver(archive, id) };
    });
    // Read again: somebody else may have deployed between the plan and the lock.
    const [seen, kept] = await Promise.all([observe(api), listVersions(api)]);
    const objects = forVersion(service, manifests, id, image);
    const version = newVersion(service, id, image, objects, plan.version.commit);
    const unknown = seen && !kept.some(({ verified }) => verified);
    const adopted = unknown && (await adopt(api, objects, seen, endpoint));
    const back = adopted || earlier(kept, (one) => one.name === version.name);
    leaves(
      `The rollout of ${name} was under way and goes on in the cluster; what ran serves until it is ready. ` +
        "The same command picks it up, `bun ci/pipeline.ts rollback` undoes it.",
    );
    signal.throwIfAborted();
    if (image !== plan.version.image) await forget(api, plan.version);
    await keep(api, { ...version, verified: proofOf(version, kept) });
    say(`apply ${target.overlay} with ${name}`);
    try {
      const served = seen !== undefined;
      const outcome = await bring(underLock, "rollout", version, { endpoint, served, hurry });
      const pruned = back ? await prune(api, back.manifests, objects) : [];
      if (pruned.length > 0) say(`deleted, because the manifests no longer have it: ${pruned.join(", ")}`);
      await tidy(underLock, version);
      return outcome;
    } catch (error) {
      if (!(error instanceof NotUp)) throw error;
      return undo(underLock, plan, version, back, error);
    }
  });
}

/** The lock and the versions live in the app's namespace: it comes first. */
async function ensureNamespace(api: Api, manifests: KubeObject[]): Promise<void> {
  const { namespace } = api.service;
  if (await api.find(`/api/v1/namespaces/${namespace}`)) return;
  const own = manifests.find(({ kind, metadata }) => kind === "Namespace" && metadata.name === namespace);
  if (!own) {
    throw new PipelineError(
      "surroundings",
      `there is no namespace ${namespace}, and the manifests have none`,
      {
        hint: `Create it with \`kubectl create namespace ${namespace}\`.`,
      },
    );
  }
  await applyAll(api, [own]);
}

/** When a version was proven, by what is known of it. */
function proofOf({ name }: Version, versions: Version[]): string | undefined {
  return versions.find((one) => one.name === name)?.verified;
}

/** Keeps what somebody deployed without the pipeline, as a version to come back to. */
async function adopt(
  api: Api,
  manifests: KubeObject[],
  { deployment, pods }: Observation,
  endpoint: Endpoint,
): Promise<Version | undefined> {
  const serves = pods.some(({ status }) => status.containerStatuses?.every(({ ready }) => ready));
  if (!serves) return undefined;
  const image = deployment.spec.template.spec.containers[0]?.image ?? "";
  // Its tag may be any; what it answers with is what a verification will ask for.
  const { id = idOf(deployment) } = await ask(endpoint, { signal: api.signal });
  const version = newVersion(api.service, id, image, await snapshot(api, manifests), undefined);
  const proven = { ...version, verified: proofTime([]) };
  await keep(api, proven);
  return proven;
}

/** Takes down that a version was proven, and removes what no version needs any more. */
async function tidy({ target, service, say }: Deploy, version: Version): Promise<void> {
  const { api } = target;
  const versions = await listVersions(api);
  await keep(api, { ...version, verified: proofTime(versions) });
  for (const old of superfluous(versions, version, service.keep)) await forget(api, old);
  const removed = await target.clean(() => keptImages(api));
  if (removed.length > 0)
    say(`removed ${removed.length} image${removed.length > 1 ? "s" : ""} of versions that are not kept`);
}
