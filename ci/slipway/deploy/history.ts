/**
 * The versions that the cluster keeps: a Secret of a type of its own for each, with the manifests as they were applied. What an
 * unwanted deploy goes back to is all of a version, its Service and policies too, not the pods alone.
 *
 * Values of Secrets are not kept: a version names its Secrets, and going back to it leaves them as they are. One that
 * kustomize has given a name of its content stays in the cluster for as long as a version that names it is kept; one of a
 * fixed name has the value that it has now, because a password that was changed stays changed.
 */
import { gunzipSync, gzipSync } from "node:zlib";
import { PipelineError } from "../core/errors.ts";
import { sha256 } from "../core/hash.ts";
import { cloneJson, parseJson } from "../core/lossless-json.ts";
import type { Service } from "../core/service-config.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject, Pod } from "../kubernetes/objects.ts";
import { isWorkload } from "../kubernetes/observe.ts";
import { splitPreDeployJobs } from "../kubernetes/render.ts";

export interface Version {
  /** Name of its Secret: two versions of one id are possible, with other manifests. */
  name: string;
  id: string;
  /** The image that its pods run. */
  image: string;
  /** The commit that it was deployed from, with "-dirty" after it; undefined outside a repository. */
  commit: string | undefined;
  /** When it was last proven to serve, as RFC 3339; undefined: never. */
  verified: string | undefined;
  /** When somebody went back from it; undefined: nobody has since it was proven. */
  left?: string | undefined;
  /** Those of Secrets without their values. */
  manifests: KubeObject[];
}

interface Kept extends KubeObject {
  type?: string;
  data?: Record<string, string>;
}

const TYPE = "slipway/version";
const COMPONENT = { "app.kubernetes.io/component": "version" };
/** An annotation of workloads: the version that they are. */
const NAME = "slipway/version";

/** What a Secret may hold, in bytes; the rest is for what stands around it. https://kubernetes.io/docs/concepts/configuration/secret/ */
const MOST_BYTES = 1024 * 1024 - 16_384;

/** Selects the versions of a service. */
const versionsOf = ({ selector }: ApiClient) => ({
  labelSelector: `${selector},app.kubernetes.io/component=version`,
  fieldSelector: `type=${TYPE}`,
});

/**
 * A version of these manifests, as it is before its first deploy.
 *
 * @returns it, and the manifests to apply: with the values of Secrets
 */
export function createVersion(
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
    if (isWorkload(object)) object.metadata.annotations = { ...object.metadata.annotations, [NAME]: name };
    // A Job's pods cannot be changed: each version has one of its own.
    if (jobs.includes(manifests[i]!)) object.metadata.name += `-${id}-${digest}`;
    return object;
  });
  const version = { name, id, image, commit, verified: undefined, manifests: withoutValues(objects) };
  return { version, objects };
}

/** @throws {PipelineError} "project" when a version is more than one object of the cluster can hold */
export function assertFitsInSecret(api: ApiClient, version: Version): void {
  const { data = {} } = secretOf(api, version);
  const bytes = Object.values(data).reduce((sum, value) => sum + (value.length * 3) / 4, 0);
  if (bytes <= MOST_BYTES) return;
  throw new PipelineError(
    "project",
    `the manifests are too large to be kept as a version: ${Math.ceil(bytes / 1024)} KiB compressed, of ${MOST_BYTES / 1024} that one Secret holds`,
    {
      hint: "What is large and not the service's own (dashboards, definitions) belongs into an apply of its own.",
    },
  );
}

function withoutValues(manifests: KubeObject[]): KubeObject[] {
  return manifests.map((object) => {
    if (object.kind !== "Secret") return object;
    const {
      data: _,
      stringData: __,
      ...rest
    } = object as KubeObject & { data?: unknown; stringData?: unknown };
    return rest;
  });
}

/** The version that a workload is; undefined: the pipeline has not deployed it. */
export function versionNameOf({ metadata }: KubeObject): string | undefined {
  return metadata.annotations?.[NAME];
}

/** The kept versions, the one that was proven last first. One that is none is left out, and told to `say`. */
export async function listVersions(
  api: ApiClient,
  say: (line: string) => void = () => {},
): Promise<Version[]> {
  const found = await api.list<Kept>(api.collection("/api/v1", "secrets"), versionsOf(api));
  const versions = found.flatMap((kept): Version[] => {
    try {
      return [parse(kept)];
    } catch (error) {
      say(
        `Secret/${kept.metadata.name} is no version of this pipeline (${(error as Error).message}): it is left out`,
      );
      return [];
    }
  });
  return versions.sort((a, b) => ((a.verified ?? "") < (b.verified ?? "") ? 1 : -1));
}

/** Images of the service that any namespace keeps a version of, or runs: one node may serve several. */
export async function referencedImages(api: ApiClient): Promise<Set<string>> {
  const [versions, pods] = await Promise.all([
    api.list<Kept>("/api/v1/secrets", versionsOf(api)),
    api.list<Pod>("/api/v1/pods", { labelSelector: api.selector }),
  ]);
  const kept = versions.map(({ data = {} }) => Buffer.from(data.image ?? "", "base64").toString());
  return new Set([...kept, ...pods.flatMap(({ spec }) => spec.containers.map(({ image }) => image))]);
}

/** @throws {Error} when it is not what was written */
function parse({ metadata, data = {} }: Kept): Version {
  const text = (key: string) => Buffer.from(data[key] ?? "", "base64").toString();
  const manifests = gunzipSync(Buffer.from(data.manifests ?? "", "base64")).toString();
  if (sha256(manifests) !== text("digest")) throw new Error("its manifests do not have its digest");
  return {
    name: metadata.name,
    id: text("id"),
    image: text("image"),
    commit: text("commit") || undefined,
    verified: text("verified") || undefined,
    left: text("left") || undefined,
    manifests: parseJson<KubeObject[]>(manifests),
  };
}

function secretOf({ service }: ApiClient, version: Version): Kept {
  const { name, id, image, commit = "", verified = "", left = "" } = version;
  const manifests = JSON.stringify(version.manifests);
  const values = { id, image, commit, verified, left, digest: sha256(manifests) };
  const encoded = Object.entries(values).map(([key, value]) => [key, Buffer.from(value).toString("base64")]);
  return {
    apiVersion: "v1",
    kind: "Secret",
    type: TYPE,
    metadata: {
      name,
      namespace: service.namespace,
      labels: { "app.kubernetes.io/name": service.name, ...COMPONENT, "app.kubernetes.io/version": id },
    },
    data: { ...Object.fromEntries(encoded), manifests: gzipSync(manifests).toString("base64") },
  };
}

/** Keeps a version, or what is new about one that is kept. */
export async function saveVersion(api: ApiClient, version: Version): Promise<void> {
  await api.apply(secretOf(api, version));
}

export async function deleteVersion(api: ApiClient, version: Version): Promise<void> {
  await api.delete(secretOf(api, version));
}

/**
 * The time of a proof that is made now: later than every other one, whatever this machine's clock says. Which version was
 * proven last is what a rollback goes by, and the one before may have been proven by another machine.
 */
export function nextVerifiedAt(versions: Version[]): string {
  const others = versions.map(({ verified }) => (verified ? Date.parse(verified) : 0));
  return new Date(Math.max(Date.now(), ...others.map((time) => time + 1))).toISOString();
}

/**
 * The version to go back to: the one that was proven last, other than `from`, and that nobody went back from.
 *
 * @param from name of the version that is there
 * @param wanted a certain one, by its name or id: then also one that somebody went back from
 */
export function findRollbackTarget(
  versions: Version[],
  from: string | undefined,
  wanted?: string,
): Version | undefined {
  const proven = versions.filter(({ verified }) => verified);
  if (wanted === undefined) return proven.find(({ name, left }) => name !== from && !left);
  const asked = proven.filter(
    ({ name, id }) => name === wanted || name.endsWith(`-${wanted}`) || id === wanted,
  );
  return asked.find(({ name }) => name !== from) ?? asked[0];
}

/** Versions that nothing needs any more: those never proven, and the oldest beyond `count`. */
export function prunableVersions(versions: Version[], current: Version, count: number): Version[] {
  const others = versions.filter(({ name }) => name !== current.name);
  const proven = others.filter(({ verified }) => verified);
  return [...others.filter(({ verified }) => !verified), ...proven.slice(count - 1)];
}

/** Names of the Secrets that versions need, `Secret/name`. */
export function referencedSecrets(versions: Version[]): Set<string> {
  const all = versions.flatMap(({ manifests }) => manifests.filter(({ kind }) => kind === "Secret"));
  return new Set(all.map(({ metadata }) => `Secret/${metadata.name}`));
}

/**
 * What a version holds that the overlay has not: whoever may write Secrets in the namespace could otherwise have the pipeline
 * apply, with its rights, what it would never have deployed.
 *
 * @returns `Kind/name in namespace` of the first; undefined: nothing
 */
export function findUnexpectedObject(
  { namespace }: Service,
  version: Version,
  overlay: KubeObject[],
): string | undefined {
  const place = ({ kind, metadata }: KubeObject) => `${kind} ${metadata.namespace ?? ""}`;
  const known = new Set(overlay.map(place));
  const foreign = version.manifests.find(
    (object) =>
      !known.has(place(object)) && (object.metadata.namespace !== namespace || grants.has(object.kind)),
  );
  return (
    foreign && `${foreign.kind}/${foreign.metadata.name} in ${foreign.metadata.namespace ?? "the cluster"}`
  );
}

/** Kinds that give rights, also in the service's own namespace. */
const grants = new Set(["Role", "RoleBinding", "ServiceAccount", "Secret"]);

/** Of a version, what is not applied when one goes back to it: Secrets, whose values are not kept, and Jobs that come first. */
export function isExcludedFromRollback(object: KubeObject): boolean {
  return object.kind === "Secret" || splitPreDeployJobs([object]).jobs.length > 0;
}
