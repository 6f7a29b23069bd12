/**
 * Runs a pod of the version that serves, for the time of one command.
 *
 * The Job's deadline is a lease: this process extends it. If this process is gone, the cluster ends the pod within
 * LEASE_SECONDS, whatever happened to the connection.
 */
import { PipelineError } from "../core/errors.ts";
import { collectDiagnostics } from "../deploy/diagnostics.ts";
import { observeMainWorkload, type DeployContext } from "../deploy/plan.ts";
import { listVersions, versionNameOf } from "../deploy/release-history.ts";
import { assertGranted } from "../deploy/required-rights.ts";
import { findStuckContainer } from "../deploy/rollout-status.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { Condition, KubeObject, KubeService, Pod } from "../kubernetes/objects.ts";
import { runningId } from "../kubernetes/workload-state.ts";
import { createOneOffJob, servingTemplate, type Job } from "./one-off-job.ts";

/** Seconds until a program is ended. */
export const DEFAULT_DEADLINE_SECONDS = 3600;
/** Seconds that the pod outlives this process, and seconds between extensions. */
const LEASE_SECONDS = 30;
const RENEW_SECONDS = 8;
const POLL_MS = 200;
/** Seconds until the events explain a missing pod. */
const EVENT_SECONDS = 3;

export interface OneOffPodOptions {
  /** Arguments of the binary, which is Bun in this pod. */
  args: string[];
  hasInput: boolean;
  /** Seconds after which the pod ends. */
  deadlineSeconds: number;
  /** The subresource through which the command talks to the pod. */
  connectsBy: "attach" | "exec";
}

export interface OneOffPod {
  pod: string;
  container: string;
  /** Reads the pod. @returns undefined if it is gone */
  read(): Promise<Pod | undefined>;
}

/**
 * Starts the pod, calls `use`, and removes the pod.
 *
 * @throws {PipelineError} "environment" if the pod does not start, "project" if the service is not deployed
 */
export async function withOneOffPod<T>(
  context: DeployContext,
  { args, hasInput, deadlineSeconds, connectsBy }: OneOffPodOptions,
  use: (pod: OneOffPod) => Promise<T>,
): Promise<T> {
  const { target, service, log, recordState } = context;
  const { api } = target;
  const versions = await listVersions(api);
  const state = await observeMainWorkload(
    api,
    versions.map(({ manifests }) => manifests),
  );
  if (!state) throw notDeployed(service.name, service.namespace);
  const jobs = ["create", "get", "patch", "delete"].map((verb) => ({ verb, group: "batch", resource: "jobs" }));
  const connect = { verb: "create", group: "", resource: `pods/${connectsBy}` };
  await assertGranted(api, [...jobs, connect]);
  const version = versions.find(({ name }) => name === versionNameOf(state.deployment));
  const services = (version?.manifests ?? []).filter(({ kind }) => kind === "Service") as KubeService[];
  const { job, container, missingVolumes } = createOneOffJob({
    ...{ service, state, services, args, hasInput },
    deadlineSeconds: Math.min(LEASE_SECONDS, deadlineSeconds),
  });
  if (missingVolumes.length > 0) log(`without volumes of the StatefulSet: ${missingVolumes.join(", ")}`);
  const id = runningId({ spec: { template: servingTemplate(state) } });
  log(`${service.name}:${id} in pod ${job.metadata.name}`);
  recordState(`Pod ${job.metadata.name} ends within ${LEASE_SECONDS} s.`);
  const path = api.collection("/apis/batch/v1", `jobs/${job.metadata.name}`);
  const lease = extendDeadline(api, path, deadlineSeconds);
  try {
    await createJob(api, job, path);
    const pod = await waitForPod(context, job, container);
    const read = () => api.find<Pod>(api.collection("/api/v1", `pods/${pod}`));
    return await use({ pod, container, read });
  } finally {
    lease.stop();
    // An interruption must not prevent the removal. If it fails, the deadline ends the pod.
    const request = { body: { propagationPolicy: "Background" }, signal: undefined, checksLock: false };
    await api
      .find(path, { ...request, method: "DELETE", retryBudgetSeconds: 5 })
      .then(() => recordState("The pod was ended."))
      .catch(() => {});
  }
}

/** Creates the Job. A lost response may have created it, and the deletion follows in any case. */
async function createJob(api: ApiClient, job: Job, path: string): Promise<void> {
  const collection = path.slice(0, path.lastIndexOf("/"));
  await api.json(collection, { method: "POST", body: job, checksLock: false, signal: undefined });
}

/** Extends the Job's deadline until it is stopped. A failed request is repeated by the next one. */
function extendDeadline(api: ApiClient, path: string, deadlineSeconds: number): { stop(): void } {
  const start = performance.now();
  const extend = async () => {
    const elapsed = Math.ceil((performance.now() - start) / 1000);
    const activeDeadlineSeconds = Math.min(elapsed + LEASE_SECONDS, deadlineSeconds);
    await api.json(path, {
      ...{ method: "PATCH", contentType: "application/merge-patch+json", checksLock: false },
      ...{ body: { spec: { activeDeadlineSeconds } }, retryBudgetSeconds: 0, timeoutSeconds: RENEW_SECONDS },
    });
  };
  const timer = setInterval(() => void extend().catch(() => {}), RENEW_SECONDS * 1000);
  return { stop: () => clearInterval(timer) };
}

/** Waits until the container runs or has ended. @returns the pod's name @throws {PipelineError} "environment" if it cannot run */
async function waitForPod(context: DeployContext, job: Job, container: string): Promise<string> {
  const { target, service, signal } = context;
  const { api } = target;
  const { name } = job.metadata;
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  for (;;) {
    signal.throwIfAborted();
    const [pod] = await api.list<Pod>(api.collection("/api/v1", "pods"), { labelSelector: `job-name=${name}` });
    const statuses = pod?.status.containerStatuses ?? [];
    const { running, terminated } = statuses.find((status) => status.name === container)?.state ?? {};
    if (pod && (running || terminated)) return pod.metadata.name;
    const reason = pod ? explainWait(pod, seconds() > service.scheduleTimeoutSeconds) : undefined;
    const isLate = seconds() > service.rolloutTimeoutSeconds;
    if (reason || isLate) throw await notStarted(api, pod?.metadata.name ?? name, reason ?? "no container runs");
    if (!pod && seconds() > EVENT_SECONDS) {
      const events = await collectDiagnostics(api, { reason: "", message: "", pod: name });
      if (events.includes("FailedCreate")) throw await notStarted(api, name, "the cluster rejects the pod");
    }
    await Bun.sleep(POLL_MS);
  }
}

/** Explains why a pod does not start. Undefined as long as it may. */
function explainWait(pod: Pod, isLate: boolean): string | undefined {
  const stuck = findStuckContainer(pod);
  if (stuck) return `${stuck.reason}${stuck.message && `, ${stuck.message}`}`;
  const isUnschedulable = ({ type, status }: Condition) => type === "PodScheduled" && status === "False";
  const unscheduled = pod.status.conditions?.find(isUnschedulable);
  if (unscheduled && isLate) return `${unscheduled.reason}, ${unscheduled.message}`;
  if (pod.status.phase === "Failed") return pod.status.reason ?? "the pod failed";
  return undefined;
}

async function notStarted(api: ApiClient, pod: string, reason: string): Promise<PipelineError> {
  const output = await collectDiagnostics(api, { reason: "", message: "", pod });
  return new PipelineError("environment", `the pod did not start: ${reason}. It was removed`, {
    code: "one-off-not-started",
    hint: "Correct the cause that the events above name, then run the command again.",
    output,
  });
}

function notDeployed(name: string, namespace: string): PipelineError {
  return new PipelineError("project", `${name} is not deployed in namespace ${namespace}`, {
    code: "pods-not-found",
    hint: "Run `bun ci/pipeline.ts` to deploy the working tree.",
  });
}

/** Waits for the main container's end. @returns its exit code @throws {PipelineError} "partial" if the pod is gone or runs on */
export async function readExitCode({ container, read, pod }: OneOffPod, seconds = 10): Promise<number> {
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const found = await read().catch(() => undefined);
    const terminated = found?.status.containerStatuses?.find(({ name }) => name === container)?.state?.terminated;
    if (terminated?.reason === "OOMKilled") console.error("the program was killed: it exceeded the memory limit");
    if (terminated && !(found as KubeObject).metadata.deletionTimestamp) return terminated.exitCode;
    if (!found || terminated || performance.now() > end) {
      const cause = found && !terminated ? "the connection to the program was lost" : "the pod was deleted or evicted";
      throw new PipelineError("partial", `${cause} before the program ended. Pod ${pod} was removed`, {
        code: "one-off-lost",
        hint: "Check the effects of the program, then run the command again. If it needs more time, add --deadline.",
      });
    }
    await Bun.sleep(POLL_MS);
  }
}
