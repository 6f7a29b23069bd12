/**
 * Release history in the cluster, stored as one Secret (type `slipway/version`) per version with its applied
 * manifests. A rollback restores all of a version, its Service and policies included.
 *
 * Values of Secrets are not stored: a version refers to its Secrets, and a rollback leaves them unchanged. A Secret
 * that kustomize names by its content stays in the cluster as long as a stored version refers to it. A Secret with a
 * fixed name keeps its current value, so that a changed password stays changed.
 */
import { gunzipSync, gzipSync } from "node:zlib";
import { PipelineError } from "../core/errors.ts";
import { identifyDeployer, type Deployer } from "../core/deployer.ts";
import { sha256 } from "../core/hash.ts";
import { cloneJson, parseJson } from "../core/lossless-json.ts";
import type { Service } from "../core/resolve-service.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject, Pod } from "../kubernetes/objects.ts";
import { containersOf } from "../kubernetes/pod-templates.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";
import { PROJECT } from "../kubernetes/prepare-for-apply.ts";
import { splitPreDeployJobs } from "../kubernetes/render.ts";

export interface Version {
  /** Name of its Secret. Two versions may have the same id but other manifests. */
  name: string;
  id: string;
  /** The image of its pods. */
  image: string;
  /** The deployed commit, with "-dirty" if there were changes. Undefined outside a repository. */
  commit: string | undefined;
  /** When it was last verified, as RFC 3339. Undefined if never. */
  verified: string | undefined;
  /** When it was rolled back. Undefined if it was not, or was verified again since. */
  left?: string | undefined;
  /** Who deployed it last. Undefined if others did, or an older slipway. */
  deployer?: Deployer | undefined;
  /** Its manifests, Secrets without their values. */
  manifests: KubeObject[];
  /** The project that stored it. Undefined if that had no identity. */
  project?: string | undefined;
}

interface VersionSecret extends KubeObject {
  type?: string;
  data?: Record<string, string>;
}

const TYPE = "slipway/version";
const COMPONENT = { "app.kubernetes.io/component": "version" };
/** Annotation of workloads: the name of their version. */
const VERSION_ANNOTATION = "slipway/version";

/**
 * Bytes that a Secret may hold, less a reserve for its metadata.
 * https://kubernetes.io/docs/concepts/configuration/secret/
 */
const MAX_BYTES = 1024 * 1024 - 16_384;

/** Selects the Secrets of a service's versions. */
const versionSelector = ({ selector }: ApiClient) => ({
  labelSelector: `${selector},app.kubernetes.io/component=version`,
  fieldSelector: `type=${TYPE}`,
});

/**
 * Creates a version from manifests.
 *
 * @returns the version, and the manifests to apply: with the values of Secrets
 */
export function versionFromManifests(
  service: Service,
  id: string,
  image: string,
  manifests: KubeObject[],
  commit: string | undefined,
): { version: Version; objects: KubeObject[] } {
  const digest = sha256(JSON.stringify(withoutValues(manifests))).slice(0, 8);
  const name = `${service.name}-version-${id}-${digest}`;
  const { jobs } = splitPreDeployJobs(manifests);
  const objects = cloneJson(manifests).map((object, i) => {
    if (isWorkload(object))
      object.metadata.annotations = { ...object.metadata.annotations, [VERSION_ANNOTATION]: name };
    // A Job's pod template is immutable, so each version has its own Job.
    if (jobs.includes(manifests[i]!)) object.metadata.name += `-${id}-${digest}`;
    return object;
  });
  const deployer = identifyDeployer();
  const version = { name, id, image, commit, deployer, verified: undefined, manifests: withoutValues(objects) };
  return { version, objects };
}

/** Checks that a version fits in a Secret. @throws {PipelineError} "project" if it is too large */
export function assertFitsInSecret(api: ApiClient, version: Version): void {
  const { data = {} } = secretOf(api, version);
  const bytes = Object.values(data).reduce((sum, value) => sum + (value.length * 3) / 4, 0);
  if (bytes <= MAX_BYTES) return;
  throw new PipelineError(
    "project",
    `the manifests are too large to store as a version: ${Math.ceil(bytes / 1024)} KiB compressed, the limit is ${MAX_BYTES / 1024} KiB`,
    {
      code: "manifests-too-large",
      hint: "Apply large objects that are not part of the service, such as dashboards and definitions, separately.",
    },
  );
}

function withoutValues(manifests: KubeObject[]): KubeObject[] {
  return manifests.map((object) => {
    if (object.kind !== "Secret") return object;
    const { data: _, stringData: __, ...rest } = object as KubeObject & { data?: unknown; stringData?: unknown };
    return rest;
  });
}

/** Returns the name of a workload's version. Undefined if the pipeline did not deploy it. */
export function versionNameOf({ metadata }: KubeObject): string | undefined {
  return metadata.annotations?.[VERSION_ANNOTATION];
}

/** Lists the stored versions, most recently verified first. Invalid ones are logged and skipped. */
export async function listVersions(api: ApiClient, log: (line: string) => void = () => {}): Promise<Version[]> {
  const found = await api.list<VersionSecret>(api.collection("/api/v1", "secrets"), versionSelector(api));
  const versions = found.flatMap((secret): Version[] => {
    try {
      return [parseVersion(secret)];
    } catch (error) {
      log(`skipping Secret/${secret.metadata.name}, not a valid version: ${(error as Error).message}`);
      return [];
    }
  });
  return versions.sort((a, b) => ((a.verified ?? "") < (b.verified ?? "") ? 1 : -1));
}

/** Returns the service's images that any namespace runs or has a stored version of: namespaces share nodes. */
export async function referencedImages(api: ApiClient): Promise<Set<string>> {
  const [versions, pods] = await Promise.all([
    api.list<VersionSecret>("/api/v1/secrets", versionSelector(api)),
    api.list<Pod>("/api/v1/pods"),
  ]);
  const stored = versions.map(({ data = {} }) => Buffer.from(data.image ?? "", "base64").toString());
  return new Set([...stored, ...pods.flatMap((pod) => containersOf(pod).map(({ image }) => image))]);
}

/** Parses a version's Secret. @throws {Error} if it is invalid */
function parseVersion({ metadata, data = {} }: VersionSecret): Version {
  const text = (key: string) => Buffer.from(data[key] ?? "", "base64").toString();
  const manifests = gunzipSync(Buffer.from(data.manifests ?? "", "base64")).toString();
  if (sha256(manifests) !== text("digest")) throw new Error("its manifests do not match its digest");
  return {
    name: metadata.name,
    id: text("id"),
    image: text("image"),
    commit: text("commit") || undefined,
    verified: text("verified") || undefined,
    left: text("left") || undefined,
    deployer: text("deployer") ? { name: text("deployer"), run: text("run") || undefined } : undefined,
    manifests: parseJson<KubeObject[]>(manifests),
    project: metadata.annotations?.[PROJECT],
  };
}

function secretOf({ service }: ApiClient, version: Version): VersionSecret {
  const { name, id, image, commit = "", verified = "", left = "", deployer } = version;
  const manifests = JSON.stringify(version.manifests);
  const by = { deployer: deployer?.name ?? "", run: deployer?.run ?? "" };
  const values = { id, image, commit, verified, left, ...by, digest: sha256(manifests) };
  const encoded = Object.entries(values).map(([key, value]) => [key, Buffer.from(value).toString("base64")]);
  return {
    apiVersion: "v1",
    kind: "Secret",
    type: TYPE,
    metadata: {
      name,
      namespace: service.namespace,
      labels: { "app.kubernetes.io/name": service.name, ...COMPONENT, "app.kubernetes.io/version": id },
      ...(service.identity !== undefined && { annotations: { [PROJECT]: service.identity } }),
    },
    data: { ...Object.fromEntries(encoded), manifests: gzipSync(manifests).toString("base64") },
  };
}

/** Stores or updates a version. */
export async function saveVersion(api: ApiClient, version: Version): Promise<void> {
  await api.apply(secretOf(api, version));
}

export async function deleteVersion(api: ApiClient, version: Version): Promise<void> {
  await api.delete(secretOf(api, version));
}

/**
 * Returns the current time as a version's `verified`, but later than all others. A rollback orders versions by it,
 * and the clock of another machine may have been ahead.
 */
export function nextVerifiedAt(versions: Version[]): string {
  const others = versions.map(({ verified }) => (verified ? Date.parse(verified) : 0));
  return new Date(Math.max(Date.now(), ...others.map((time) => time + 1))).toISOString();
}

/**
 * Finds the version to roll back to: by default the most recently verified one that is not current and was not rolled
 * back.
 *
 * @param from name of the current version
 * @param wanted name or id of a version, which may be one that was rolled back
 */
export function findRollbackTarget(
  versions: Version[],
  from: string | undefined,
  wanted?: string,
): Version | undefined {
  const verified = versions.filter((version) => version.verified);
  if (wanted === undefined) return verified.find(({ name, left }) => name !== from && !left);
  const matching = verified.filter(({ name, id }) => name === wanted || name.endsWith(`-${wanted}`) || id === wanted);
  return matching.find(({ name }) => name !== from) ?? matching[0];
}

/** Returns the versions to delete: those never verified, and the oldest beyond `count`. */
export function versionsToDelete(versions: Version[], current: Version, count: number): Version[] {
  const others = versions.filter(({ name }) => name !== current.name);
  const verified = others.filter((version) => version.verified);
  return [...others.filter((version) => !version.verified), ...verified.slice(count - 1)];
}

/** Returns the names of the Secrets that versions refer to, `Secret/name`. */
export function referencedSecrets(versions: Version[]): Set<string> {
  const all = versions.flatMap(({ manifests }) => manifests.filter(({ kind }) => kind === "Secret"));
  return new Set(all.map(({ metadata }) => `Secret/${metadata.name}`));
}

/**
 * Finds an object in a stored version that the overlay would not deploy. Without this check, a user who can write
 * Secrets in the namespace could have the pipeline apply any object with its rights.
 *
 * @returns the first such object as `Kind/name in namespace`
 */
export function findUnexpectedObject(
  { namespace }: Service,
  version: Version,
  overlay: KubeObject[],
): string | undefined {
  const keyOf = ({ kind, metadata }: KubeObject) => `${kind} ${metadata.namespace ?? ""}`;
  const expected = new Set(overlay.map(keyOf));
  const found = version.manifests.find(
    (object) =>
      !expected.has(keyOf(object)) && (object.metadata.namespace !== namespace || GRANTING_KINDS.has(object.kind)),
  );
  return found && `${found.kind}/${found.metadata.name} in ${found.metadata.namespace ?? "the cluster"}`;
}

/** Kinds that grant rights, even in the service's own namespace. */
const GRANTING_KINDS = new Set(["Role", "RoleBinding", "ServiceAccount", "Secret"]);

/** Returns whether a rollback does not apply an object: Secrets, whose values are not stored, and pre-deploy Jobs. */
export function isExcludedFromRollback(object: KubeObject): boolean {
  return object.kind === "Secret" || splitPreDeployJobs([object]).jobs.length > 0;
}
