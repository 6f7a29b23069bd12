/** What is there, without changing it: what runs and how it is, and whether the Service serves a certain version. */
import { PipelineError } from "../core/errors.ts";
import { listVersions, versionNameOf } from "./history.ts";
import { readLock } from "./lock.ts";
import { runningId, currentPods } from "../kubernetes/observe.ts";
import { observeMainWorkload, type DeployContext } from "./plan.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { assessWorkload, replicaCountsOf } from "./rollout-status.ts";
import { verifyVersion, type Endpoint } from "./verify.ts";

/** Where the Service answers from outside, by what the overlay says. */
export async function endpointOf({ target, service, signal }: DeployContext): Promise<Endpoint> {
  return target.endpoint(await renderManifests(target, service, signal));
}

/** Requests the version from outside. @returns the endpoint @throws {PipelineError} "project" if replies do not carry `id` */
export async function assertServing(
  { signal }: DeployContext,
  endpoint: Endpoint,
  id: string,
): Promise<Endpoint> {
  const { ok, last } = await verifyVersion(endpoint, id, { signal, deadlineSeconds: 5 });
  if (ok) return endpoint;
  throw new PipelineError("project", `${endpoint.url} does not answer with ${id}; last: ${last}`, {
    hint: "`bun ci/pipeline.ts` deploys what is here.",
  });
}

/** What runs, since when, by which commit, how healthy, who deploys now, and which versions are kept: as lines. */
export async function status(context: DeployContext): Promise<string[]> {
  const { target, service, signal } = context;
  const { api } = target;
  const [seen, versions, lease, manifests] = await Promise.all([
    observeMainWorkload(api),
    listVersions(api, context.log),
    readLock(api),
    renderManifests(target, service, signal),
  ]);
  if (!seen) return [`${service.name} is not deployed`];
  const id = runningId(seen.deployment);
  const endpoint = target.endpoint(manifests);
  const lacking = (await target.lacking?.(manifests, id)) ?? [];
  const { ok, last } = await verifyVersion(endpoint, id, { replies: 1, deadlineSeconds: 0, signal });
  const verdict = assessWorkload(seen, service);
  const pods = currentPods(seen).map(({ status: { containerStatuses = [] } }) => ({
    ready: containerStatuses.every(({ ready }) => ready),
    restarts: containerStatuses.reduce((sum, { restartCount }) => sum + restartCount, 0),
  }));
  const restarts = pods.reduce((sum, pod) => sum + pod.restarts, 0);
  const name = versionNameOf(seen.deployment);
  const current = versions.find((version) => (name ? version.name === name : version.id === id));
  const since = current?.verified ? `, proven ${current.verified}` : ", never proven";
  const from = current?.commit ? `, from commit ${current.commit}` : "";
  const state = verdict.state === "complete" ? "is rolled out" : `is ${verdict.state}`;
  return [
    `${service.name}:${id} ${state}${since}${from}`,
    `${pods.filter(({ ready }) => ready).length} of ${replicaCountsOf(seen.deployment).desired} pods ready, ${restarts} restarts`,
    `${endpoint.url} ${ok ? "answers with it" : `does not answer with it: ${last}`}`,
    ...(lacking.length > 0 ? [`without its image: ${lacking.join(", ")}; a deploy brings it there`] : []),
    ...(verdict.state === "failed" ? [`${verdict.reason}: ${verdict.message}`] : []),
    ...(lease
      ? [`a deploy is under way: ${lease.spec.holderIdentity}, renewed ${lease.spec.renewTime}`]
      : []),
    "kept versions, the one that was proven last first:",
    ...versions.map(({ name, id, verified, left, commit }) => {
      const how = left ? "left" : (verified ?? "never proven");
      return `  ${id}  ${how}  ${commit ?? "no commit"}  ${name}`;
    }),
    `next: ${target.kubectl.join(" ")} -n ${service.namespace} get pods; … logs deployment/${service.name}`,
  ];
}
