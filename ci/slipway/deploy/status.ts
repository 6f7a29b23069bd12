/** Reports the deployed version and its health, and checks the served version. Changes nothing. */
import { PipelineError } from "../core/errors.ts";
import { listVersions, versionNameOf } from "./release-history.ts";
import { readLock } from "./lock.ts";
import { runningId, currentPods } from "../kubernetes/workload-state.ts";
import { observeMainWorkload, type DeployContext } from "./plan.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { assessWorkload, replicaCountsOf } from "./rollout-status.ts";
import { verifyVersion, type Endpoint } from "./verify-from-outside.ts";

/** Returns the Service's external endpoint, according to the overlay. */
export async function endpointOf({ target, service, signal }: DeployContext): Promise<Endpoint> {
  return target.endpoint(await renderManifests(target, service, signal));
}

/** Checks from outside that every response has `id`, or that a worker stays up. @returns the endpoint @throws {PipelineError} "project" if not */
export async function assertServing({ signal }: DeployContext, endpoint: Endpoint, id: string): Promise<Endpoint> {
  const { ok, last } = await verifyVersion(endpoint, id, { signal, deadlineSeconds: 5 });
  if (ok) return endpoint;
  const message = endpoint.observe
    ? `${endpoint.url} does not run ${id} steadily: ${last}`
    : `${endpoint.url} does not serve ${id} (last response: ${last})`;
  throw new PipelineError("project", message, {
    code: "version-not-served",
    hint: "Run `bun ci/pipeline.ts` to deploy the working tree.",
  });
}

/** Reports as lines: the running version, its commit and health, a deploy in progress, and the stored versions. */
export async function status(context: DeployContext): Promise<string[]> {
  const { target, service, signal } = context;
  const { api } = target;
  const [versions, lease, manifests] = await Promise.all([
    listVersions(api, context.log),
    readLock(api),
    renderManifests(target, service, signal),
  ]);
  const seen = await observeMainWorkload(api, [manifests, ...versions.map((version) => version.manifests)]);
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
  const since = current?.verified ? `, verified ${current.verified}` : ", never verified";
  const from = current?.commit ? `, from commit ${current.commit}` : "";
  const state = verdict.state === "complete" ? "is rolled out" : `is ${verdict.state}`;
  return [
    `${service.name}:${id} ${state}${since}${from}`,
    `${pods.filter(({ ready }) => ready).length} of ${replicaCountsOf(seen.deployment).desired} pods ready, ${restarts} restarts`,
    endpoint.observe
      ? `${endpoint.url} is a worker: ${ok ? "its pods run this version" : last}`
      : `${endpoint.url} ${ok ? "serves this version" : `does not serve this version: ${last}`}`,
    ...(lacking.length > 0 ? [`without its image: ${lacking.join(", ")} (a deploy delivers it)`] : []),
    ...(verdict.state === "failed" ? [`${verdict.reason}: ${verdict.message}`] : []),
    ...(lease ? [`a deploy is under way: ${lease.spec.holderIdentity}, renewed ${lease.spec.renewTime}`] : []),
    "stored versions, most recently verified first:",
    ...versions.map(({ name, id, verified, left, commit }) => {
      const state = left ? "rolled back" : (verified ?? "never verified");
      return `  ${id}  ${state}  ${commit ?? "no commit"}  ${name}`;
    }),
    "next: `logs` for the log, `kubectl -- get pods` for the state of the pods",
  ];
}
