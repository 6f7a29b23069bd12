/** Undo of a failed change: restores the state before it, and shows why it failed. */
import { PipelineError } from "../core/errors.ts";
import {
  applyInOrder,
  createPartialFailure,
  prune,
  RESUME_HINT,
  restoreObjects,
  withLeftovers,
} from "../kubernetes/apply.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { defaultWorkloadName, runningId } from "../kubernetes/workload-state.ts";
import { prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { describeAvailability, renderTimeline } from "./availability.ts";
import { markPods, planSecrets } from "./deployed-secrets.ts";
import { collectDiagnostics } from "./diagnostics.ts";
import { explainContainerFailure } from "./failure-hints.ts";
import { deleteVersion, isExcludedFromRollback } from "./release-history.ts";
import type { DeployContext } from "./plan.ts";
import { rolloutErrorCode } from "./rollout-failure-codes.ts";
import { assessWorkloads, type RolloutFailure } from "./rollout-status.ts";
import {
  RolloutFailed,
  applyAndWaitUntilReady,
  verifyRollout,
  waitForOldPods,
  type RolloutOptions,
} from "./rollout-phases.ts";
import type { Target } from "./target.ts";
import type { DeployTransaction } from "./deploy-transaction.ts";

/**
 * Undoes a change.
 *
 * @param error the reason: a version that failed to become ready, or a failure in the middle
 * @throws {PipelineError} that names the reason and the state now: "partial" if the undo fails too
 */
export async function undoDeploy(context: DeployContext, change: DeployTransaction, error: unknown): Promise<never> {
  if (error instanceof RolloutFailed) return rollBackVersion(context, change, error);
  const { name } = change;
  // Another process may hold the lock now, or the user has interrupted: nothing may be written.
  if (context.signal.aborted)
    throw createPartialFailure(`${name} was being rolled out and may be applied in part`, error, context.signal);
  if (!(error instanceof PipelineError)) throw error;
  context.log(`undo, because ${error.message}`);
  context.recordState(`${name} was being applied, and a failure was being undone.`);
  const restored = await restorePrevious(context, change, error.output, error.message);
  const leftovers = [...change.permanentEffects, ...restored.leftovers];
  const state = leftovers.length > 0 ? "It was undone" : "It was undone: the cluster is as before";
  context.recordState(`${name} was undone.`);
  const undone = new PipelineError(error.kind, `${error.message}. ${state}`, {
    code: error.code,
    ...(error.hint && { hint: error.hint }),
    output: error.output,
    cause: error,
  });
  throw withLeftovers(leftovers, undone);
}

async function rollBackVersion(
  context: DeployContext,
  change: DeployTransaction,
  { message, failure, availability }: RolloutFailed,
): Promise<never> {
  const { target, service, log, recordState } = context;
  const { name, rollbackTarget } = change;
  const reason = `${name} failed to become ready: ${message}`;
  log(reason);
  const output = await collectDiagnostics(target.api, failure);
  const cause = explainFailure(context, change, failure, output);
  if (!didServe(context, change) && !rollbackTarget) {
    const text = `${reason}. There is no earlier version to roll back to, so it was left as it is`;
    const hint = `${cause}${nextStepHint(target, change, failure)} The next deploy replaces it.`;
    throw new PipelineError("project", text, { code: rolloutErrorCode(failure), hint, output });
  }
  recordState(`${name} failed to become ready, and the rollback was under way.`);
  const { id } = await restorePrevious(context, change, output, reason);
  if (availability) log(describeAvailability(availability));
  const { cause: toCorrect = "the source" } = change;
  const next = isOutOfRoom(failure) ? "Free capacity in the cluster, or request less," : `Correct ${toCorrect}`;
  throw new PipelineError("project", `${reason}. Rolled back: ${service.name}:${id} serves, as before`, {
    code: rolloutErrorCode(failure),
    hint: `${cause}${next} and run the same command again.`,
    output,
  });
}

/** Explains a failure that the logs or manifests reveal: a sentence and a space, or nothing. */
function explainFailure(
  { service }: DeployContext,
  { objects }: DeployTransaction,
  { reason, message }: RolloutFailure,
  output: string,
): string {
  const isTimeout = reason === "Timeout" || reason === "ProgressDeadlineExceeded";
  const known = explainContainerFailure({
    service,
    manifests: objects.map(({ object }) => object),
    output,
    reason: message,
    isSilent: reason === "NotReady" || (isTimeout && /\bprobe failed\b/.test(output)),
  });
  return known ? `${known} ` : "";
}

/** Whether the cluster has no room for the pods: no correction of the source helps. */
function isOutOfRoom({ reason, message }: RolloutFailure): boolean {
  return reason === "Unschedulable" || /exceeded quota|no space left on device/.test(message);
}

/** Whether the state before the change served. */
function didServe({ service }: DeployContext, { before }: DeployTransaction): boolean {
  return before.length > 0 && assessWorkloads(before, service).state === "complete";
}

/**
 * Restores the state before the change, or the last verified version if that state did not serve.
 *
 * @returns the id that serves again, and the objects that were left
 * @throws {PipelineError} "partial" if that fails
 */
async function restorePrevious(
  context: DeployContext,
  change: DeployTransaction,
  output: string | undefined,
  reason: string,
): Promise<{ id: string; leftovers: string[] }> {
  const { target, service, log, signal } = context;
  const { api } = target;
  const { objects, before, rollbackTarget, version, recordedVersions, name, resumeHint } = change;
  const isRestored = didServe(context, change) || !rollbackTarget;
  const id = isRestored ? (before[0] ? runningId(before[0].deployment) : "nothing") : rollbackTarget.id;
  log(`roll back to ${id}`);
  let leftovers: string[] = [];
  const write = async () => {
    await change.secrets?.restore();
    if (isRestored) {
      leftovers = await restoreObjects(api, objects);
      if (leftovers.length > 0) log(`not deleted: ${leftovers.join(", ")}`);
      return;
    }
    const stored = rollbackTarget.manifests.filter((object) => !isExcludedFromRollback(object));
    const manifests = markPods(service, stored, (await planSecrets(api, stored))?.after);
    await applyInOrder(api, await prepareForApply(api, manifests));
    await prune(api, version.manifests, rollbackTarget.manifests);
  };
  try {
    if (before.length === 0) await write();
    else {
      // The version may open another port than the failed one, or none.
      const restored = isRestored ? objects.flatMap(({ live }) => live ?? []) : rollbackTarget.manifests;
      await rollOutAgain(context, change, { id, write, manifests: restored });
    }
    for (const one of recordedVersions) await deleteVersion(api, one);
    return { id, leftovers };
  } catch (error) {
    if (error instanceof RolloutFailed && !signal.aborted) {
      const message = `${reason}. The rollback to ${id} failed as well: ${error.message}`;
      // Nobody knows now whether the previous version serves, so this is no project error.
      const next = resumeHint ?? RESUME_HINT;
      const hint = `${nextStepHint(target, change, error.failure)} ${next}`;
      throw new PipelineError("partial", message, { code: "rollback-failed", hint, output });
    }
    throw createPartialFailure(`${reason}. The rollback of ${name} failed as well`, error, signal, resumeHint);
  }
}

/** Rolls the previous state out, and reports the same steps as a deploy. @throws {RolloutFailed} */
async function rollOutAgain(
  context: DeployContext,
  { before, rollout: { endpoint: current }, keepsEndpoint }: DeployTransaction,
  { id, write, manifests }: Pick<RolloutOptions, "id" | "write"> & { manifests: KubeObject[] },
): Promise<void> {
  const { target, log, step } = context;
  const workloads = before.map(({ deployment }) => deployment);
  const endpoint = keepsEndpoint ? current : target.endpoint(manifests);
  const options = { id, workloads, write, endpoint, before };
  const rollout = await step("rollback", () => applyAndWaitUntilReady(context, options));
  try {
    const { servedAfter } = await step("verify", () => verifyRollout(context, options, rollout));
    // Pods that never served may terminate in their own time.
    const skipWait = AbortSignal.abort();
    const report = await step("settle", () => waitForOldPods(context, options, rollout, skipWait));
    if (report) log(describeAvailability(report));
    if (report) log(renderTimeline(report.buckets));
    log(`verified ${servedAfter.toFixed(1)} s after the rollback began`);
  } finally {
    await rollout.stopMonitor?.();
  }
}

/** Names the command that shows more, as a sentence. */
function nextStepHint({ api }: Target, { rollout: { workloads } }: DeployTransaction, { pod }: RolloutFailure): string {
  const { kind, metadata } = workloads[0] ?? defaultWorkloadName(api);
  const object = pod ? `pod ${pod}` : `${kind.toLowerCase()} ${metadata.name}`;
  return `Run \`bun ci/pipeline.ts kubectl -- describe ${object}\` for details.`;
}
