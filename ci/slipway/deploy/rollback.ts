/** Back to an earlier version, because somebody wants it. */
import { PipelineError } from "../core/errors.ts";
import { applyAll, partialFailure, prune } from "../kubernetes/apply.ts";
import { prepareForApply, type PreparedObject } from "../kubernetes/prepare-apply.ts";
import { rollOut } from "./rollout.ts";
import {
  findRollbackTarget,
  findUnexpectedObject,
  isExcludedFromRollback,
  saveVersion,
  listVersions,
  versionNameOf,
} from "./history.ts";
import { nextVerifiedAt, referencedSecrets, type Version } from "./history.ts";
import { withLock } from "./lock.ts";
import { runningId, observeWorkloads } from "../kubernetes/observe.ts";
import { observeMainWorkload, workloadsIn, type DeployContext } from "./plan.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { undoDeploy } from "./undo.ts";

/**
 * Goes back to a version that the cluster keeps, and proves it. Secrets stay as they are, and Jobs that come first are not run.
 *
 * @param wanted which one, by its name or id; default: the one that served before, and that nobody went back from
 * @returns the version's id
 * @throws {PipelineError} "environment" when there is none, or what it needs is gone; "project" when it does not come up: what
 * was there before is then back; "partial" where the way back was not open
 */
export async function rollback(context: DeployContext, wanted?: string): Promise<string> {
  const { target, service, recordState, log } = context;
  const { api } = target;
  return withLock(context, `rollback${wanted ? ` to ${wanted}` : ""}`, async (locked) => {
    const [seen, versions] = await Promise.all([observeMainWorkload(api), listVersions(api, log)]);
    const current = seen && (versionNameOf(seen.deployment) ?? byId(versions, runningId(seen.deployment)));
    const to = findRollbackTarget(versions, current, wanted);
    if (!to) throw none(versions, wanted);
    const fitted = await prepare(locked, to);
    const workloads = workloadsIn(service, to.manifests);
    const before = await observeWorkloads(api, workloads);
    log(`back from ${seen ? runningId(seen.deployment) : "nothing"} to ${to.id}, as ${to.name}`);
    recordState(`The rollback to ${to.id} was under way and goes on in the cluster.`);
    const endpoint = target.endpoint(to.manifests);
    const write = () => applyAll(api, fitted);
    // The version before is another one by now, or may be: without the id it could be the one that was left.
    const goOn = `\`bun ci/pipeline.ts rollback ${to.id}\` goes on from there.`;
    try {
      await rollOut(locked, { id: to.id, stepName: "rollback", workloads, write, endpoint, before });
    } catch (error) {
      const name = `${service.name}:${to.id}`;
      return undoDeploy(
        locked,
        {
          name,
          fitted,
          before,
          rollbackTarget: undefined,
          version: to,
          permanentEffects: [],
          recordedVersions: [],
          resumeHint: goOn,
        },
        error,
      );
    }
    try {
      const now = versions.find(({ name }) => name === current);
      if (now && now.name !== to.name) {
        const { left } = await prune(api, now.manifests, to.manifests, referencedSecrets(versions));
        if (left.length > 0) log(`not in that version, and left where it is: ${left.join(", ")}`);
        await saveVersion(api, { ...now, left: new Date().toISOString() });
      }
      await saveVersion(api, { ...to, verified: nextVerifiedAt(versions), left: undefined });
    } catch (error) {
      const what = `${to.id} serves again, verified, but that could not be taken down`;
      throw partialFailure(what, error, locked.signal, goOn);
    }
    return to.id;
  });
}

function byId(versions: Version[], id: string): string | undefined {
  return versions.find((version) => version.id === id)?.name;
}

function none(versions: Version[], wanted: string | undefined): PipelineError {
  const kept = versions
    .filter(({ verified }) => verified)
    .map(({ id, left }) => (left ? `${id} (left)` : id));
  const what = wanted
    ? `the cluster keeps no version ${wanted}`
    : "there is no earlier version to go back to";
  return new PipelineError("environment", `${what}; nothing was changed`, {
    hint: `Kept: ${kept.join(", ") || "none"}. \`bun ci/pipeline.ts status\` tells more.`,
  });
}

/** Looks whether a version can be gone back to. @throws {PipelineError} "environment" when not */
async function prepare({ target, service, signal }: DeployContext, to: Version): Promise<PreparedObject[]> {
  const { api } = target;
  const gone = (what: string) =>
    new PipelineError("environment", `${what}; nothing was changed`, {
      hint: `Check out ${to.commit ?? "its commit"} and deploy that.`,
    });
  if (!(await target.find(to.id))) throw gone(`the image of ${to.id} is gone`);
  const foreign = findUnexpectedObject(service, to, await renderManifests(target, service, signal));
  if (foreign) throw gone(`${to.name} holds ${foreign}, which the overlay has not: it is not applied`);
  const secrets = await prepareForApply(
    api,
    to.manifests.filter(({ kind }) => kind === "Secret"),
  );
  const missing = secrets.find(({ live }) => !live);
  if (missing) throw gone(`Secret/${missing.object.metadata.name}, which ${to.name} needs, is gone`);
  return prepareForApply(
    api,
    to.manifests.filter((object) => !isExcludedFromRollback(object)),
  );
}
