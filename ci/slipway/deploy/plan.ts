/** What a deploy would change: found out by asking, so that it can be shown before anything is. */
import { gitCommit } from "../core/git.ts";
import type { Report } from "../core/report.ts";
import type { Service } from "../core/service-config.ts";
import { diffManifests, type Difference } from "../kubernetes/diff.ts";
import { assertFitsInSecret, listVersions, createVersion, type Version } from "./history.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import {
  isWorkload,
  defaultWorkload,
  observeWorkloads,
  type WorkloadState,
  type WorkloadName,
} from "../kubernetes/observe.ts";
import { withVersion, renderManifests } from "../kubernetes/render.ts";
import { assessWorkloads } from "./rollout-status.ts";
import type { Target } from "./target.ts";
import type { Endpoint } from "./verify.ts";

/** What all of a run's dealings with the cluster share. */
export interface DeployContext {
  target: Target;
  service: Service;
  signal: AbortSignal;
  /** Takes down, for the case of an interruption, what state things would be left in now. */
  recordState(state: string): void;
  /** Tells a person what goes on. */
  log(line: string): void;
  /** Runs a part of it that is worth a line and a time of its own. */
  step: Report["step"];
}

export interface Plan {
  id: string;
  /** What a person calls it: `helloapp:<id>`. */
  name: string;
  /** Whether the image is where pods can take it from. */
  delivered: boolean;
  /** Whether this run has brought it there. */
  isFresh?: boolean;
  /** As it would be kept; its image may get another name when it is delivered. */
  version: Version;
  /** The overlay's objects, before they are those of a version. */
  manifests: KubeObject[];
  differences: Difference[];
  endpoint: Endpoint;
  /** What the cluster has; none before the first deploy. */
  before: WorkloadState[];
  versions: Version[];
}

/**
 * What a deploy of an id would change. Nothing is changed by asking; what does not depend on the id is asked while that is made.
 *
 * @param there how the manifests name its image, where that is asked already; default: the target is
 *
 * @throws {PipelineError} "project" when the server refuses the manifests, or they are too large to be kept
 */
export async function createPlan(
  { target, service, signal, log }: DeployContext,
  identified: string | Promise<string>,
  there = Promise.resolve(identified).then((id) => target.find(id)),
): Promise<Plan> {
  const { api } = target;
  const [id, manifests, image, versions, commit] = await Promise.all([
    identified,
    renderManifests(target, service, signal),
    there,
    listVersions(api, log),
    gitCommit(service.project, signal),
  ]);
  target.admit?.(manifests);
  const name = `${service.name}:${id}`;
  const { version, objects } = createVersion(
    service,
    id,
    image ?? name,
    withVersion(service, manifests, id, image ?? name),
    commit,
  );
  assertFitsInSecret(api, version);
  const [found, before] = await Promise.all([
    diffManifests(api, objects),
    observeWorkloads(api, workloadsIn(service, manifests)),
  ]);
  return {
    id,
    name,
    delivered: image !== undefined,
    version,
    manifests,
    differences: found,
    endpoint: target.endpoint(manifests),
    before,
    versions,
  };
}

/** The workloads of manifests; the one that is named like the service comes first: its pods answer for the version. */
export function workloadsIn({ name }: Service, manifests: KubeObject[]): WorkloadName[] {
  const found = manifests.filter(isWorkload);
  const [main, others] = [found.filter(isNamed), found.filter((one) => !isNamed(one))];
  return [...main, ...others];

  function isNamed({ metadata }: WorkloadName): boolean {
    return metadata.name === name;
  }
}

/** What runs of a service, before any manifests are known: of whatever kind the main workload is. */
export async function observeMainWorkload(api: Target["api"]): Promise<WorkloadState | undefined> {
  const { metadata } = defaultWorkload(api);
  const kinds = ["Deployment", "StatefulSet", "DaemonSet"].map((kind) => ({ kind, metadata }));
  return (await observeWorkloads(api, kinds))[0];
}

/** Whether there is nothing to do: the server would change nothing, and what it has is up and was proven. */
export function isUpToDate(
  { service }: DeployContext,
  { differences, before, versions, version }: Plan,
): boolean {
  const proven = versions.some(({ name, verified }) => name === version.name && verified);
  const up = before.length > 0 && assessWorkloads(before, service).state === "complete";
  return differences.length === 0 && up && proven;
}

/** A plan's differences, as lines for a person. */
export function describePlan({ differences }: Pick<Plan, "differences">): string[] {
  return differences.flatMap(({ object, lines, isNew }) =>
    isNew ? [`${object} is new`] : lines.map((line) => `${object} ${line}`),
  );
}
