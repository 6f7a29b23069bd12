/**
 * The versions that the cluster keeps: a ConfigMap for each, with the manifests as they were applied. What a failed or
 * unwanted deploy goes back to is all of a version, its Service and policies too, not the pods alone.
 */
import { sha256 } from "../ground/hash.ts";
import type { Service } from "../ground/service.ts";
import type { Api } from "./api.ts";
import type { KubeObject, Pod } from "./objects.ts";

export interface Version {
  /** Name of its ConfigMap: two versions of one id are possible, with other manifests. */
  name: string;
  id: string;
  /** The image that its pods run. */
  image: string;
  /** The commit that it was deployed from, with "-dirty" after it; undefined outside a repository. */
  commit: string | undefined;
  /** When it was last proven to serve, as RFC 3339; undefined: never. */
  verified: string | undefined;
  manifests: KubeObject[];
}

interface ConfigMap extends KubeObject {
  data: Record<string, string>;
}

const COMPONENT = { "app.kubernetes.io/component": "version" };

/** Selects the versions of a service. */
const versionsOf = ({ selector }: Api) => ({
  labelSelector: `${selector},app.kubernetes.io/component=version`,
});

/** A version of these manifests, as it is before its first deploy. */
export function newVersion(
  service: Service,
  id: string,
  image: string,
  manifests: KubeObject[],
  commit: string | undefined,
): Version {
  const digest = sha256(JSON.stringify(manifests));
  const name = `${service.name}-version-${id}-${digest.slice(0, 8)}`;
  return { name, id, image, commit, verified: undefined, manifests };
}

/** The kept versions, the one that was proven last first. */
export async function listVersions(api: Api): Promise<Version[]> {
  const found = await api.list<ConfigMap>(api.collection("/api/v1", "configmaps"), versionsOf(api));
  return found.map(parse).sort((a, b) => ((a.verified ?? "") < (b.verified ?? "") ? 1 : -1));
}

/** Images of the app that any namespace keeps a version of, or runs: one node may serve several. */
export async function keptImages(api: Api): Promise<Set<string>> {
  const [versions, pods] = await Promise.all([
    api.list<ConfigMap>("/api/v1/configmaps", versionsOf(api)),
    api.list<Pod>("/api/v1/pods", { labelSelector: api.selector }),
  ]);
  const run = pods.flatMap(({ spec }) => spec.containers.map(({ image }) => image));
  return new Set([...versions.map(({ data }) => data.image!), ...run]);
}

function parse({ metadata, data }: ConfigMap): Version {
  return {
    name: metadata.name,
    id: data.id!,
    image: data.image!,
    commit: data.commit || undefined,
    verified: data.verified || undefined,
    manifests: JSON.parse(data.manifests!),
  };
}

function configMap(
  { service }: Api,
  { name, id, image, commit = "", verified = "", manifests }: Version,
): ConfigMap {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name,
      namespace: service.namespace,
      labels: { "app.kubernetes.io/name": service.name, ...COMPONENT, "app.kubernetes.io/version": id },
    },
    data: { id, image, commit, verified, manifests: JSON.stringify(manifests) },
  };
}

/** Keeps a version, or what is new about one that is kept. */
export async function keep(api: Api, version: Version): Promise<void> {
  await api.apply(configMap(api, version));
}

export async function forget(api: Api, version: Version): Promise<void> {
  await api.delete(configMap(api, version));
}

/**
 * The time of a proof that is made now: later than every other one, whatever this machine's clock says. Which version was
 * proven last is what a rollback goes by, and the one before may have been proven by another machine.
 */
export function proofTime(versions: Version[]): string {
  const others = versions.map(({ verified }) => (verified ? Date.parse(verified) : 0));
  return new Date(Math.max(Date.now(), ...others.map((time) => time + 1))).toISOString();
}

/**
 * The version to go back to: the one that was proven last, other than `from`.
 *
 * @param id a certain one
 */
export function earlier(
  versions: Version[],
  from: (version: Version) => boolean,
  id?: string,
): Version | undefined {
  return versions.find((version) => version.verified && (id ? version.id === id : !from(version)));
}

/** Versions that nothing needs any more: those never proven, and the oldest beyond `count`. */
export function superfluous(versions: Version[], current: Version, count: number): Version[] {
  const others = versions.filter(({ name }) => name !== current.name);
  const proven = others.filter(({ verified }) => verified);
  return [...others.filter(({ verified }) => !verified), ...proven.slice(count - 1)];
}
