/** Plan of a deploy: the changes that it would make, to be shown before it makes them. */
import { gitCommit } from "../core/git.ts";
import { runSecretCommands } from "../core/secret-commands.ts";
import type { Report, StepResult } from "../core/step-report.ts";
import type { Service } from "../core/resolve-service.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import { compareWithCluster, type Difference } from "../kubernetes/diff.ts";
import { assertFitsInSecret, listVersions, versionFromManifests, type Version } from "./release-history.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import {
  defaultWorkloadName,
  observeWorkloads,
  type WorkloadState,
  type WorkloadName,
} from "../kubernetes/workload-state.ts";
import { readReferenced } from "../kubernetes/read-referenced.ts";
import { sortWorkloads } from "../kubernetes/service-port.ts";
import { withVersion, renderManifests } from "../kubernetes/render.ts";
import { assertComponentsWork } from "./checks-components.ts";
import { assertTimeToStart } from "./checks-probes.ts";
import { assertOwnProject } from "./checks-project.ts";
import { openReferences } from "./reference-checks.ts";
import { compareWithStored } from "./obsolete-objects.ts";
import { describeSecretChange, markPods, planSecrets } from "./deployed-secrets.ts";
import { assertRights } from "./required-rights.ts";
import { assertSuitable, namespacesToFind } from "./manifest-checks.ts";
import { assessWorkloads } from "./rollout-status.ts";
import { SecretChange } from "../kubernetes/secret-store.ts";
import type { Target } from "./target.ts";
import type { Endpoint } from "./verify-from-outside.ts";

/** The target of a command, and how its work there is reported. */
export interface DeployContext {
  target: Target;
  service: Service;
  signal: AbortSignal;
  /** Seconds to wait for the lock of another deploy. Default: 0. */
  lockWaitSeconds?: number;
  /** Records the state that an interruption from now on would leave, as sentences. */
  recordState(state: string): void;
  /** Prints a line for the user. */
  log(line: string): void;
  /** Runs a step that is reported by itself. */
  step: Report["step"];
}

export interface Plan {
  id: string;
  /** `helloapp:<id>`. */
  name: string;
  /** Whether pods can pull the image. */
  delivered: boolean;
  /** Whether this run has delivered the image. Default: false. */
  isFresh?: boolean;
  /** The release history entry. Its image may get another name on delivery. */
  version: Version;
  /** The overlay's objects, without the version's image and labels. */
  manifests: KubeObject[];
  differences: Difference[];
  endpoint: Endpoint;
  /** The workloads in the cluster. Empty before the first deploy. */
  before: WorkloadState[];
  versions: Version[];
  /** Values of `secrets` to store with the deploy. */
  secrets: SecretChange;
}

/** The part of a plan that does not depend on the id. */
export interface PlanInputs {
  manifests: KubeObject[];
  versions: Version[];
  /** The current git commit, if there is a repository. */
  commit: string | undefined;
  /** Values that the commands of `secrets` have printed. */
  secrets: SecretChange;
}

export async function readPlanInputs({ target, service, signal, log }: DeployContext): Promise<PlanInputs> {
  const { api } = target;
  const [manifests, listed, commit, values] = await Promise.all([
    renderManifests(target, service, signal),
    listVersions(api, log).catch((error: unknown) => error),
    gitCommit(service.project, signal),
    runSecretCommands(service, signal),
  ]);
  // All missing rights are named at once, before the first refused request is.
  await assertRights(api, manifests, target.endpoint(manifests).url);
  if (!Array.isArray(listed)) throw listed;
  const versions = listed as Version[];
  return { manifests, versions, commit, secrets: new SecretChange(values) };
}

/**
 * Finds out what a deploy of an id would change, by a dry run on the server.
 *
 * @param image its name for manifests, undefined if pods cannot pull it yet
 * @throws {PipelineError} "project" if the server rejects the manifests, or they are too large to be stored
 */
async function createPlan(
  { target, service }: DeployContext,
  id: string,
  image: string | undefined,
  { manifests, versions, commit, secrets }: PlanInputs,
): Promise<Plan> {
  const { api } = target;
  await checkManifests(target, service, manifests, versions);
  target.admit?.(manifests);
  const name = `${service.name}:${id}`;
  const { version, objects } = versionFromManifests(
    service,
    id,
    image ?? name,
    withVersion(service, manifests, id, image ?? name, target.isImported),
    commit,
  );
  assertFitsInSecret(api, version);
  assertTimeToStart(objects, service.readyTimeoutSeconds);
  await Promise.all([assertOwnProject(api, objects, versions), assertComponentsWork(api, objects)]);
  const planned = await planSecrets(api, objects, secrets);
  const comparing = compareWithCluster(api, markPods(service, objects, planned?.after));
  const [changed, obsolete, before] = await Promise.all([
    comparing,
    compareWithStored(api, { version, versions, manifests: objects, keepVersions: service.keepVersions }),
    observeWorkloads(api, sortWorkloads(service, manifests)),
  ]).catch(async (error: unknown) => {
    // The dry run names object and field where a query with an invalid name or label only says that it is invalid.
    await comparing;
    throw error;
  });
  return {
    id,
    name,
    delivered: image !== undefined,
    version,
    manifests,
    differences: [...describeSecretChange(service, planned), ...changed, ...obsolete],
    endpoint: target.endpoint(manifests),
    before,
    versions,
    secrets,
  };
}

/** Checks the manifests against the cluster. @throws {PipelineError} "project" or "environment" */
async function checkManifests(
  { api, overlay, isImported = false }: Target,
  service: Service,
  manifests: KubeObject[],
  versions: Version[],
): Promise<void> {
  // Without the right to read namespaces, nothing is known about them.
  const find = (name: string) =>
    api.find<KubeObject>(`/api/v1/namespaces/${name}`).then(
      (found) => found ?? null,
      (error: unknown) => {
        if (error instanceof ApiError && error.status === 403) return undefined;
        throw error;
      },
    );
  const names = namespacesToFind(manifests);
  const [findLive, namespace, ...others] = await Promise.all([
    readReferenced(api, openReferences({ service, manifests, isImported })),
    ...[service.namespace, ...names].map(find),
  ]);
  assertSuitable({
    service,
    overlay,
    manifests,
    namespace,
    hasNamespace: (name) => {
      const found = others[names.indexOf(name)];
      return found === undefined ? undefined : found !== null;
    },
    findLive,
    isImported,
    wasVerified: versions.some(({ verified }) => verified !== undefined),
  });
}

/** Plans a deploy of an id from scratch. The id may still be computed meanwhile. */
export async function planDeploy(context: DeployContext, identified: string | Promise<string>): Promise<Plan> {
  const locating = Promise.resolve(identified).then((id) => context.target.find(id));
  const [id, image, inputs] = await Promise.all([identified, locating, readPlanInputs(context)]);
  return createPlan(context, id, image, inputs);
}

/** Creates the plan as a reported step. */
export async function planChanges(...args: Parameters<typeof createPlan>): Promise<StepResult<Plan>> {
  const plan = await createPlan(...args);
  const detail = describePlan(plan).length > 0 ? `${plan.name} changes this:` : "nothing would change";
  return { value: plan, detail };
}

/**
 * Observes the main workload, of whatever kind.
 *
 * @param known manifests that may name it: a prefix or suffix may have changed its name. Default: none
 */
export async function observeMainWorkload(
  api: Target["api"],
  known: KubeObject[][] = [],
): Promise<WorkloadState | undefined> {
  const { metadata } = defaultWorkloadName(api);
  const kinds = ["Deployment", "StatefulSet", "DaemonSet"].map((kind) => ({ kind, metadata }));
  const others = known.flatMap((manifests) => sortWorkloads(api.service, manifests).slice(0, 1));
  const names = new Map<string, WorkloadName>(
    [...kinds, ...others].map(({ kind, metadata: { name } }) => [`${kind}/${name}`, { kind, metadata: { name } }]),
  );
  return (await observeWorkloads(api, [...names.values()]))[0];
}

/** Whether a deploy has nothing to do: the server would change nothing, and the running version is ready and was verified. */
export function isUpToDate({ service }: DeployContext, { differences, before, versions, version }: Plan): boolean {
  const isVerified = versions.some(({ name, verified }) => name === version.name && verified);
  const isReady = before.length > 0 && assessWorkloads(before, service).state === "complete";
  return differences.length === 0 && isReady && isVerified;
}

/** Describes a plan's changes, a line each. */
export function describePlan({ differences }: Pick<Plan, "differences">): string[] {
  return differences.flatMap(({ object, lines, isNew }) =>
    isNew ? [`${object} is new`] : lines.map((line) => `${object} ${line}`),
  );
}
