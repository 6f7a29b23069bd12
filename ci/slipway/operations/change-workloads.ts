/** Changes running workloads of the current version, as a transaction like a deploy: watched, verified and undone. */
import { PipelineError } from "../core/errors.ts";
import type { DeployTransaction } from "../deploy/deploy-transaction.ts";
import { observeMainWorkload, type DeployContext } from "../deploy/plan.ts";
import { listVersions, versionNameOf, type Version } from "../deploy/release-history.ts";
import { assertGranted } from "../deploy/required-rights.ts";
import { undoDeploy } from "../deploy/undo.ts";
import type { Workload } from "../kubernetes/objects.ts";
import { objectName } from "../kubernetes/objects.ts";
import { prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { sortWorkloads } from "../kubernetes/service-port.ts";
import { observeWorkloads, runningId } from "../kubernetes/workload-state.ts";

export interface WorkloadChange {
  /** The change for messages, such as `restart`. */
  purpose: string;
  /** Name of a workload. Default: all of the version, or the main one. */
  workload: string | undefined;
  /** Whether only one workload changes. Default: false. */
  isSingle?: boolean;
  /** Replicas that the workload gets. Default: unchanged. */
  replicas?: number;
  /** Merge patch for each workload. */
  patch: object;
}

/**
 * Finds the workloads and prepares their patch. Changes nothing.
 *
 * @throws {PipelineError} "project" if there is no such workload, or an autoscaler sets its replicas
 */
export async function prepareWorkloadChange(
  context: DeployContext,
  { purpose, workload, isSingle = false, replicas, patch }: WorkloadChange,
): Promise<DeployTransaction> {
  const { target, service, signal, log, recordState } = context;
  const { api } = target;
  const versions = await listVersions(api, log);
  const known = versions.map(({ manifests }) => manifests);
  const main = await observeMainWorkload(api, known);
  if (!main) throw notFound(`${service.name} is not deployed in namespace ${service.namespace}`, []);
  const id = runningId(main.deployment);
  const version = versions.find(({ name }) => name === versionNameOf(main.deployment));
  const stored = sortWorkloads(service, version?.manifests ?? []);
  const all = stored.length > 0 ? stored : [{ ...main.deployment, apiVersion: "apps/v1" }];
  const named = workload === undefined ? all : all.filter(({ metadata }) => metadata.name === workload);
  if (named.length === 0)
    throw notFound(
      `no workload ${workload} in the running version`,
      all.map(({ metadata }) => metadata.name),
    );
  const chosen = isSingle ? named.slice(0, 1) : named;
  const prepared = await prepareForApply(api, chosen);
  if (replicas !== undefined) assertScalable(prepared[0]!, chosen[0]!);
  const verbs = ["get", "patch", "update"];
  await assertGranted(
    api,
    prepared.flatMap(({ path, object }) =>
      verbs.map((verb) => ({ verb, group: "apps", resource: path!.split("/").at(-2)!, name: object.metadata.name })),
    ),
  );
  const workloads = chosen.map(({ kind, metadata, spec }) => ({
    ...{ kind, metadata },
    spec: {
      selector: spec.selector!,
      ...((replicas ?? spec.replicas) !== undefined && { replicas: replicas ?? spec.replicas! }),
    },
  }));
  const before = await observeWorkloads(api, workloads);
  const manifests = version?.manifests ?? (await renderManifests(target, service, signal));
  recordState(`The ${purpose} of ${service.name}:${id} was under way and continues in the cluster.`);
  return {
    name: `${service.name}:${id} after a ${purpose}`,
    version: version ?? unknownVersion(id),
    jobs: [],
    objects: prepared,
    before,
    rollbackTarget: undefined,
    permanentEffects: [],
    recordedVersions: [],
    keepsEndpoint: true,
    complete: async () => {},
    rollout: {
      id,
      workloads,
      endpoint: target.endpoint(manifests),
      before,
      async write() {
        const query = { fieldManager: `${api.fieldManager}-${purpose}` };
        const contentType = "application/merge-patch+json";
        for (const { path } of prepared)
          await api.json(path!, { method: "PATCH", contentType, query, body: patch, signal: undefined });
      },
    },
  };
}

/**
 * Restores the workloads after a failure.
 *
 * @throws {PipelineError} "partial" with the diagnosis: the same version did not become ready again, so its source is not at fault
 */
export async function undoWorkloadChange(
  context: DeployContext,
  change: DeployTransaction,
  error: unknown,
): Promise<never> {
  const undone = await undoDeploy(context, change, error).catch((failure: unknown) => failure);
  if (!(undone instanceof PipelineError) || !undone.code?.startsWith("rollout-")) throw undone;
  const { message, code, output } = undone;
  const hint = "The log and the events above name the cause. `bun ci/pipeline.ts status` shows the current state.";
  throw new PipelineError("partial", message, { code, hint, output, cause: undone });
}

function assertScalable({ scaled }: { scaled: boolean }, workload: Workload): void {
  const refuse = (cause: string, hint: string) =>
    new PipelineError("project", `${cause}. Nothing was changed`, { code: "workload-not-scalable", hint });
  if (workload.kind === "DaemonSet")
    throw refuse(`${objectName(workload)} runs one pod on each node`, "Change its node selector in the manifests.");
  if (!scaled) return;
  const hint = "Change `minReplicas` and `maxReplicas` of the autoscaler in the manifests, and deploy.";
  throw refuse(`an autoscaler sets the replicas of ${objectName(workload)}, and would undo the change`, hint);
}

function notFound(cause: string, names: string[]): PipelineError {
  const hint = names.length > 0 ? `The workloads are ${names.join(", ")}.` : "Run `bun ci/pipeline.ts` to deploy.";
  return new PipelineError("project", `${cause}. Nothing was changed`, { code: "workload-not-found", hint });
}

/** A stand-in for the version of a workload that slipway did not deploy. */
function unknownVersion(id: string): Version {
  return { name: "", id, image: "", commit: undefined, verified: undefined, manifests: [] };
}
