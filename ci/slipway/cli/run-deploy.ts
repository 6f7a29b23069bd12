/** Runs a deploy, and describes its result. */
import { describeAvailability, renderMermaidChart, renderTimeline } from "../deploy/availability.ts";
import { describeServing } from "../deploy/verify-from-outside.ts";
import type { CommandContext } from "./context.ts";
import { deploySteps } from "./deploy-flow.ts";
import type { FlowResults } from "./deploy-step-results.ts";
import { runFlow, type FlowOptions } from "./run-flow.ts";

export interface DeployResult {
  /** The state now, as a sentence. */
  conclusion: string;
  /** Time when the version was first served, in milliseconds since 1970. Undefined if it ran already. */
  servedAt: number | undefined;
}

/**
 * Checks, tests, builds, deploys and verifies the working tree.
 *
 * @param flow results that are known, like a connection that stays open
 */
export async function deployWorkingTree(
  context: CommandContext,
  flow: Omit<FlowOptions<FlowResults>, "goals"> = {},
): Promise<DeployResult> {
  const goals = ["verify", "complete"] as const;
  const results = await runFlow(context, deploySteps(context), { ...flow, goals });
  const { approve, prepare, verify, settle } = results;
  const { name, endpoint } = approve;
  if (!prepare) {
    const place = endpoint.observe ? `as the worker ${endpoint.url}` : `and answers at ${endpoint.url}`;
    const conclusion = `nothing to deploy: ${name} runs already ${place}`;
    return { conclusion, servedAt: undefined };
  }
  if (settle) {
    context.log(describeAvailability(settle));
    context.log(renderTimeline(settle.buckets));
    context.report.attach("buckets", settle.buckets, renderMermaidChart(settle.buckets));
  }
  return { conclusion: describeServing(endpoint, name), servedAt: verify?.servedAt };
}
