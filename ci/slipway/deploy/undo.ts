/** Back from what went wrong in the middle: to what the cluster had just before, and why it went wrong is shown. */
import { PipelineError } from "../core/errors.ts";
import { applyAll, partialFailure, withLeftovers, prune, restoreObjects } from "../kubernetes/apply.ts";
import { collectDiagnostics } from "./diagnostics.ts";
import { prepareForApply, type PreparedObject } from "../kubernetes/prepare-apply.ts";
import { rollOut, RolloutFailed } from "./rollout.ts";
import { deleteVersion, isExcludedFromRollback, type Version } from "./history.ts";
import { diagnoseBlockedEgress, diagnoseLogs, diagnosePortMismatch } from "./log-hints.ts";
import { runningId, type WorkloadState, type WorkloadName } from "../kubernetes/observe.ts";
import type { DeployContext } from "./plan.ts";
import { assessWorkloads, type RolloutFailure } from "./rollout-status.ts";
import { describeAvailability, renderTimeline } from "./availability.ts";
import type { Target } from "./target.ts";

/** What a change has found, and what it was to become. */
export interface DeployTransaction {
  /** A sentence's beginning: `helloapp:abc`. */
  name: string;
  /** Each object that it writes, with what was there. */
  fitted: PreparedObject[];
  /** The workloads that were there, and how they were. */
  before: WorkloadState[];
  /** The version that was proven last, where what was there cannot be what served. */
  rollbackTarget: Version | undefined;
  version: Version;
  /** What it has made and what stays: Jobs that came first have had their effect. */
  permanentEffects: string[];
  /** Versions that are kept since this began, and forgotten when it is undone. */
  recordedVersions: Version[];
  /** How to go on where even the way back fails, as a sentence; default: the same command. */
  resumeHint?: string;
}

/**
 * Undoes what was begun, and ends with the error that says both.
 *
 * @param error why: a version that did not come up, or what failed in the middle
 */
export async function undoDeploy(
  context: DeployContext,
  begun: DeployTransaction,
  error: unknown,
): Promise<never> {
  const { target, service, log, recordState } = context;
  const { api } = target;
  const { name, rollbackTarget } = begun;
  if (error instanceof RolloutFailed) {
    const what = `${name} did not come up: ${error.message}`;
    log(what);
    const output = await collectDiagnostics(api, error.failure);
    const manifests = begun.fitted.map(({ object }) => object);
    const isSilent = error.failure.reason === "NotReady";
    const known =
      diagnoseLogs(output, service) ??
      diagnoseBlockedEgress(output, service, manifests) ??
      (isSilent
        ? (diagnosePortMismatch(service, manifests) ??
          diagnoseBlockedEgress(output, service, manifests, isSilent))
        : undefined);
    const why = known ? `${known} ` : "";
    if (!served(context, begun) && !rollbackTarget) {
      const hint = `${why}${nextStepHint(target, error.failure)} The next deploy replaces it.`;
      throw new PipelineError(
        "project",
        `${what}. There is no earlier version that serves: it was left as it is`,
        {
          hint,
          output,
        },
      );
    }
    recordState(`${name} did not come up, and the way back was under way.`);
    const { id } = await wayBack(context, begun, output, what);
    if (error.samples) log(describeAvailability(error.samples));
    throw new PipelineError("project", `${what}. Rolled back: ${service.name}:${id} serves, as before`, {
      hint: `${why}${hasNoRoom(error.failure) ? NO_ROOM : "Correct the source"} and run the same command again.`,
      output,
    });
  }
  // Nothing may be written when somebody else holds the lock, and an interruption is told what goes on.
  if (context.signal.aborted)
    throw partialFailure(`${name} was being rolled out, and may be half applied`, error, context.signal);
  if (!(error instanceof PipelineError)) throw error;
  log(`undone, because of this: ${error.message}`);
  recordState(`${name} was being applied, and what failed in the middle was being undone.`);
  const way = await wayBack(context, begun, error.output, error.message);
  const left = [...begun.permanentEffects, ...way.left];
  const state = left.length > 0 ? "It was undone" : "It was undone: all is as it was";
  recordState(`${name} was undone.`);
  const undone = new PipelineError(error.kind, `${error.message}. ${state}`, {
    ...(error.hint && { hint: error.hint }),
    output: error.output,
    cause: error,
  });
  throw withLeftovers(left, undone);
}

const NO_ROOM = "Make room in the cluster, or let it ask for less,";

/** Whether there was no place for its pods, which no correction of the source makes. */
function hasNoRoom({ reason, message }: RolloutFailure): boolean {
  return reason === "Unschedulable" || /exceeded quota|no space left on device/.test(message);
}

/** Whether what was there before is what served. */
function served({ service }: DeployContext, { before }: DeployTransaction): boolean {
  return before.length > 0 && assessWorkloads(before, service).state === "complete";
}

/** @returns the id that serves again, and what was left @throws {PipelineError} "partial" when it does not */
async function wayBack(
  context: DeployContext,
  begun: DeployTransaction,
  output: string | undefined,
  why: string,
): Promise<{ id: string; left: string[] }> {
  const { target, log } = context;
  const { api } = target;
  const { fitted, before, rollbackTarget, version, recordedVersions, name, resumeHint } = begun;
  const asItWas = served(context, begun) || !rollbackTarget;
  const id = asItWas ? (before[0] ? runningId(before[0].deployment) : "nothing") : rollbackTarget.id;
  log(`back to ${id}`);
  const workloads: WorkloadName[] = before.map(({ deployment }) => deployment);
  let left: string[] = [];
  const write = async () => {
    if (asItWas) {
      left = await restoreObjects(api, fitted);
      if (left.length > 0) log(`left, because it is not deleted unasked: ${left.join(", ")}`);
      return;
    }
    const manifests = rollbackTarget.manifests.filter((object) => !isExcludedFromRollback(object));
    await applyAll(api, await prepareForApply(api, manifests));
    await prune(api, version.manifests, rollbackTarget.manifests);
  };
  try {
    if (before.length === 0) {
      await write();
    } else {
      const endpoint = target.endpoint(fitted.map(({ object }) => object));
      // Pods that never served may leave in their own time.
      const hurry = AbortSignal.abort();
      const outcome = await rollOut(context, {
        id,
        stepName: "rollback",
        workloads,
        write,
        endpoint,
        before,
        skipWait: hurry,
      });
      if (outcome.samples) log(describeAvailability(outcome.samples));
      if (outcome.samples) log(renderTimeline(outcome.samples.buckets));
      log(`verified ${outcome.servedAfter.toFixed(1)} s after the way back began`);
    }
    for (const one of recordedVersions) await deleteVersion(api, one);
    return { id, left };
  } catch (error) {
    if (error instanceof RolloutFailed && !context.signal.aborted) {
      const message = `${why}. The rollback to ${id} failed as well: ${error.message}`;
      // Whether the old one serves, which is what a fault of the change promises, nobody knows now.
      const hint = `${nextStepHint(target, error.failure)} ${resumeHint ?? "The same command goes on from there."}`;
      throw new PipelineError("partial", message, { hint, output });
    }
    throw partialFailure(
      `${why}. The way back from ${name} failed as well`,
      error,
      context.signal,
      resumeHint,
    );
  }
}

/** What tells more, as a sentence. */
export function nextStepHint({ api, kubectl }: Target, { pod }: RolloutFailure): string {
  const { name, namespace } = api.service;
  const about = pod ? `pod ${pod}` : `deployment ${name}`;
  return `\`${kubectl.join(" ")} -n ${namespace} describe ${about}\` tells more.`;
}
