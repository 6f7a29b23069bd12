/** Delivery of an image: import or push before the rollout, and removal if no rollout follows. */
import type { PipelineError } from "../core/errors.ts";
import type { StepResult } from "../core/step-report.ts";
import { createPartialFailure } from "../kubernetes/apply.ts";
import { referencedImages } from "./release-history.ts";
import type { DeployContext, Plan } from "./plan.ts";

type Show = (text: string) => void;

/** Records the state that an interruption of a delivery leaves. */
export function recordDelivery({ recordState }: DeployContext, { name }: Plan): void {
  recordState(`${name} was being delivered. Nothing was rolled out, and the current version keeps running.`);
}

/**
 * Delivers the image while the checks still run.
 *
 * @returns the plan, with the image marked as delivered by this run
 */
export async function deliverEarly(
  context: DeployContext,
  plan: Plan,
  archive: string,
  show: Show,
): Promise<StepResult<Plan>> {
  recordDelivery(context, plan);
  const { reused = false } = await deliver(context, plan, archive, show);
  return { value: { ...plan, delivered: true, isFresh: true }, reused };
}

/**
 * Makes sure that pods can pull the image of a plan, and imports or pushes it if they cannot.
 *
 * @returns the name of the image for manifests
 */
export async function ensureDelivered(
  context: DeployContext,
  plan: Plan,
  archive: string,
  show: Show,
): Promise<StepResult<string>> {
  // The delivery by this run was reported. A deploy to another namespace may have removed the image since.
  const image = plan.isFresh ? await context.target.find(plan.id) : undefined;
  if (image) return { value: image, cancelled: true };
  return deliver(context, plan, archive, show);
}

async function deliver(
  { target }: DeployContext,
  plan: Plan,
  archive: string,
  show: Show,
): Promise<StepResult<string>> {
  const existing = plan.delivered ? await target.find(plan.id) : undefined;
  if (existing) return { value: existing, reused: true };
  return { value: await target.deliver(archive, plan.id, show) };
}

/**
 * Removes an image that was delivered for a deploy that did not begin.
 *
 * @param error the reason
 * @returns the error to report: `error`, or a partial failure if the image could not be removed
 */
export async function removeDeliveredImage(
  { target, signal }: DeployContext,
  { name }: Plan,
  error: unknown,
): Promise<unknown> {
  try {
    await target.clean(() => referencedImages(target.api));
    return error;
  } catch (failure) {
    return abortedDeploy(error, `the image ${name} could not be removed`, failure, signal);
  }
}

/** Creates the error of a deploy that did not begin and left something behind. */
export function abortedDeploy(error: unknown, leftover: string, failure: unknown, signal: AbortSignal): PipelineError {
  const reason = error instanceof Error ? error.message : String(error);
  return createPartialFailure(`${reason}. Nothing was rolled out, but ${leftover}`, failure, signal);
}
