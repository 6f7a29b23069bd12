/** The steps of a deploy that need both the build and the cluster. */
import type { StepResult } from "../core/step-report.ts";
import { describePlan, planDeploy, type DeployContext, type Plan } from "../deploy/plan.ts";
import { assertServing } from "../deploy/status.ts";
import { isScaledToZero, SCALED_TO_ZERO, type ServedVersion } from "../deploy/rollout-phases.ts";
import { describeVerified } from "../deploy/verify-from-outside.ts";
import { isRegistryTarget } from "../targets/registry.ts";
import type { CommandContext } from "./context.ts";

/** Prints the changes of a plan. Nothing is delivered before. */
export function logChanges(context: CommandContext, plan: Plan): void {
  for (const line of describePlan(plan)) context.log(line);
}

/**
 * Decides whether the archive is unnecessary, because the target has the image.
 *
 * @returns the reason, in a few words. A registry's image is compared with the archive, so a registry needs the archive.
 */
export async function findExistingImage(
  connecting: Promise<DeployContext>,
  locating: Promise<string | undefined>,
): Promise<string | undefined> {
  const [{ target }, image] = await Promise.all([connecting, locating]);
  return image && !isRegistryTarget(target) ? "on the node already" : undefined;
}

/**
 * Compares an image in the registry with the archive. Anybody with the right to push may have changed the tag.
 *
 * @returns the plan, anew if the image in the registry is another one
 */
export async function compareWithRegistry(
  context: CommandContext,
  deployContext: DeployContext,
  plan: Plan,
): Promise<Plan> {
  const { target } = deployContext;
  if (!plan.delivered || !isRegistryTarget(target)) return plan;
  const isSame = await target.compare(context.options.output, plan.id);
  if (isSame) return plan;
  if (isSame === false)
    context.log(`tag ${plan.id} in the registry is another image than the one built here: push again`);
  return planDeploy(deployContext, plan.id);
}

/** Verifies a version that runs already. @throws {PipelineError} "project" if the service does not answer with it */
export async function verifyCurrent(
  context: DeployContext,
  { endpoint, id, before }: Plan,
): Promise<StepResult<ServedVersion | undefined>> {
  if (isScaledToZero(before)) return { value: undefined, detail: SCALED_TO_ZERO };
  await assertServing(context, endpoint, id);
  return { value: undefined, detail: describeVerified(endpoint, id) };
}
