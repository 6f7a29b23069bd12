/** Reads the state of the deployed version, for people and for scripts. Changes nothing. */
import { renderManifests } from "../kubernetes/render.ts";
import { currentPods, runningId } from "../kubernetes/workload-state.ts";
import { readLock } from "./lock.ts";
import { observeMainWorkload, type DeployContext } from "./plan.ts";
import { describePod, readPodFacts, type PodFacts } from "./pod-facts.ts";
import { listVersions, versionNameOf, type Version } from "./release-history.ts";
import { assessWorkload, replicaCountsOf } from "./rollout-status.ts";
import { verifyVersion } from "./verify-from-outside.ts";

/** The output of `status --json`. docs/reference/json-output.md documents it. */
export interface StatusReport {
  service: string;
  namespace: string;
  state: "absent" | "complete" | "progressing" | "failed";
  /** The running version. null: the service is not deployed. */
  running: (StoredVersion & { url: string; isWorker: boolean; isServed: boolean; lastReply: string }) | null;
  desiredPods: number;
  pods: PodFacts[];
  failure: { reason: string; message: string } | null;
  /** The deploy that holds the lock. */
  lock: { holder: string; renewed: string | null } | null;
  nodesWithoutImage: string[];
  /** Most recently verified first. */
  versions: StoredVersion[];
}

export interface StoredVersion {
  name: string | null;
  id: string;
  commit: string | null;
  verified: string | null;
  rolledBack: string | null;
  deployedBy: string | null;
  run: string | null;
}

export async function readStatus(context: DeployContext): Promise<StatusReport> {
  const { target, service, signal } = context;
  const { api } = target;
  const [versions, lease, manifests] = await Promise.all([
    listVersions(api, context.log),
    readLock(api),
    renderManifests(target, service, signal),
  ]);
  const { holderIdentity = "an unknown holder", renewTime = null } = lease?.spec ?? {};
  const common = {
    service: service.name,
    namespace: service.namespace,
    lock: lease ? { holder: holderIdentity, renewed: renewTime } : null,
    versions: versions.map(storedVersion),
  };
  const seen = await observeMainWorkload(api, [manifests, ...versions.map((version) => version.manifests)]);
  if (!seen) {
    const none = { state: "absent", running: null, desiredPods: 0, pods: [], failure: null } as const;
    return { ...common, ...none, pods: [], nodesWithoutImage: [] };
  }
  const id = runningId(seen.deployment);
  const endpoint = target.endpoint(manifests);
  const [nodesWithoutImage = [], { ok, last }, pods] = await Promise.all([
    target.lacking?.(manifests, id),
    verifyVersion(endpoint, id, { replies: 1, deadlineSeconds: 0, signal }),
    readPodFacts(api, currentPods(seen)),
  ]);
  const verdict = assessWorkload(seen, service);
  const name = versionNameOf(seen.deployment);
  const current = versions.find((version) => (name ? version.name === name : version.id === id));
  const stored = current ? storedVersion(current) : unknownVersion(id, name);
  return {
    ...common,
    state: verdict.state,
    running: { ...stored, url: endpoint.url, isWorker: endpoint.observe !== undefined, isServed: ok, lastReply: last },
    desiredPods: replicaCountsOf(seen.deployment).desired,
    pods,
    failure: verdict.state === "failed" ? { reason: verdict.reason, message: verdict.message } : null,
    nodesWithoutImage,
  };
}

function storedVersion({ name, id, commit, verified, left, deployer }: Version): StoredVersion {
  const times = { verified: verified ?? null, rolledBack: left ?? null };
  return { name, id, commit: commit ?? null, ...times, deployedBy: deployer?.name ?? null, run: deployer?.run ?? null };
}

function unknownVersion(id: string, name: string | undefined): StoredVersion {
  return { name: name ?? null, id, commit: null, verified: null, rolledBack: null, deployedBy: null, run: null };
}

/** Formats a report as lines. The first one is the conclusion. */
export function describeStatus(report: StatusReport): string[] {
  const { service, state, running, desiredPods, pods, failure, lock, nodesWithoutImage, versions } = report;
  if (!running) return [`${service} is not deployed`];
  const { id, verified, commit, deployedBy, run, url, isWorker, isServed, lastReply } = running;
  const restarts = pods.reduce((sum, pod) => sum + pod.restarts, 0);
  const facts = [
    verified ? `verified ${verified}` : "never verified",
    ...(commit ? [`from commit ${commit}`] : []),
    ...(deployedBy ? [`by ${deployedBy}`] : []),
  ];
  return [
    `${service}:${id} ${state === "complete" ? "is rolled out" : `is ${state}`}, ${facts.join(", ")}`,
    `${pods.filter(({ ready }) => ready).length} of ${desiredPods} pods ready, ${restarts} restarts`,
    ...pods.map(describePod),
    isWorker
      ? `${url} is a worker: ${isServed ? "its pods run this version" : lastReply}`
      : `${url} ${isServed ? "serves this version" : `does not serve this version: ${lastReply}`}`,
    ...(run ? [`deployed by ${run}`] : []),
    ...(nodesWithoutImage.length > 0
      ? [`without its image: ${nodesWithoutImage.join(", ")} (a deploy delivers it)`]
      : []),
    ...(failure ? [`${failure.reason}: ${failure.message}`] : []),
    ...(lock ? [`a deploy is under way: ${lock.holder}, renewed ${lock.renewed}`] : []),
    "stored versions, most recently verified first:",
    ...versions.map(({ name, id, verified, rolledBack, commit, deployedBy }) => {
      const time = rolledBack ? "rolled back" : (verified ?? "never verified");
      return `  ${id}  ${time}  ${commit ?? "no commit"}  ${name}${deployedBy ? `  ${deployedBy}` : ""}`;
    }),
    "next: `logs` for the log, `kubectl -- get pods` for the state of the pods",
  ];
}
