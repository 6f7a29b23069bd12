/** Rollback to an earlier version, on request. cli/deploy-flow.ts declares the order of its steps. */
import { PipelineError } from "../core/errors.ts";
import { applyInOrder, createPartialFailure, prune } from "../kubernetes/apply.ts";
import { observeWorkloads, runningId } from "../kubernetes/workload-state.ts";
import { prepareForApply, type PreparedObject } from "../kubernetes/prepare-for-apply.ts";
import { renderManifests } from "../kubernetes/render.ts";
import {
  findRollbackTarget,
  findUnexpectedObject,
  isExcludedFromRollback,
  listVersions,
  nextVerifiedAt,
  referencedSecrets,
  saveVersion,
  versionNameOf,
  type Version,
} from "./release-history.ts";
import { assertOwnProject } from "./checks-project.ts";
import { sortWorkloads } from "../kubernetes/service-port.ts";
import { observeMainWorkload, type DeployContext } from "./plan.ts";
import { markPods, planSecrets } from "./deployed-secrets.ts";
import { assertRights } from "./required-rights.ts";
import type { DeployTransaction } from "./deploy-transaction.ts";

/**
 * Chooses the version to roll back to, and checks that it can run. Secrets keep their current values, and pre-deploy Jobs do not run.
 *
 * @param wanted name or id. Default: the version that served before, except versions that were rolled back from.
 * @throws {PipelineError} "environment" if there is none, or its image or a Secret is gone
 */
export async function prepareRollback(context: DeployContext, wanted?: string): Promise<DeployTransaction> {
  const { target, service, recordState, log } = context;
  const { api } = target;
  const versions = await listVersions(api, log);
  const running = await observeMainWorkload(
    api,
    versions.map(({ manifests }) => manifests),
  );
  await assertOwnProject(api, running ? [running.deployment] : [], versions);
  const currentName =
    running && (versionNameOf(running.deployment) ?? nameById(versions, runningId(running.deployment)));
  const version = findRollbackTarget(versions, currentName, wanted);
  if (!version) throw noTarget(versions, wanted);
  const { id } = version;
  await assertRights(api, version.manifests, target.endpoint(version.manifests).url);
  const objects = await prepareObjects(context, version);
  const workloads = sortWorkloads(service, version.manifests);
  const before = await observeWorkloads(api, workloads);
  log(`roll back from ${running ? runningId(running.deployment) : "nothing"} to ${id}, as ${version.name}`);
  recordState(`The rollback to ${id} was under way and continues in the cluster.`);
  // The default target may be another version by then.
  const resumeHint = `Run \`bun ci/pipeline.ts rollback ${id}\` to continue.`;
  const current = versions.find(({ name }) => name === currentName);
  return {
    name: `${service.name}:${id}`,
    version,
    jobs: [],
    objects,
    before,
    rollbackTarget: undefined,
    permanentEffects: [],
    recordedVersions: [],
    resumeHint,
    complete: (locked) => completeRollback(locked, { version, versions, current, resumeHint }),
    rollout: {
      id,
      workloads,
      write: () => applyInOrder(api, objects),
      endpoint: target.endpoint(version.manifests),
      before,
    },
  };
}

interface VerifiedRollback {
  version: Version;
  versions: Version[];
  /** The version that ran before, if it is stored. */
  current: Version | undefined;
  resumeHint: string;
}

/**
 * Marks the version as verified and the previous one as rolled back from, and deletes objects of the previous one.
 *
 * @throws {PipelineError} "partial" if that fails: the version serves
 */
async function completeRollback(
  { target: { api }, log, signal }: DeployContext,
  { version, versions, current, resumeHint }: VerifiedRollback,
): Promise<void> {
  try {
    if (current && current.name !== version.name)
      await saveVersion(api, { ...current, left: new Date().toISOString() });
    // All versions, because a rollback that is repeated after a failed clean-up does not see the one that it left.
    const before = versions.filter(({ name }) => name !== version.name).flatMap(({ manifests }) => manifests);
    const { left } = await prune(api, before, version.manifests, referencedSecrets(versions));
    if (left.length > 0) log(`not part of that version, but not deleted: ${left.join(", ")}`);
    await saveVersion(api, { ...version, verified: nextVerifiedAt(versions), left: undefined });
  } catch (error) {
    const state = `${version.id} serves again and is verified, but the clean-up after it failed`;
    throw createPartialFailure(state, error, signal, resumeHint);
  }
}

function nameById(versions: Version[], id: string): string | undefined {
  return versions.find((version) => version.id === id)?.name;
}

function noTarget(versions: Version[], wanted: string | undefined): PipelineError {
  const stored = versions.filter(({ verified }) => verified).map(({ id, left }) => (left ? `${id} (rolled back)` : id));
  const cause = wanted ? `version ${wanted} is not stored` : "there is no earlier version to roll back to";
  return new PipelineError("environment", `${cause}. Nothing was changed`, {
    code: "version-not-stored",
    hint: `Stored versions: ${stored.join(", ") || "none"}. Run \`bun ci/pipeline.ts status\` for details.`,
  });
}

/** @throws {PipelineError} "environment" if the version cannot run any more */
async function prepareObjects({ target, service, signal }: DeployContext, version: Version): Promise<PreparedObject[]> {
  const { api } = target;
  const unusable = (cause: string) =>
    new PipelineError("environment", `${cause}. Nothing was changed`, {
      code: "version-unusable",
      hint: `Check out ${version.commit ?? "its commit"} and deploy it.`,
    });
  if (!(await target.find(version.id))) throw unusable(`the image of ${version.id} is gone`);
  const unexpected = findUnexpectedObject(service, version, await renderManifests(target, service, signal));
  if (unexpected) throw unusable(`${version.name} contains ${unexpected}, which the overlay does not have`);
  const secrets = await prepareForApply(
    api,
    version.manifests.filter(({ kind }) => kind === "Secret"),
  );
  const missing = secrets.find(({ live }) => !live);
  if (missing) throw unusable(`Secret/${missing.object.metadata.name}, which ${version.name} needs, is gone`);
  const objects = version.manifests.filter((object) => !isExcludedFromRollback(object));
  // The current values stay, so the pods are marked with them.
  return prepareForApply(api, markPods(service, objects, (await planSecrets(api, objects))?.after));
}
