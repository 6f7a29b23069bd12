/** Changes the stored values under the deploy lock, and rolls the pods that use them. */
import { PipelineError } from "../core/errors.ts";
import { createNamespace } from "../deploy/prepare-deploy.ts";
import { markPods, SECRETS_DIGEST } from "../deploy/deployed-secrets.ts";
import type { DeployTransaction } from "../deploy/deploy-transaction.ts";
import { lockDeploys, type LockedContext } from "../deploy/locked-context.ts";
import { observeMainWorkload, type DeployContext } from "../deploy/plan.ts";
import { listVersions, versionNameOf, type Version } from "../deploy/release-history.ts";
import { assertRights } from "../deploy/required-rights.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { createPartialFailure } from "../kubernetes/apply.ts";
import type { KubeObject, Workload } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { readSecrets, type SecretChange, type SecretStore } from "../kubernetes/secret-store.ts";
import { secretKeysOf, secretName } from "../kubernetes/settings-env.ts";
import { sortWorkloads } from "../kubernetes/service-port.ts";
import { observeWorkloads, runningId, type WorkloadState } from "../kubernetes/workload-state.ts";

/** Milliseconds between two attempts to take the lock. */
const LOCK_RETRY_MS = 1000;

/**
 * Takes the deploy lock. Waits for another command, for as long as its rollout may take, so that two people who set values at the
 * same time both succeed. Creates the namespace if the manifests have it: values are set before the first deploy.
 */
export async function lockForSecrets(context: DeployContext): Promise<LockedContext> {
  const { target, service, signal, log } = context;
  const { api } = target;
  await assertRights(api, [], undefined);
  if (!(await api.find(`/api/v1/namespaces/${service.namespace}`)))
    log(`created ${await createNamespace(context, { manifests: await renderManifests(target, service, signal) })}`);
  const end = performance.now() + service.rolloutTimeoutSeconds * 1000;
  const shown = new Set<string>();
  const logOnce = (line: string) => void (shown.has(line) || (shown.add(line), log(line)));
  for (;;) {
    try {
      return { ...(await lockDeploys({ ...context, log: logOnce }, "change of secrets")), log };
    } catch (error) {
      const isHeld = error instanceof PipelineError && error.code === "lock-held";
      if (!isHeld || performance.now() > end) throw error;
      logOnce(`waiting: ${error.message}`);
      signal.throwIfAborted();
      await Bun.sleep(LOCK_RETRY_MS);
    }
  }
}

export interface SecretChangeOptions {
  change: SecretChange;
  /** The values before the lock was taken. */
  seen: SecretStore;
  /** Whether pods that use the values are replaced. */
  restarts: boolean;
}

/**
 * Compares a change with the cluster.
 *
 * @returns what to write and to roll out. Undefined if no pod has to be replaced: the values are stored then
 * @throws {PipelineError} "project" if the running version needs a name to remove
 */
export async function prepareSecretChange(
  context: LockedContext,
  { change, seen, restarts }: SecretChangeOptions,
): Promise<DeployTransaction | undefined> {
  const { target, service, recordState, log, signal } = context;
  const { api } = target;
  const [before, versions] = await Promise.all([readSecrets(api), listVersions(api, log)]);
  const after = before.after(change);
  const { set, unset } = before.differenceTo(change);
  for (const name of [...set, ...unset].filter((name) => seen.digestOf([name]) !== before.digestOf([name])))
    if (seen.exists) log(`${name} was changed by another command meanwhile: this command replaces that value`);
  const { current, states } = await observeRunning(api, versions);
  assertUnused(service, change.removed, [...states.map(({ deployment }) => deployment), ...(current?.manifests ?? [])]);
  for (const { id } of versions.filter(({ manifests }) => usesAny(service, manifests, unset)))
    log(`a rollback to ${id} needs ${unset.join(", ")}: it is refused until a value is set again`);
  const write = () => before.write(api, change);
  const restore = () => before.restore(api, change);
  const outdated = states.filter((state) => digestOf(state.deployment) !== digestOf(mark(service, state, after)));
  if (!restarts || outdated.length === 0) {
    if (set.length + unset.length > 0) await storeOrUndo(context, write, restore);
    if (outdated.length > 0) log("running pods keep their values until they are replaced, for example by a deploy");
    return undefined;
  }
  const manifests = current?.manifests ?? (await renderManifests(target, service, signal));
  const endpoint = target.endpoint(manifests);
  await assertRights(
    api,
    outdated.map(({ deployment }) => deployment),
    endpoint.url,
  );
  const id = runningId(outdated[0]!.deployment);
  const objects = outdated.map((state) => mark(service, state, after));
  recordState(`Values in Secret/${secretName(service)} were being changed. New pods start with the new values.`);
  return {
    name: `${service.name}:${id} with the changed secrets`,
    version: current ?? unknownVersion(id),
    jobs: [],
    objects: await prepareForApply(api, objects),
    keepsEndpoint: true,
    before: outdated,
    rollbackTarget: undefined,
    permanentEffects: [],
    recordedVersions: [],
    secrets: { write, restore },
    cause: "the values",
    complete: async () => {},
    rollout: {
      id,
      workloads: outdated.map(({ deployment }) => deployment),
      write: async () => {
        for (const workload of objects) await applyDigest(api, workload);
      },
      endpoint,
      before: outdated,
    },
  };
}

/** Finds the running version, if it is stored, and the workloads whose pods have a digest of their secrets. */
async function observeRunning(
  api: ApiClient,
  versions: Version[],
): Promise<{ current: Version | undefined; states: WorkloadState[] }> {
  const { service } = api;
  const manifests = versions.map((version) => version.manifests);
  const running = await observeMainWorkload(api, manifests);
  const current = versions.find(({ name }) => running && name === versionNameOf(running.deployment));
  const workloads = sortWorkloads(service, current?.manifests ?? []);
  const states = workloads.length > 0 ? await observeWorkloads(api, workloads) : running ? [running] : [];
  return { current, states };
}

/** Whether pods of the objects get one of the names. */
function usesAny(service: DeployContext["service"], objects: KubeObject[], names: string[]): boolean {
  const keys = objects.flatMap(podTemplates).flatMap((template) => secretKeysOf(service, template, names));
  return keys.some((key) => names.includes(key));
}

/** @throws {PipelineError} "project" if pods could not start without a name */
function assertUnused(service: DeployContext["service"], removed: readonly string[], objects: KubeObject[]): void {
  const used = removed.filter((name) => usesAny(service, objects, [name]));
  if (used.length === 0) return;
  throw new PipelineError("project", `the running version uses ${used.join(", ")}. Nothing was changed`, {
    code: "secret-in-use",
    hint: "Remove it from `secrets` in ci/pipeline.ts and deploy, then run the command again.",
  });
}

/** Returns the workload with the digest of its new values. */
function mark(service: DeployContext["service"], { deployment }: WorkloadState, after: SecretStore): Workload {
  return markPods(service, [deployment], after)[0] as Workload;
}

const digestOf = ({ spec }: Workload) => spec.template.metadata?.annotations?.[SECRETS_DIGEST];

/** Applies the digest alone, so that a number of replicas or a field that a person has set stays. */
async function applyDigest(api: ApiClient, workload: Workload): Promise<void> {
  const { apiVersion, kind, metadata } = workload;
  const annotations = { [SECRETS_DIGEST]: digestOf(workload) };
  await api.json(await api.pathOf(workload), {
    method: "PATCH",
    contentType: "application/apply-patch+yaml",
    query: { fieldManager: `${api.service.name}-secrets`, force: "true" },
    body: {
      apiVersion,
      kind,
      metadata: { name: metadata.name, namespace: api.service.namespace },
      spec: { template: { metadata: { annotations } } },
    },
    signal: undefined,
  });
}

async function storeOrUndo(
  { recordState, signal }: LockedContext,
  write: () => Promise<void>,
  restore: () => Promise<void>,
): Promise<void> {
  recordState("The values were being stored.");
  try {
    await write();
  } catch (error) {
    await restore().catch((failure: unknown) => {
      const state = `${(error as Error).message}. Some values may be stored, and restoring the others failed`;
      throw createPartialFailure(state, failure, signal);
    });
    throw error;
  }
}

/** Stands for a version that slipway did not deploy. */
function unknownVersion(id: string): Version {
  return { name: "", id, image: "", commit: undefined, verified: undefined, manifests: [] };
}
