/** Plan of a deploy: the changes that it would make, to be shown before it makes them. */
import { gitCommit } from "../core/git.ts";
import type { Report, StepResult } from "../core/step-report.ts";
import type { Service } from "../core/resolve-service.ts";
import { compareWithCluster, type Difference } from "../kubernetes/diff.ts";
import { assertFitsInSecret, listVersions, versionFromManifests, type Version } from "./release-history.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import {
  isWorkload,
  defaultWorkloadName,
  observeWorkloads,
  type WorkloadState,
  type WorkloadName,
} from "../kubernetes/workload-state.ts";
import { withVersion, renderManifests } from "../kubernetes/render.ts";
import { assertComponentsWork } from "./checks-components.ts";
import { assertTimeToStart } from "./checks-probes.ts";
import { assertOwnProject } from "./checks-project.ts";
import { compareWithStored } from "./obsolete-objects.ts";
import { assessWorkloads } from "./rollout-status.ts";
import type { Target } from "./target.ts";
import type { Endpoint } from "./verify-from-outside.ts";

/** The target of a command, and how its work there is reported. */
export interface DeployContext {
  target: Target;
  service: Service;
  signal: AbortSignal;
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
}

/** The part of a plan that does not depend on the id. */
export interface PlanInputs {
  manifests: KubeObject[];
  versions: Version[];
  /** The current git commit, if there is a repository. */
  commit: string | undefined;
}

export async function readPlanInputs({ target, service, signal, log }: DeployContext): Promise<PlanInputs> {
  const [manifests, versions, commit] = await Promise.all([
    renderManifests(target, service, signal),
    listVersions(target.api, log),
    gitCommit(service.project, signal),
  ]);
  return { manifests, versions, commit };
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
  { manifests, versions, commit }: PlanInputs,
): Promise<Plan> {
  const { api } = target;
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
  const [changed, obsolete, before] = await Promise.all([
    compareWithCluster(api, objects),
    compareWithStored(api, { version, versions, manifests: objects, keepVersions: service.keepVersions }),
    observeWorkloads(api, workloadsIn(service, manifests)),
  ]);
  return {
    id,
    name,
    delivered: image !== undefined,
    version,
    manifests,
    differences: [...changed, ...obsolete],
    endpoint: target.endpoint(manifests),
    before,
    versions,
  };
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

/** @returns the manifests' workloads, first those with the service's name: their pods serve the version */
export function workloadsIn({ name }: Service, manifests: KubeObject[]): WorkloadName[] {
  const found = manifests.filter(isWorkload);
  const [main, others] = [found.filter(isNamed), found.filter((one) => !isNamed(one))];
  return [...main, ...others];

  function isNamed({ metadata }: WorkloadName): boolean {
    return metadata.name === name;
  }
}

/** Observes the main workload, of whatever kind, without the manifests. */
export async function observeMainWorkload(api: Target["api"]): Promise<WorkloadState | undefined> {
  const { metadata } = defaultWorkloadName(api);
  const kinds = ["Deployment", "StatefulSet", "DaemonSet"].map((kind) => ({ kind, metadata }));
  return (await observeWorkloads(api, kinds))[0];
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
