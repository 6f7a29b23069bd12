/** Checks at the plan and at a rollback that the objects in the cluster are not those of another project with the same name. */
import { PipelineError } from "../core/errors.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { bearsIdentity, PROJECT } from "../kubernetes/prepare-for-apply.ts";
import type { Version } from "./release-history.ts";

/**
 * Objects without the annotation, of versions before 0.2.0 or of others, are adopted.
 *
 * @throws {PipelineError} "project" if an object or a stored version belongs to another project. Nothing was changed
 */
export async function assertOwnProject(api: ApiClient, manifests: KubeObject[], versions: Version[]): Promise<void> {
  const live = await Promise.all(
    manifests.filter(bearsIdentity).map(async (object) => {
      const path = await api.findPath(object);
      return path === undefined ? undefined : api.find<KubeObject>(path);
    }),
  );
  const { identity } = api.service;
  for (const object of live) {
    const owner = object?.metadata.annotations?.[PROJECT];
    if (object && owner !== undefined && owner !== identity) throw ofAnotherProject(api, objectName(object), owner);
  }
  const version = versions.find(({ project }) => project !== undefined && project !== identity);
  if (version) throw ofAnotherProject(api, `Secret/${version.name}`, version.project!);
}

function ofAnotherProject({ service }: ApiClient, object: string, owner: string): PipelineError {
  const { namespace, identity } = service;
  const own = identity === undefined ? "this project has no identity" : `this project is "${identity}"`;
  return new PipelineError(
    "project",
    `${object} in the namespace ${namespace} belongs to the project "${owner}", and ${own}. Nothing was changed`,
    {
      code: "project-differs",
      hint:
        "Set another `namespace` in ci/pipeline.ts and k8s/. If it is the same project, for example after a move of " +
        `its repository, set \`identity: ${JSON.stringify(owner)}\` in ci/pipeline.ts.`,
    },
  );
}
