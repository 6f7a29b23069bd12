/** Back from what went wrong in the middle: to what the cluster had just before, and why it went wrong is shown. */
import { PipelineError } from "../core/errors.ts";
import { applyAll, halfway, leaving, prune, restore } from "../kubernetes/apply.ts";
import { explain } from "./diagnostics.ts";
import { fit, type Fitted } from "../kubernetes/prepare-apply.ts";
import { bring, NotUp } from "./rollout.ts";
import { forget, isKeptApart, type Version } from "./history.ts";
import { closedEgress, lastWords, otherPort } from "./log-hints.ts";
import { idOf, type Observation, type WorkloadName } from "../kubernetes/observe.ts";
import type { Deploy } from "./plan.ts";
import { assessAll, type Failure } from "./rollout-status.ts";
import { describeSamples, drawMoments } from "./availability.ts";
import type { Target } from "./target.ts";

/** What a change has found, and what it was to become. */
export interface Begun {
  /** A sentence's beginning: `helloapp:abc`. */
  name: string;
  /** Each object that it writes, with what was there. */
  fitted: Fitted[];
  /** The workloads that were there, and how they were. */
  before: Observation[];
  /** The version that was proven last, where what was there cannot be what served. */
  back: Version | undefined;
  version: Version;
  /** What it has made and what stays: Jobs that came first have had their effect. */
  stays: string[];
  /** Versions that are kept since this began, and forgotten when it is undone. */
  noted: Version[];
  /** How to go on where even the way back fails, as a sentence; default: the same command. */
  goOn?: string;
}

/**
 * Undoes what was begun, and ends with the error that says both.
 *
 * @param error why: a version that did not come up, or what failed in the middle
 */
export async function undo(run: Deploy, begun: Begun, error: unknown): Promise<never> {
  const { target, service, say, leaves } = run;
  const { api } = target;
  const { name, back } = begun;
  if (error instanceof NotUp) {
    const what = `${name} did not come up: ${error.message}`;
    say(what);
    const output = await explain(api, error.failure);
    const manifests = begun.fitted.map(({ object }) => object);
    const isSilent = error.failure.reason === "NotReady";
    const known =
      lastWords(output, service) ??
      closedEgress(output, service, manifests) ??
      (isSilent
        ? (otherPort(service, manifests) ?? closedEgress(output, service, manifests, isSilent))
        : undefined);
    const why = known ? `${known} ` : "";
    if (!served(run, begun) && !back) {
      const hint = `${why}${nextLine(target, error.failure)} The next deploy replaces it.`;
      throw new PipelineError(
        "change",
        `${what}. There is no earlier version that serves: it was left as it is`,
        {
          hint,
          output,
        },
      );
    }
    leaves(`${name} did not come up, and the way back was under way.`);
    const { id } = await wayBack(run, begun, output, what);
    if (error.samples) say(describeSamples(error.samples));
    throw new PipelineError("change", `${what}. Rolled back: ${service.name}:${id} serves, as before`, {
      hint: `${why}${hasNoRoom(error.failure) ? NO_ROOM : "Correct the source"} and run the same command again.`,
      output,
    });
  }
  // Nothing may be written when somebody else holds the lock, and an interruption is told what goes on.
  if (run.signal.aborted)
    throw halfway(`${name} was being rolled out, and may be half applied`, error, run.signal);
  if (!(error instanceof PipelineError)) throw error;
  say(`undone, because of this: ${error.message}`);
  leaves(`${name} was being applied, and what failed in the middle was being undone.`);
  const way = await wayBack(run, begun, error.output, error.message);
  const left = [...begun.stays, ...way.left];
  const state = left.length > 0 ? "It was undone" : "It was undone: all is as it was";
  leaves(`${name} was undone.`);
  const undone = new PipelineError(error.fault, `${error.message}. ${state}`, {
    ...(error.hint && { hint: error.hint }),
    output: error.output,
    cause: error,
  });
  throw leaving(left, undone);
}

const NO_ROOM = "Make room in the cluster, or let it ask for less,";

/** Whether there was no place for its pods, which no correction of the source makes. */
function hasNoRoom({ reason, message }: Failure): boolean {
  return reason === "Unschedulable" || /exceeded quota|no space left on device/.test(message);
}

/** Whether what was there before is what served. */
function served({ service }: Deploy, { before }: Begun): boolean {
  return before.length > 0 && assessAll(before, service).state === "complete";
}

/** @returns the id that serves again, and what was left @throws {PipelineError} "halfway" when it does not */
async function wayBack(
  run: Deploy,
  begun: Begun,
  output: string | undefined,
  why: string,
): Promise<{ id: string; left: string[] }> {
  const { target, say } = run;
  const { api } = target;
  const { fitted, before, back, version, noted, name, goOn } = begun;
  const asItWas = served(run, begun) || !back;
  const id = asItWas ? (before[0] ? idOf(before[0].deployment) : "nothing") : back.id;
  say(`back to ${id}`);
  const workloads: WorkloadName[] = before.map(({ deployment }) => deployment);
  let left: string[] = [];
  const write = async () => {
    if (asItWas) {
      left = await restore(api, fitted);
      if (left.length > 0) say(`left, because it is not deleted unasked: ${left.join(", ")}`);
      return;
    }
    const manifests = back.manifests.filter((object) => !isKeptApart(object));
    await applyAll(api, await fit(api, manifests));
    await prune(api, version.manifests, back.manifests);
  };
  try {
    if (before.length === 0) {
      await write();
    } else {
      const endpoint = target.endpoint(fitted.map(({ object }) => object));
      // Pods that never served may leave in their own time.
      const hurry = AbortSignal.abort();
      const outcome = await bring(run, { id, what: "rollback", workloads, write, endpoint, before, hurry });
      if (outcome.samples) say(describeSamples(outcome.samples));
      if (outcome.samples) say(drawMoments(outcome.samples.moments));
      say(`verified ${outcome.servedAfter.toFixed(1)} s after the way back began`);
    }
    for (const one of noted) await forget(api, one);
    return { id, left };
  } catch (error) {
    if (error instanceof NotUp && !run.signal.aborted) {
      const message = `${why}. The rollback to ${id} failed as well: ${error.message}`;
      // Whether the old one serves, which is what a fault of the change promises, nobody knows now.
      const hint = `${nextLine(target, error.failure)} ${goOn ?? "The same command goes on from there."}`;
      throw new PipelineError("halfway", message, { hint, output });
    }
    throw halfway(`${why}. The way back from ${name} failed as well`, error, run.signal, goOn);
  }
}

/** What tells more, as a sentence. */
export function nextLine({ api, kubectl }: Target, { pod }: Failure): string {
  const { name, namespace } = api.service;
  const about = pod ? `pod ${pod}` : `deployment ${name}`;
  return `\`${kubectl.join(" ")} -n ${namespace} describe ${about}\` tells more.`;
}
