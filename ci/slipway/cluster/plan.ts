/** What a deploy would change: found out by asking, so that it can be shown before anything is. */
import { gitCommit } from "../ground/git.ts";
import type { Report } from "../ground/report.ts";
import type { Service } from "../ground/service.ts";
import { listVersions, newVersion, type Version } from "./history.ts";
import { differences, forVersion, render, type Difference } from "./manifests.ts";
import type { KubeObject } from "./objects.ts";
import { assess, observe, type Observation } from "./rollout.ts";
import type { Target } from "./target.ts";
import type { Endpoint } from "./verify.ts";

/** What all of a run's dealings with the cluster share. */
export interface Deploy {
  target: Target;
  service: Service;
  signal: AbortSignal;
  /** Takes down, for the case of an interruption, what state things would be left in now. */
  leaves(state: string): void;
  /** Tells a person what goes on. */
  say(line: string): void;
  /** Runs a part of it that is worth a line and a time of its own. */
  step: Report["step"];
}

export interface Plan {
  id: string;
  /** What a person calls it: `helloapp:<id>`. */
  name: string;
  /** Whether the image is where pods can take it from. */
  delivered: boolean;
  /** As it would be applied; its image may get another name when it is delivered. */
  version: Version;
  /** The overlay's objects, before they are those of a version. */
  manifests: KubeObject[];
  differences: Difference[];
  endpoint: Endpoint;
  /** What the cluster has; undefined before the first deploy. */
  before: Observation | undefined;
  versions: Version[];
}

/**
 * What a deploy of `id` would change. Nothing is changed by asking.
 *
 * @throws {PipelineError} "change" when the server refuses the manifests
 */
export async function plan({ target, service, signal }: Deploy, id: string): Promise<Plan> {
  const { api } = target;
  const [manifests, image, before, versions, commit] = await Promise.all([
    render(target, service, signal),
    target.find(id),
    observe(api),
    listVersions(api),
    gitCommit(service.project, signal),
  ]);
  const name = `${service.name}:${id}`;
  const version = newVersion(
    service,
    id,
    image ?? name,
    forVersion(service, manifests, id, image ?? name),
    commit,
  );
  return {
    id,
    name,
    delivered: image !== undefined,
    version,
    manifests,
    differences: await differences(api, version.manifests),
    endpoint: target.endpoint(manifests),
    before,
    versions,
  };
}

/** Whether there is nothing to do: the server would change nothing, and what it has is up and was proven. */
export function upToDate({ service }: Deploy, { differences, before, versions, version }: Plan): boolean {
  const proven = versions.some(({ name, verified }) => name === version.name && verified);
  return (
    differences.length === 0 && before !== undefined && assess(before, service).state === "complete" && proven
  );
}

/** A plan's differences, as lines for a person. */
export function describePlan({ differences }: Pick<Plan, "differences">): string[] {
  return differences.flatMap(({ object, lines, isNew }) =>
    isNew ? [`${object} is new`] : lines.map((line) => `${object} ${line}`),
  );
}
