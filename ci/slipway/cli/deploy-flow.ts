/** The way to a cluster, and a deploy there: what `deploy`, `up` and `watch` do alike. */
import { deliverImage, deploy, removeDeliveredImage } from "../deploy/deploy.ts";
import { describePlan, createPlan, isUpToDate, type DeployContext, type Plan } from "../deploy/plan.ts";
import { assertServing } from "../deploy/status.ts";
import type { Target } from "../deploy/target.ts";
import { renderMermaidChart, describeAvailability, renderTimeline } from "../deploy/availability.ts";
import { connectSshTarget } from "../targets/ssh.ts";
import { connectK3sTarget } from "../targets/k3s.ts";
import { connectRegistryTarget, isRegistryTarget } from "../targets/registry.ts";
import { assertSinglePlatform, usageError } from "./options.ts";
import type { CommandContext } from "./context.ts";
import { runCheck, buildArchive, runInParallel, runTests, type DeliveryState } from "./steps.ts";

/**
 * Connects to the target that the options name, for as long as `use` takes.
 *
 * @param options.deploys whether that begins with a deploy, see K3sOptions
 * @throws {PipelineError} "usage" when they name none; "environment" when it cannot be reached
 */
export async function withCluster<T>(
  context: CommandContext,
  use: (deployContext: DeployContext) => Promise<T>,
  options: { deploys?: boolean } = {},
): Promise<T> {
  const target = await connect(context, options);
  try {
    return await use(createDeployContext(context, target));
  } finally {
    await target.api.close();
  }
}

async function connect(
  { service, options, signal }: CommandContext,
  { deploys }: { deploys?: boolean },
): Promise<Target> {
  const { target, hosts, registry, context, kubeconfig, url } = options;
  if (target === "none") throw usageError("this takes a cluster: not with --target none");
  assertSinglePlatform(options);
  if (hosts.length > 0) return connectSshTarget({ service, hosts, url, signal });
  if (target === "k3s")
    return connectK3sTarget({ service, kubeconfig, context, url, isDeploy: deploys, signal });
  return connectRegistryTarget({
    service,
    kubeconfig,
    context: context!,
    repository: registry!,
    url,
    signal,
  });
}

/** The plan, with what is in a registry held against what was built. */
async function compared(context: CommandContext, deployContext: DeployContext, found: Plan): Promise<Plan> {
  const { target } = deployContext;
  if (!found.delivered || !isRegistryTarget(target)) return found;
  const same = await target.compare(context.options.output, found.id);
  if (same) return found;
  if (same === false)
    context.log(
      `what stands under ${found.id} in the registry is not what was built here: it is pushed over`,
    );
  return createPlan(deployContext, found.id);
}

/** A run's dealings with a target. */
export function createDeployContext(context: CommandContext, target: Target): DeployContext {
  const { service, signal, report } = context;
  return {
    target,
    service,
    signal,
    recordState: (state) => void (context.interruptMessage = state),
    log: (line) => context.log(line),
    step: (name, work) => report.step(name, work),
  };
}

/** What needs nothing of the cluster. */
export interface BuildInProgress {
  /** Check and test. */
  checks: Promise<void>[];
  id: Promise<string>;
  /** The archive. It comes to an end when it is told whether it is needed. */
  archive: Promise<string>;
  setDelivery(elsewhere: DeliveryState | Promise<DeliveryState>): void;
}

/** Begins with what may go on before there is a way to the cluster. */
export function startBuild(context: CommandContext): BuildInProgress {
  const checks = [runCheck(context), runTests(context)];
  const id = context.imageId();
  const { promise: elsewhere, resolve: setDelivery } = Promise.withResolvers<DeliveryState>();
  const archive = buildArchive(context, id, { elsewhere });
  for (const promise of [...checks, id, elsewhere, archive]) promise.catch(() => {});
  return { checks, id, archive, setDelivery };
}

/** Finds the way to the cluster while that begins, and deploys. */
export async function connectAndDeploy(context: CommandContext): Promise<string> {
  const begun = startBuild(context);
  try {
    return await withCluster(context, (deployContext) => runDeploy(context, deployContext, { begun }), {
      deploys: true,
    });
  } finally {
    // Where there was no way, what was built for it goes.
    begun.setDelivery({ cancelled: true });
    await begun.archive.catch(() => {});
  }
}

export interface DeployFlowOptions {
  /** Default: it begins now. */
  begun?: BuildInProgress;
  /** Ends the wait for the last pods of the version before. */
  hurry?: AbortSignal;
}

/**
 * Checks, tests, builds, deploys, verifies; what holds already is left out.
 *
 * @returns what holds now, as a sentence
 */
export async function runDeploy(
  context: CommandContext,
  deployContext: DeployContext,
  { begun = startBuild(context), hurry }: DeployFlowOptions = {},
): Promise<string> {
  const { checks, id, archive, setDelivery } = begun;
  const there = id.then((known) => deployContext.target.find(known));
  const planning = context.report.step("plan", async () => {
    const value = await createPlan(deployContext, id, there);
    const lines = describePlan(value);
    return { value, detail: lines.length > 0 ? `${value.name} changes this:` : "nothing would change" };
  });
  // An id is its inputs: an image of that name is this one, in containerd. Who has named the archive wants the file, too.
  const isNeeded = context.options.wantsArchive || isRegistryTarget(deployContext.target);
  setDelivery(there.then((found) => (found && !isNeeded ? { place: "there already" } : {})));
  const building = planning.then(async (found) => {
    for (const line of describePlan(found)) context.log(line);
    await archive;
    return compared(context, deployContext, found);
  });
  // It takes as long as the tests, and an image that lies in the node serves nobody. From a registry none can be taken away.
  let [isRed, brought]: [boolean, Plan | undefined] = [false, undefined];
  for (const proof of checks) proof.catch(() => void (isRed = true));
  const bringing = building.then(async (found) => {
    if (found.delivered || isRegistryTarget(deployContext.target) || isRed) return found;
    deployContext.recordState(
      `${found.name} was being delivered; nothing was rolled out, what ran goes on running.`,
    );
    await deliverImage(deployContext, found, context.options.output);
    return (brought = { ...found, delivered: true, isFresh: true });
  });
  const change = await runInParallel(context, [...checks, archive, bringing]).then(
    (results) => results.at(-1) as Plan,
    async (error: unknown) => {
      throw brought ? await removeDeliveredImage(deployContext, brought, error) : error;
    },
  );
  const { url } = change.endpoint;
  if (isUpToDate(deployContext, change)) {
    // A node may have joined, or lost the image.
    if (!change.delivered) await deliverImage(deployContext, change, context.options.output);
    await context.report.step("verify", async () => {
      await assertServing(deployContext, change.endpoint, change.id);
      return { value: undefined, detail: `20 replies in a row carry ${change.id}` };
    });
    return `nothing to deploy: ${change.name} runs already and answers at ${url}`;
  }
  const { samples, servedAt } = await deploy(deployContext, change, context.options.output, hurry);
  context.servedAt = servedAt;
  if (samples) {
    context.log(describeAvailability(samples));
    context.log(renderTimeline(samples.buckets));
    context.report.attach("moments", samples.buckets, renderMermaidChart(samples.buckets));
  }
  return `${change.name} serves at ${url}`;
}
