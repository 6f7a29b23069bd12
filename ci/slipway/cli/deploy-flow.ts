/** The way to a cluster, and a deploy there: what `deploy`, `up` and `watch` do alike. */
import { deliver, deploy, withdraw } from "../deploy/deploy.ts";
import { describePlan, plan, upToDate, type Deploy, type Plan } from "../deploy/plan.ts";
import { prove } from "../deploy/status.ts";
import type { Target } from "../deploy/target.ts";
import { chartMoments, describeSamples, drawMoments } from "../deploy/availability.ts";
import { connectHosts } from "../targets/ssh.ts";
import { connectK3s } from "../targets/k3s.ts";
import { connectCluster, isRegistryTarget } from "../targets/registry.ts";
import { forOnePlatform, wrong } from "./options.ts";
import type { Run } from "./context.ts";
import { check, image, sideBySide, test, type Elsewhere } from "./steps.ts";

/**
 * Connects to the target that the options name, for as long as `use` takes.
 *
 * @param options.deploys whether that begins with a deploy, see K3sOptions
 * @throws {PipelineError} "usage" when they name none; "surroundings" when it cannot be reached
 */
export async function withCluster<T>(
  run: Run,
  use: (to: Deploy) => Promise<T>,
  options: { deploys?: boolean } = {},
): Promise<T> {
  const target = await connect(run, options);
  try {
    return await use(deployOf(run, target));
  } finally {
    await target.api.close();
  }
}

async function connect(
  { service, options, signal }: Run,
  { deploys }: { deploys?: boolean },
): Promise<Target> {
  const { target, hosts, registry, context, kubeconfig, url } = options;
  if (target === "none") throw wrong("this takes a cluster: not with --target none");
  forOnePlatform(options);
  if (hosts.length > 0) return connectHosts({ service, hosts, url, signal });
  if (target === "k3s") return connectK3s({ service, kubeconfig, context, url, deploys, signal });
  return connectCluster({ service, kubeconfig, context: context!, repository: registry!, url, signal });
}

/** The plan, with what is in a registry held against what was built. */
async function compared(run: Run, to: Deploy, found: Plan): Promise<Plan> {
  const { target } = to;
  if (!found.delivered || !isRegistryTarget(target)) return found;
  const same = await target.compare(run.options.output, found.id);
  if (same) return found;
  if (same === false)
    run.say(`what stands under ${found.id} in the registry is not what was built here: it is pushed over`);
  return plan(to, found.id);
}

/** A run's dealings with a target. */
export function deployOf(run: Run, target: Target): Deploy {
  const { service, signal, report } = run;
  return {
    target,
    service,
    signal,
    leaves: (state) => void (run.left = state),
    say: (line) => run.say(line),
    step: (name, work) => report.step(name, work),
  };
}

/** What needs nothing of the cluster. */
export interface Begun {
  /** Check and test. */
  proofs: Promise<void>[];
  id: Promise<string>;
  /** The archive. It comes to an end when it is told whether it is needed. */
  imaging: Promise<string>;
  tell(elsewhere: Elsewhere | Promise<Elsewhere>): void;
}

/** Begins with what may go on before there is a way to the cluster. */
export function begin(run: Run): Begun {
  const proofs = [check(run), test(run)];
  const id = run.id();
  const { promise: elsewhere, resolve: tell } = Promise.withResolvers<Elsewhere>();
  const imaging = image(run, id, { elsewhere });
  for (const promise of [...proofs, id, elsewhere, imaging]) promise.catch(() => {});
  return { proofs, id, imaging, tell };
}

/** Finds the way to the cluster while that begins, and deploys. */
export async function reachAndDeploy(run: Run): Promise<string> {
  const begun = begin(run);
  try {
    return await withCluster(run, (to) => deployHere(run, to, { begun }), { deploys: true });
  } finally {
    // Where there was no way, what was built for it goes.
    begun.tell({ givenUp: true });
    await begun.imaging.catch(() => {});
  }
}

export interface Deploying {
  /** Default: it begins now. */
  begun?: Begun;
  /** Ends the wait for the last pods of the version before. */
  hurry?: AbortSignal;
}

/**
 * Checks, tests, builds, deploys, verifies; what holds already is left out.
 *
 * @returns what holds now, as a sentence
 */
export async function deployHere(
  run: Run,
  to: Deploy,
  { begun = begin(run), hurry }: Deploying = {},
): Promise<string> {
  const { proofs, id, imaging, tell } = begun;
  const there = id.then((known) => to.target.find(known));
  const planning = run.report.step("plan", async () => {
    const value = await plan(to, id, there);
    const lines = describePlan(value);
    return { value, detail: lines.length > 0 ? `${value.name} changes this:` : "nothing would change" };
  });
  // An id is its inputs: an image of that name is this one, in containerd. Who has named the archive wants the file, too.
  const isNeeded = run.options.wantsArchive || isRegistryTarget(to.target);
  tell(there.then((found) => (found && !isNeeded ? { place: "there already" } : {})));
  const building = planning.then(async (found) => {
    for (const line of describePlan(found)) run.say(line);
    await imaging;
    return compared(run, to, found);
  });
  // It takes as long as the tests, and an image that lies in the node serves nobody. From a registry none can be taken away.
  let [isRed, brought]: [boolean, Plan | undefined] = [false, undefined];
  for (const proof of proofs) proof.catch(() => void (isRed = true));
  const bringing = building.then(async (found) => {
    if (found.delivered || isRegistryTarget(to.target) || isRed) return found;
    to.leaves(`${found.name} was being delivered; nothing was rolled out, what ran goes on running.`);
    await deliver(to, found, run.options.output);
    return (brought = { ...found, delivered: true, isFresh: true });
  });
  const change = await sideBySide(run, [...proofs, imaging, bringing]).then(
    (results) => results.at(-1) as Plan,
    async (error: unknown) => {
      throw brought ? await withdraw(to, brought, error) : error;
    },
  );
  const { url } = change.endpoint;
  if (upToDate(to, change)) {
    // A node may have joined, or lost the image.
    if (!change.delivered) await deliver(to, change, run.options.output);
    await run.report.step("verify", async () => {
      await prove(to, change.endpoint, change.id);
      return { value: undefined, detail: `20 replies in a row carry ${change.id}` };
    });
    return `nothing to deploy: ${change.name} runs already and answers at ${url}`;
  }
  const { samples, servedAt } = await deploy(to, change, run.options.output, hurry);
  run.servedAt = servedAt;
  if (samples) {
    run.say(describeSamples(samples));
    run.say(drawMoments(samples.moments));
    run.report.attach("moments", samples.moments, chartMoments(samples.moments));
  }
  return `${change.name} serves at ${url}`;
}
