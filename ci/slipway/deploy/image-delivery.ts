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

/** An image that pods can use. */
export interface DeliveredImage {
  /** Its name in manifests. */
  reference: string;
  /** Whether the version was recorded before the image was there, so that no clean-up can have removed it. */
  isProtected: boolean;
}

/**
 * Makes sure that pods can pull the image of a plan, and imports or pushes it if they cannot.
 *
 * @param importing the early delivery by this run, if there is one
 * @param isRecorded whether the version is recorded already
 */
export async function ensureDelivered(
  context: DeployContext,
  plan: Plan,
  archive: string,
  show: Show,
  { importing, isRecorded = false }: { importing?: Promise<Plan | undefined>; isRecorded?: boolean } = {},
): Promise<StepResult<DeliveredImage>> {
  const isProtected = isRecorded && importing !== undefined && Bun.peek.status(importing) === "pending";
  const imported = await importing;
  // The early delivery was reported.
  if (imported && isProtected) return { value: { reference: plan.name, isProtected }, cancelled: true };
  // A deploy to another namespace may have removed the image since.
  const image = imported || plan.isFresh ? await context.target.find(plan.id) : undefined;
  if (image) return { value: { reference: image, isProtected: false }, cancelled: true };
  const { value, ...result } = await deliver(context, plan, archive, show);
  return { ...result, value: { reference: value, isProtected: false } };
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
