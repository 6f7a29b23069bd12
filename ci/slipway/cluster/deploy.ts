/**
 * The deploy: plan, deliver, apply, watch, verify; and back again when the new version is no good.
 *
 * The old version serves until the new one has passed its readiness probes (maxUnavailable 0), so a version that does
 * not come up costs nobody a request.
 */
import { app } from "../app.ts";
import { PipelineError } from "../ground/errors.ts";
import { gitCommit } from "../ground/git.ts";
import type { Done, Report } from "../ground/report.ts";
import { Refusal, type Api } from "./api.ts";
import { explain } from "./explain.ts";
import { earlier, forget, keep, keptImages, listVersions, newVersion } from "./history.ts";
import { proofTime, superfluous } from "./history.ts";
import type { Version } from "./history.ts";
import { readLock, takeLock, type Lock } from "./lock.ts";
import { applyAll, differences, forVersion, prune, render, snapshot } from "./manifests.ts";
import type { Difference } from "./manifests.ts";
import type { Deployment, KubeObject, Pod, ReplicaSet } from "./objects.ts";
import { assess, idOf, otherPods, ownPods, Patience } from "./rollout.ts";
import type { Failure, Observation, Verdict } from "./rollout.ts";
import type { Target } from "./target.ts";
import { ask, sample, verify, type Endpoint, type Samples } from "./verify.ts";

/** Milliseconds between two looks at a rollout. */
const LOOK_MS = 100;
/** Seconds that pods of the version before may take to leave, beyond their grace period. */
const LEAVE_SECONDS = 15;
/** Seconds that the API server may be away while a rollout is followed. */
const AWAY_SECONDS = 15;

/** What all of a run's dealings with the cluster share. */
export interface Deploy {
  target: Target;
  /** The directory with package.json. */
  project: string;
  signal: AbortSignal;
  /** Takes down, for the case of an interruption, what state things would be left in now. */
  leaves(state: string): void;
  /** Tells a person what goes on. */
  say(line: string): void;
  /** Runs a part of it that is worth a line and a time of its own. */
  step: Report["step"];
}

export interface Plan {
  id: string;
  /** What a person calls it: `helloapp:<id>`. */
  name: string;
  /** Whether the image is where pods can take it from. */
  delivered: boolean;
  /** As it would be applied; its image may get another name when it is delivered. */
  version: Version;
  /** The overlay's objects, before they are those of a version. */
  manifests: KubeObject[];
  differences: Difference[];
  endpoint: Endpoint;
  /** What the cluster has; undefined before the first deploy. */
  before: Observation | undefined;
  versions: Version[];
}

/**
 * What a deploy of `id` would change. Nothing is changed by asking.
 *
 * @throws {PipelineError} "change" when the server refuses the manifests
 */
export async function plan({ target, project, signal }: Deploy, id: string): Promise<Plan> {
  const { api } = target;
  const [manifests, image, before, versions, commit] = await Promise.all([
    render(target, project, signal),
    target.find(id),
    observe(api),
    listVersions(api),
    gitCommit(project, signal),
  ]);
  const name = `${app.name}:${id}`;
  const version = newVersion(id, image ?? name, forVersion(manifests, id, image ?? name), commit);
  return {
    id,
    name,
    delivered: image !== undefined,
    version,
    manifests,
    differences: await differences(api, version.manifests),
    endpoint: target.endpoint(manifests),
    before,
    versions,
  };
}

/** Whether there is nothing to do: the server would change nothing, and what it has is up and was proven. */
export function upToDate({ differences, before, versions, version }: Plan): boolean {
  const proven = versions.some(({ name, verified }) => name === version.name && verified);
  return differences.length === 0 && before !== undefined && assess(before).state === "complete" && proven;
}

/** A plan's differences, as lines for a person. */
export function describePlan({ differences }: Pick<Plan, "differences">): string[] {
  return differences.flatMap(({ object, lines, isNew }) =>
    isNew ? [`${object} is new`] : lines.map((line) => `${object} ${line}`),
  );
}

/** What a deploy came to. */
export interface Outcome {
  /** Seconds from the apply until 20 replies in a row carried the id. */
  servedAfter: number;
  /** When that was, in milliseconds since 1970. */
  servedAt: number;
  /** What clients saw from the apply on; undefined at the first deploy. */
  samples: Samples | undefined;
}

/**
 * Deploys a plan and proves it.
 *
 * @param archive the docker-archive to deliver where the image is not there
 * @param hurry ends the wait for the last pods of the version before
 * @throws {PipelineError} "change" when the new version does not come up; the version before is then back
 */
export async function deploy(
  run: Deploy,
  plan: Plan,
  archive: string,
  hurry?: AbortSignal,
): Promise<Outcome> {
  const { target, leaves, say } = run;
  const { api } = target;
  const { id, name, manifests, endpoint } = plan;
  await ensureNamespace(api, manifests);
  return locked(run, `deploy of ${name}`, async (signal, underLock) => {
    leaves(`${name} was being delivered; nothing was rolled out, what ran goes on running.`);
    // Kept before it is there: whoever tidies the node for another namespace must not take it for one that nobody needs.
    await keep(api, { ...plan.version, verified: proofOf(plan.version, plan.versions) });
    const image = await run.step("deliver", async () => {
      const there = plan.delivered ? await target.find(id) : undefined;
      return there ? { value: there, reused: true } : { value: await target.deliver(archive, id) };
    });
    // Read again: somebody else may have deployed between the plan and the lock.
    const [seen, kept] = await Promise.all([observe(api), listVersions(api)]);
    const objects = forVersion(manifests, id, image);
    const version = newVersion(id, image, objects, plan.version.commit);
    const unknown = seen && !kept.some(({ verified }) => verified);
    const adopted = unknown && (await adopt(api, objects, seen, endpoint));
    const back = adopted || earlier(kept, (one) => one.name === version.name);
    leaves(
      `The rollout of ${name} was under way and goes on in the cluster; what ran serves until it is ready. ` +
        "The same command picks it up, `bun ci/pipeline.ts rollback` undoes it.",
    );
    signal.throwIfAborted();
    if (image !== plan.version.image) await forget(api, plan.version);
    await keep(api, { ...version, verified: proofOf(version, kept) });
    say(`apply ${target.overlay} with ${name}`);
    try {
      const served = seen !== undefined;
      const outcome = await bring(underLock, "rollout", version, { endpoint, served, hurry });
      const pruned = back ? await prune(api, back.manifests, objects) : [];
      if (pruned.length > 0) say(`deleted, because the manifests no longer have it: ${pruned.join(", ")}`);
      await tidy(underLock, version);
      return outcome;
    } catch (error) {
      if (!(error instanceof NotUp)) throw error;
      return undo(underLock, plan, version, back, error);
    }
  });
}

/**
 * Goes back to a version that the cluster keeps, and proves it.
 *
 * @param id which one; default: the one that served before
 * @throws {PipelineError} "surroundings" when there is none, "change" when it does not come up
 */
export async function rollback(run: Deploy, id?: string): Promise<string> {
  const { target, leaves, say } = run;
  const { api } = target;
  return locked(run, `rollback${id ? ` to ${id}` : ""}`, async (_, underLock) => {
    const [seen, versions] = await Promise.all([observe(api), listVersions(api)]);
    const current = seen && idOf(seen.deployment);
    const to = earlier(versions, (version) => version.id === current, id);
    if (!to) {
      const kept = versions.filter(({ verified }) => verified).map((version) => version.id);
      const what = id ? `the cluster keeps no version ${id}` : "there is no earlier version to go back to";
      throw new PipelineError("surroundings", `${what}; nothing was changed`, {
        hint: `Kept: ${kept.join(", ") || "none"}. \`bun ci/pipeline.ts status\` tells more.`,
      });
    }
    if (!(await target.find(to.id))) {
      const hint = `Check out ${to.commit ?? "its commit"} and deploy that.`;
      throw new PipelineError("surroundings", `the image of ${to.id} is gone; nothing was changed`, { hint });
    }
    say(`back from ${current} to ${to.id}`);
    leaves(`The rollback to ${to.id} was under way and goes on in the cluster.`);
    const now = versions.find((version) => version.id === current);
    try {
      await bring(underLock, "rollback", to, { endpoint: target.endpoint(to.manifests), served: true });
    } catch (error) {
      if (!(error instanceof NotUp)) throw error;
      throw new PipelineError("change", `${to.id} did not come up again: ${error.message}`, {
        hint: nextLine(target, error.failure),
        output: await explain(api, error.failure),
      });
    }
    if (now) await prune(api, now.manifests, to.manifests);
    await keep(api, { ...to, verified: proofTime(versions) });
    return to.id;
  });
}

/** Where the Service answers from outside, by what the overlay says. */
export async function endpointOf({ target, project, signal }: Deploy): Promise<Endpoint> {
  return target.endpoint(await render(target, project, signal));
}

/** Asks from outside whether every reply carries `id`. @throws {PipelineError} "change" when not */
export async function prove({ signal }: Deploy, endpoint: Endpoint, id: string): Promise<void> {
  const { ok, last } = await verify(endpoint, id, { signal, deadlineSeconds: 5 });
  if (ok) return;
  throw new PipelineError("change", `${endpoint.url} does not answer with ${id}; last: ${last}`, {
    hint: "`bun ci/pipeline.ts` deploys what is here.",
  });
}

/** What runs, since when, by which commit, how healthy, who deploys now, and which versions are kept: as lines. */
export async function status(run: Deploy): Promise<string[]> {
  const { target, signal } = run;
  const { api } = target;
  const [seen, versions, lease, endpoint] = await Promise.all([
    observe(api),
    listVersions(api),
    readLock(api),
    endpointOf(run),
  ]);
  if (!seen) return [`${app.name} is not deployed`];
  const id = idOf(seen.deployment);
  const { ok, last } = await verify(endpoint, id, { replies: 1, deadlineSeconds: 0, signal });
  const verdict = assess(seen);
  const pods = ownPods(seen).map(({ status: { containerStatuses = [] } }) => ({
    ready: containerStatuses.every(({ ready }) => ready),
    restarts: containerStatuses.reduce((sum, { restartCount }) => sum + restartCount, 0),
  }));
  const restarts = pods.reduce((sum, pod) => sum + pod.restarts, 0);
  const current = versions.find((version) => version.id === id);
  const since = current?.verified ? `, proven ${current.verified}` : ", never proven";
  const from = current?.commit ? `, from commit ${current.commit}` : "";
  const state = verdict.state === "complete" ? "is rolled out" : `is ${verdict.state}`;
  return [
    `${app.name}:${id} ${state}${since}${from}`,
    `${pods.filter(({ ready }) => ready).length} of ${seen.deployment.spec.replicas} pods ready, ${restarts} restarts`,
    `${endpoint.url} ${ok ? "answers with it" : `does not answer with it: ${last}`}`,
    ...(verdict.state === "failed" ? [`${verdict.reason}: ${verdict.message}`] : []),
    ...(lease
      ? [`a deploy is under way: ${lease.spec.holderIdentity}, renewed ${lease.spec.renewTime}`]
      : []),
    "kept versions, the one that was proven last first:",
    ...versions.map(
      (version) => `  ${version.id}  ${version.verified ?? "never proven"}  ${version.commit ?? "no commit"}`,
    ),
    `next: ${target.kubectl.join(" ")} -n ${app.namespace} get pods; … logs deployment/${app.name}`,
  ];
}

/** What the cluster has of the app; undefined when there is no Deployment. */
export async function observe(api: Api): Promise<Observation | undefined> {
  const query = { labelSelector: `app.kubernetes.io/name=${app.name}` };
  const apps = `/apis/apps/v1/namespaces/${app.namespace}`;
  const [deployment, replicaSets, pods] = await Promise.all([
    api.find<Deployment>(`${apps}/deployments/${app.name}`),
    api.list<ReplicaSet>(`${apps}/replicasets`, query),
    api.list<Pod>(`/api/v1/namespaces/${app.namespace}/pods`, query),
  ]);
  return deployment && { deployment, replicaSets, pods };
}

/** Runs `work` while this process holds the lock, with a signal that also ends when it is lost. */
async function locked<T>(
  run: Deploy,
  purpose: string,
  work: (signal: AbortSignal, run: Deploy) => Promise<T>,
): Promise<T> {
  const { target, say } = run;
  const lock: Lock = await takeLock(target.api, { purpose, say });
  const signal = AbortSignal.any([run.signal, lock.lost]);
  try {
    return await work(signal, { ...run, signal });
  } finally {
    await lock.release();
  }
}

/** The lock and the versions live in the app's namespace: it comes first. */
async function ensureNamespace(api: Api, manifests: KubeObject[]): Promise<void> {
  if (await api.find(`/api/v1/namespaces/${app.namespace}`)) return;
  const own = manifests.find(({ kind, metadata }) => kind === "Namespace" && metadata.name === app.namespace);
  if (!own) {
    throw new PipelineError(
      "surroundings",
      `there is no namespace ${app.namespace}, and the manifests have none`,
      {
        hint: `Create it with \`kubectl create namespace ${app.namespace}\`.`,
      },
    );
  }
  await applyAll(api, [own]);
}

/** When a version was proven, by what is known of it. */
function proofOf({ name }: Version, versions: Version[]): string | undefined {
  return versions.find((one) => one.name === name)?.verified;
}

/** Keeps what somebody deployed without the pipeline, as a version to come back to. */
async function adopt(
  api: Api,
  manifests: KubeObject[],
  { deployment, pods }: Observation,
  endpoint: Endpoint,
): Promise<Version | undefined> {
  const serves = pods.some(({ status }) => status.containerStatuses?.every(({ ready }) => ready));
  if (!serves) return undefined;
  const image = deployment.spec.template.spec.containers[0]?.image ?? "";
  // Its tag may be any; what it answers with is what a verification will ask for.
  const { id = idOf(deployment) } = await ask(endpoint, { signal: api.signal });
  const version = newVersion(id, image, await snapshot(api, manifests), undefined);
  const proven = { ...version, verified: proofTime([]) };
  await keep(api, proven);
  return proven;
}

/** A version that did not come up, or does not answer. */
class NotUp extends Error {
  constructor(
    readonly failure: Failure,
    readonly samples: Samples | undefined,
  ) {
    super(`${failure.reason}${failure.message && `, ${failure.message}`}`);
  }
}

interface Bringing {
  endpoint: Endpoint;
  /** Whether something served before, whose clients must not notice. */
  served: boolean;
  /** Ends the wait for the last pods of the version before. */
  hurry?: AbortSignal | undefined;
}

/**
 * Applies a version, follows its rollout, verifies it, and waits for the pods of the version before to leave.
 *
 * @throws {NotUp}
 */
async function bring(
  run: Deploy,
  what: "rollout" | "rollback",
  { id, manifests }: Version,
  { endpoint, served, hurry }: Bringing,
): Promise<Outcome> {
  const { target, signal, step } = run;
  const stop = served ? sample(endpoint) : undefined;
  const start = performance.now();
  const fail = async (failure: Failure) => new NotUp(failure, await stop?.());
  try {
    await step(what, async () => {
      await applyAll(target.api, manifests);
      const verdict = await watch(run);
      if (verdict.state === "failed") throw await fail(verdict);
      return { value: undefined };
    });
    const [servedAt, servedAfter] = await step("verify", async (): Promise<Done<[number, number]>> => {
      const { ok, last } = await verify(endpoint, id, { signal });
      const seconds = (performance.now() - start) / 1000;
      const detail = `20 replies in a row carry ${id}, ${seconds.toFixed(1)} s after the apply`;
      if (ok) return { value: [Date.now(), seconds], detail };
      const message = `pods are ready, but ${endpoint.url} does not answer with ${id} (last: ${last})`;
      throw await fail({ reason: "NotServed", message });
    });
    await step("settle", async () => {
      const failure = await settle(run, hurry);
      if (failure) throw await fail(failure);
      return { value: undefined, detail: hurry?.aborted ? "" : "the pods before are gone" };
    });
    return { servedAfter, servedAt, samples: await stop?.() };
  } finally {
    await stop?.();
  }
}

/** Looks again and again until `decide` gives something. A server that is away for a moment is waited for. */
async function follow<T>(
  { target, signal }: Deploy,
  decide: (seen: Observation | undefined) => T | undefined,
): Promise<T> {
  let answered = performance.now();
  for (;;) {
    signal.throwIfAborted();
    try {
      const decision = decide(await observe(target.api));
      if (decision !== undefined) return decision;
      answered = performance.now();
    } catch (error) {
      const away = error instanceof Refusal && (error.status === 0 || error.status >= 500);
      if (!away || performance.now() - answered > AWAY_SECONDS * 1000) throw error;
    }
    await Bun.sleep(LOOK_MS);
  }
}

/** Follows the rollout until it is complete or cannot be. */
function watch(run: Deploy): Promise<Exclude<Verdict, { state: "progressing" }>> {
  const end = performance.now() + app.rolloutSeconds * 1000;
  const patience = new Patience();
  let shown = "";
  return follow(run, (seen) => {
    if (!seen) return { state: "failed", reason: "Deleted", message: "the Deployment was deleted meanwhile" };
    const verdict = patience.judge(assess(seen), performance.now());
    if (verdict.state !== "progressing") return verdict;
    if (verdict.detail !== shown) run.say((shown = verdict.detail));
    if (performance.now() < end) return undefined;
    const message = `not complete within ${app.rolloutSeconds} s (${shown})`;
    return { state: "failed", reason: "Timeout", message };
  });
}

/** Waits until the pods of the version before have left, and sees whether the new ones hold out meanwhile. */
async function settle(run: Deploy, hurry?: AbortSignal): Promise<Failure | undefined> {
  const patience = new Patience();
  const start = performance.now();
  const ended = await follow(run, (seen): Failure | "settled" | undefined => {
    if (!seen || hurry?.aborted) return "settled";
    const verdict = patience.judge(assess(seen), performance.now());
    if (verdict.state === "failed") return verdict;
    const others = otherPods(seen);
    if (others.length === 0 && verdict.state === "complete") return "settled";
    const { terminationGracePeriodSeconds: grace = 30 } = seen.deployment.spec.template.spec;
    if (performance.now() - start < (grace + LEAVE_SECONDS) * 1000) return undefined;
    run.say(`still there: ${others.map(({ metadata }) => metadata.name).join(", ")}`);
    return "settled";
  });
  return ended === "settled" ? undefined : ended;
}

/** Takes down that a version was proven, and removes what no version needs any more. */
async function tidy({ target, say }: Deploy, version: Version): Promise<void> {
  const { api } = target;
  const versions = await listVersions(api);
  await keep(api, { ...version, verified: proofTime(versions) });
  for (const old of superfluous(versions, version, app.keep)) await forget(api, old);
  const removed = await target.clean(() => keptImages(api));
  if (removed.length > 0)
    say(`removed ${removed.length} image${removed.length > 1 ? "s" : ""} of versions that are not kept`);
}

/** Shows why a version failed, goes back to the one that served before, and ends with the error that says both. */
async function undo(
  run: Deploy,
  { name }: Plan,
  version: Version,
  back: Version | undefined,
  { failure, message, samples }: NotUp,
): Promise<never> {
  const { target, say, leaves } = run;
  const { api } = target;
  const what = `${name} did not come up: ${message}`;
  say(what);
  const output = await explain(api, failure);
  if (!back) {
    throw new PipelineError(
      "change",
      `${what}. There is no earlier version that serves: it was left as it is`,
      {
        hint: `${nextLine(target, failure)} The next deploy replaces it.`,
        output,
      },
    );
  }
  say(`roll back to ${back.id}`);
  leaves(`${name} did not come up, and the rollback to ${back.id} was under way.`);
  try {
    const endpoint = target.endpoint(back.manifests);
    // Pods that never served may leave in their own time.
    const hurry = AbortSignal.abort();
    const { servedAfter, samples: after } = await bring(run, "rollback", back, {
      endpoint,
      served: true,
      hurry,
    });
    await prune(api, version.manifests, back.manifests);
    await forget(api, version);
    for (const seen of [samples, after]) if (seen) say(describeSamples(seen));
    say(`verified ${servedAfter.toFixed(1)} s after the rollback began`);
  } catch (error) {
    if (!(error instanceof NotUp)) throw error;
    const message = `${what}. The rollback to ${back.id} failed as well: ${error.message}`;
    throw new PipelineError("change", message, { hint: nextLine(target, error.failure), output });
  }
  throw new PipelineError("change", `${what}. Rolled back: ${app.name}:${back.id} serves, as before`, {
    hint: "Correct the source and run the same command again.",
    output,
  });
}

export function describeSamples({ requests, failed, first, median, p99 }: Samples): string {
  const times = `median ${median.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`;
  return `meanwhile ${failed} of ${requests} requests failed${first ? ` (${first})` : ""}, ${times}`;
}

function nextLine({ kubectl }: Target, { pod }: Failure): string {
  const about = pod ? `pod ${pod}` : `deployment ${app.name}`;
  return `\`${kubectl.join(" ")} -n ${app.namespace} describe ${about}\` tells more.`;
}
