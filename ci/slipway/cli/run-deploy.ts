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
  /** The output of `deploy --json`. */
  json: DeployOutput;
}

/** docs/reference/json-output.md documents it. */
export interface DeployOutput {
  id: string;
  name: string;
  url: string;
  isServed: true;
  /** Whether the deploy changed the cluster. false: the version ran already. */
  isChanged: boolean;
  servedAt: string | null;
  /** Requests during the rollout. null: no previous version served. */
  requests: { sent: number; failed: number } | null;
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
  const { id, name, endpoint } = approve;
  const output = { id, name, url: endpoint.url, isServed: true } as const;
  if (!prepare) {
    const place = endpoint.observe ? `as the worker ${endpoint.url}` : `and answers at ${endpoint.url}`;
    const conclusion = `nothing to deploy: ${name} runs already ${place}`;
    const json = { ...output, isChanged: false, servedAt: null, requests: null };
    return { conclusion, servedAt: undefined, json };
  }
  if (settle) {
    context.log(describeAvailability(settle));
    context.log(renderTimeline(settle.buckets));
    context.report.attach("buckets", settle.buckets, renderMermaidChart(settle.buckets));
  }
  const { servedAt } = verify ?? {};
  const json = {
    ...output,
    isChanged: true,
    servedAt: servedAt === undefined ? null : new Date(servedAt).toISOString(),
    requests: settle ? { sent: settle.requests, failed: settle.failed } : null,
  };
  return { conclusion: describeServing(endpoint, name), servedAt, json };
}
