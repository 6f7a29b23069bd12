/**
 * The deploy: plan, import, apply, watch, verify; and back again when the new version is no good.
 *
 * The old version serves until the new one has passed its readiness probes (maxUnavailable 0), so a version that does
 * not come up costs nobody a request.
 */
import { mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { app } from "../app.ts";
import { PipelineError } from "../errors.ts";
import { gitCommit } from "../git.ts";
import { containerdName, type K3s } from "./k3s.ts";
import { refusal, type Deployment, type KubeObject, type Pod, type ReplicaSet } from "./kubectl.ts";
import { assess, revisionOf, serving, tagOf, type Observation, type Verdict } from "./rollout.ts";
import { verify } from "./verify.ts";

/** Seconds that a rollout may take before it counts as failed. */
const ROLLOUT_SECONDS = 120;
/** Applied on the server under a name of our own, which owns what the manifests say, also after a manual edit. */
const serverSide = ["--server-side", "--force-conflicts", "--field-manager=helloapp-pipeline"];
const inNamespace = ["-n", app.namespace];

export interface Target {
  k3s: K3s;
  /** The directory with package.json. */
  project: string;
  signal: AbortSignal;
  /** Takes down, for the case of an interruption, what state things would be left in now. */
  leaves(state: string): void;
  /** Tells a person what goes on. */
  say(line: string): void;
}

export interface Plan {
  id: string;
  /** The image's name, `helloapp:<id>`. */
  image: string;
  manifests: string;
  /** Where the Service answers from outside. */
  url: string;
  inContainerd: boolean;
  /** What the server would change; empty: nothing. */
  changes: string[];
  /** What runs now; undefined before the first deploy. */
  before: Observation | undefined;
}

/**
 * What a deploy of `id` would change. The server checks the manifests as it would for a real apply and keeps nothing.
 *
 * @throws {PipelineError} "change" when the server refuses the manifests
 */
export async function plan(
  { k3s, project, signal }: Omit<Target, "leaves" | "say">,
  id: string,
): Promise<Plan> {
  signal.throwIfAborted();
  const image = `${app.name}:${id}`;
  const [manifests, images, before] = await Promise.all([
    render(k3s, project, id),
    k3s.images(),
    observe(k3s),
  ]);
  return {
    id,
    image,
    manifests,
    url: serviceUrl(k3s, manifests),
    inContainerd: images.has(containerdName(image)),
    changes: await diff(k3s, manifests),
    before,
  };
}

/** Whether there is nothing to do: the server would change nothing, and what it has is all up. */
export function upToDate({ changes, before }: Plan): boolean {
  return changes.length === 0 && before !== undefined && assess(before).state === "complete";
}

/**
 * Deploys a plan and proves it.
 *
 * @param archive the docker-archive to import when the node does not have the image
 * @throws {PipelineError} "change" when the new version does not come up; the version before is then back
 */
export async function deploy(target: Target, plan: Plan, archive: string): Promise<void> {
  const { k3s, leaves, say } = target;
  const { id, image, before } = plan;
  if (!plan.inContainerd) {
    leaves(`An import of ${image} was under way; nothing was rolled out, what ran goes on running.`);
    say(`import ${archive} into containerd of node ${k3s.node}`);
    await k3s.import(archive, image);
  }
  const back = before && serving(before.replicaSets);
  leaves(
    `The rollout of ${image} was under way and goes on in the cluster; what ran serves until it is ready. ` +
      "The same command picks it up, `bun ci/pipeline.ts rollback` undoes it.",
  );
  say(
    `apply ${app.overlay} with ${image}: ${plan.changes.join(", ") || "nothing new, the rollout is unfinished"}`,
  );
  await apply(k3s, plan.manifests);
  const note = annotate(target, id);

  const verdict = await watch(target);
  await note;
  if (verdict.state === "complete") {
    const { ok, last } = await verify(plan.url, id, target);
    if (ok) return;
    const message = `pods are ready, but ${plan.url} does not answer with ${id} (last: ${last})`;
    await undo(target, plan, back, { state: "failed", reason: "NotServed", message });
  } else {
    await undo(target, plan, back, verdict);
  }
}

/**
 * Goes back to the revision before the current one and proves it.
 *
 * @throws {PipelineError} "surroundings" when there is none, "change" when it does not come up either
 */
export async function rollback(target: Target): Promise<string> {
  const { k3s, leaves, say } = target;
  const seen = await observe(k3s);
  const current = seen && tagOf(seen.deployment);
  const earlier = seen?.replicaSets
    .filter((set) => revisionOf(set) < revisionOf(seen.deployment) && tagOf(set) !== current)
    .sort((a, b) => revisionOf(b) - revisionOf(a))[0];
  if (!earlier) {
    throw new PipelineError(
      "surroundings",
      "there is no earlier version to go back to; nothing was changed",
      {
        hint: "`kubectl rollout history` lists what the cluster keeps.",
      },
    );
  }
  const id = tagOf(earlier);
  say(`back from ${current} to ${id}`);
  leaves(`The rollback to ${id} was under way and goes on in the cluster.`);
  await returnTo(target, earlier, await endpoint(target, id));
  return id;
}

/** Where the Service answers from outside, by what the manifests say. */
export async function endpoint({ k3s, project }: Target, id: string): Promise<string> {
  return serviceUrl(k3s, await render(k3s, project, id));
}

/** Asks `url` from outside whether every reply carries `id`. @throws {PipelineError} "change" when not */
export async function prove({ signal }: Target, url: string, id: string): Promise<void> {
  const { ok, last } = await verify(url, id, { signal, deadlineSeconds: 5 });
  if (ok) return;
  throw new PipelineError("change", `${url} does not answer with ${id}; last: ${last}`, {
    hint: "`bun ci/pipeline.ts` deploys what is here.",
  });
}

/** The manifests for one id: the overlay with the image's tag set, in kustomize's own way. */
async function render({ kubectl }: K3s, project: string, id: string): Promise<string> {
  const directory = await realpath(await mkdtemp(join(tmpdir(), "helloapp-")));
  try {
    const overlay = relative(directory, await realpath(join(project, app.overlay)));
    const kustomization = { resources: [overlay], images: [{ name: app.name, newTag: id }] };
    await writeFile(join(directory, "kustomization.yaml"), JSON.stringify(kustomization));
    const { code, stdout, stderr } = await kubectl.run(["kustomize", directory]);
    if (code === 0) return stdout;
    throw new PipelineError("change", `${app.overlay} is no valid kustomization`, { output: stderr });
  } finally {
    await rm(directory, { recursive: true });
  }
}

function serviceUrl({ address }: K3s, manifests: string): string {
  const objects = Bun.YAML.parse(manifests) as (KubeObject & {
    spec?: { ports?: { nodePort?: number }[] };
  })[];
  const service = objects.find(({ kind, metadata }) => kind === "Service" && metadata.name === app.name);
  const port = service?.spec?.ports?.[0]?.nodePort;
  if (!port) throw new PipelineError("change", `${app.overlay} has no Service ${app.name} with a nodePort`);
  return `http://${address.includes(":") ? `[${address}]` : address}:${port}${app.versionPath}`;
}

/** What the cluster has of the app; undefined when there is no Deployment. */
async function observe({ kubectl }: K3s): Promise<Observation | undefined> {
  const kinds = "deployments,replicasets,pods";
  const found = await kubectl.list([kinds, ...inNamespace, "-l", `app.kubernetes.io/name=${app.name}`]);
  const of = <T extends KubeObject>(kind: string) => found.filter((object) => object.kind === kind) as T[];
  const [deployment] = of<Deployment>("Deployment");
  return (
    deployment && {
      deployment,
      replicaSets: of<ReplicaSet>("ReplicaSet"),
      pods: of<Pod>("Pod"),
      now: Date.now(),
    }
  );
}

/** Names of the objects that an apply would change; asks with a dry run on the server. */
async function diff({ kubectl }: K3s, manifests: string): Promise<string[]> {
  const { code, stdout, stderr } = await kubectl.run(["diff", ...serverSide, "-f", "-"], {
    input: manifests,
  });
  if (code === 0) return [];
  // `diff -u -N /tmp/LIVE-1/apps.v1.Deployment.helloapp.helloapp /tmp/MERGED-2/apps.v1.…`
  const changed = stdout.matchAll(/^diff .*\/MERGED-\d+\/\S*?([A-Z]\w*)\.(?:[^.\s]*\.)?(\S+)$/gm);
  const names = [...changed].map(([, kind, name]) => `${kind}/${name}`);
  if (code === 1 && names.length > 0) return names;
  // A dry run cannot put anything into a namespace that is not there yet: the first deploy creates all.
  if (/namespaces "[^"]*" not found/.test(stderr)) return ["a new namespace and all in it"];
  throw refused("the dry run of", stderr);
}

async function apply(k3s: K3s, manifests: string): Promise<void> {
  const { code, stderr } = await k3s.kubectl.run(["apply", ...serverSide, "-f", "-"], { input: manifests });
  if (code !== 0) throw refused("applying", stderr);
}

/** Manifests that the server calls invalid are the change's fault; a server that cannot be asked is not. */
function refused(what: string, stderr: string): PipelineError {
  if (!/invalid|denied|unknown field|bad request|unsupported/i.test(stderr)) {
    return refusal(`${what} ${app.overlay}`, stderr);
  }
  return new PipelineError("change", `${what} ${app.overlay}: the cluster refuses the manifests`, {
    output: stderr,
  });
}

/** Notes the id and the git commit as the revision's cause, for `kubectl rollout history`. */
async function annotate({ k3s, project, signal }: Target, id: string): Promise<void> {
  const commit = await gitCommit(project, signal);
  const cause = `kubernetes.io/change-cause=${app.name}:${id}${commit ? ` from commit ${commit}` : ""}`;
  // Under another field manager: the commit is no input, and must not count as a difference next time.
  const manager = "--field-manager=helloapp-history";
  await k3s.kubectl.run([
    "annotate",
    ...inNamespace,
    `deployment/${app.name}`,
    "--overwrite",
    manager,
    cause,
  ]);
}

/** Follows the rollout until it is complete or cannot be. */
async function watch({ k3s, signal, say }: Target): Promise<Exclude<Verdict, { state: "progressing" }>> {
  const end = Date.now() + ROLLOUT_SECONDS * 1000;
  let shown = "";
  while (Date.now() < end) {
    signal.throwIfAborted();
    const seen = await observe(k3s);
    if (!seen) return { state: "failed", reason: "Deleted", message: "the Deployment was deleted meanwhile" };
    const verdict = assess(seen);
    if (verdict.state !== "progressing") return verdict;
    if (verdict.detail !== shown) say((shown = verdict.detail));
    await Bun.sleep(150);
  }
  return {
    state: "failed",
    reason: "Timeout",
    message: `not complete within ${ROLLOUT_SECONDS} s (${shown})`,
  };
}

/** Shows why a version failed, goes back to the one that served before, and ends with the error that says both. */
async function undo(
  target: Target,
  { image, url }: Plan,
  back: ReplicaSet | undefined,
  { reason, message, pod }: Extract<Verdict, { state: "failed" }>,
): Promise<never> {
  const { k3s, say } = target;
  const failure = `${image} did not come up: ${reason}${message && `, ${message}`}`;
  say(failure);
  const output = await explain(k3s, pod);
  if (!back) {
    throw new PipelineError(
      "change",
      `${failure}. There is no earlier version that serves: it was left as it is`,
      {
        hint: `\`kubectl ${inNamespace.join(" ")} describe pods\` tells more; the next deploy replaces it.`,
        output,
      },
    );
  }
  say(`roll back to ${tagOf(back)}`);
  await returnTo(target, back, url).catch((error: unknown) => {
    if (error instanceof PipelineError)
      throw new PipelineError(error.fault, `${failure}. ${error.message}`, { output });
    throw error;
  });
  throw new PipelineError("change", `${failure}. Rolled back: ${app.name}:${tagOf(back)} serves, as before`, {
    hint: "Correct the source and run the same command again.",
    output,
  });
}

async function returnTo(target: Target, set: ReplicaSet, url: string): Promise<void> {
  const { k3s } = target;
  const id = tagOf(set);
  const revision = `--to-revision=${revisionOf(set)}`;
  await k3s.kubectl.text(["rollout", "undo", ...inNamespace, `deployment/${app.name}`, revision]);
  const verdict = await watch(target);
  if (verdict.state === "failed") {
    throw new PipelineError(
      "change",
      `the rollback to ${id} failed as well: ${verdict.reason}, ${verdict.message}`,
    );
  }
  const { ok, last } = await verify(url, id, target);
  if (!ok)
    throw new PipelineError("change", `after the rollback to ${id}, ${url} still answers otherwise: ${last}`);
}

/** Pod states, warnings and the last lines of the failed container: what one would look up next. */
async function explain({ kubectl }: K3s, pod: string | undefined): Promise<string> {
  const last = (lines: number, text: string) => text.trimEnd().split("\n").slice(-lines).join("\n");
  const [pods, events, logs] = await Promise.all([
    kubectl.run(["get", "pods", ...inNamespace]),
    kubectl.run([
      "get",
      "events",
      ...inNamespace,
      "--field-selector=type=Warning",
      "--sort-by=.lastTimestamp",
    ]),
    pod && containerLog(kubectl, pod),
  ]);
  return [
    pods.stdout.trimEnd(),
    events.stdout && `warnings:\n${last(6, events.stdout)}`,
    logs && `last lines of ${pod}:\n${last(20, logs)}`,
  ]
    .filter(Boolean)
    .join("\n\n");
}

async function containerLog(kubectl: K3s["kubectl"], pod: string): Promise<string> {
  // While a container waits for its restart, its own log is that of the crash; one that runs again has it in the one
  // before, which the kubelet may have cleared away and then says so on stdout.
  for (const which of [[], ["--previous"]]) {
    const { code, stdout } = await kubectl.run(["logs", ...inNamespace, pod, "--tail=20", ...which]);
    if (code === 0 && stdout && !stdout.startsWith("unable to retrieve container logs")) return stdout;
  }
  return "";
}
