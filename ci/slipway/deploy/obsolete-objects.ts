/**
 * Objects of stored versions that the new version does not have. All stored versions count, not only the previous one: a deploy that
 * ended before its clean-up has left objects, and the next one deletes them.
 */
import type { ApiClient } from "../kubernetes/api.ts";
import { findObsolete, prune } from "../kubernetes/apply.ts";
import type { Difference } from "../kubernetes/diff.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { referencedSecrets, versionsToDelete, type Version } from "./release-history.ts";

/** The new version, its manifests without pre-deploy Jobs, and the stored versions. */
interface Change {
  version: Version;
  manifests: KubeObject[];
  versions: Version[];
  /** Number of versions that stay in the release history. */
  keepVersions: number;
}

function obsoleteIn({ version, versions, keepVersions }: Change): { before: KubeObject[]; needed: Set<string> } {
  const others = versions.filter(({ name }) => name !== version.name);
  const expired = versionsToDelete(versions, version, keepVersions);
  const needed = referencedSecrets([version, ...versions.filter((one) => !expired.includes(one))]);
  return { before: others.flatMap(({ manifests }) => manifests), needed };
}

/** Lists the objects that the clean-up after the deploy deletes. */
export async function compareWithStored(api: ApiClient, change: Change): Promise<Difference[]> {
  const { before, needed } = obsoleteIn(change);
  const { ours } = await findObsolete(api, before, change.manifests, needed);
  const lines = ["is deleted: no longer in the manifests"];
  return ours.map((object) => ({ object: objectName(object), lines, isNew: false }));
}

/** Deletes them. @returns the names of the deleted objects, and of those that stay */
export function deleteObsolete(api: ApiClient, change: Change): Promise<{ deleted: string[]; left: string[] }> {
  const { before, needed } = obsoleteIn(change);
  return prune(api, before, change.manifests, needed);
}
