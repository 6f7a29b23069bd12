/** What is there, without changing it: what runs and how it is, and whether the Service serves a certain version. */
import { PipelineError } from "../core/errors.ts";
import { listVersions, nameOfVersion } from "./history.ts";
import { readLock } from "./lock.ts";
import { idOf, ownPods } from "../kubernetes/observe.ts";
import { observeMain, type Deploy } from "./plan.ts";
import { render } from "../kubernetes/render.ts";
import { assess, numbersOf } from "./rollout-status.ts";
import { verify, type Endpoint } from "./verify.ts";

/** Where the Service answers from outside, by what the overlay says. */
export async function endpointOf({ target, service, signal }: Deploy): Promise<Endpoint> {
  return target.endpoint(await render(target, service, signal));
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
  const { target, service, signal } = run;
  const { api } = target;
  const [seen, versions, lease, manifests] = await Promise.all([
    observeMain(api),
    listVersions(api, run.say),
    readLock(api),
    render(target, service, signal),
  ]);
  if (!seen) return [`${service.name} is not deployed`];
  const id = idOf(seen.deployment);
  const endpoint = target.endpoint(manifests);
  const lacking = (await target.lacking?.(manifests, id)) ?? [];
  const { ok, last } = await verify(endpoint, id, { replies: 1, deadlineSeconds: 0, signal });
  const verdict = assess(seen, service);
  const pods = ownPods(seen).map(({ status: { containerStatuses = [] } }) => ({
    ready: containerStatuses.every(({ ready }) => ready),
    restarts: containerStatuses.reduce((sum, { restartCount }) => sum + restartCount, 0),
  }));
  const restarts = pods.reduce((sum, pod) => sum + pod.restarts, 0);
  const name = nameOfVersion(seen.deployment);
  const current = versions.find((version) => (name ? version.name === name : version.id === id));
  const since = current?.verified ? `, proven ${current.verified}` : ", never proven";
  const from = current?.commit ? `, from commit ${current.commit}` : "";
  const state = verdict.state === "complete" ? "is rolled out" : `is ${verdict.state}`;
  return [
    `${service.name}:${id} ${state}${since}${from}`,
    `${pods.filter(({ ready }) => ready).length} of ${numbersOf(seen.deployment).desired} pods ready, ${restarts} restarts`,
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
