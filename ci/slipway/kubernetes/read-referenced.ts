/** Reads the objects in the cluster that manifests name and do not contain. */
import { ApiError } from "./api-error.ts";
import type { ApiClient } from "./api.ts";
import type { KubeObject } from "./objects.ts";
import { CREATED_BY } from "./prepare-for-apply.ts";
import { isClusterScoped, type ObjectReference } from "./references.ts";

const collections: Record<ObjectReference["kind"], [group: string, resource: string]> = {
  ConfigMap: ["/api/v1", "configmaps"],
  Secret: ["/api/v1", "secrets"],
  ServiceAccount: ["/api/v1", "serviceaccounts"],
  PersistentVolumeClaim: ["/api/v1", "persistentvolumeclaims"],
  PriorityClass: ["/apis/scheduling.k8s.io/v1", "priorityclasses"],
  RuntimeClass: ["/apis/node.k8s.io/v1", "runtimeclasses"],
};

/** What is known of an object in the cluster. */
interface LiveObject {
  /** Names of its keys, never the values. */
  keys: Set<string>;
  /** The pipeline that created it, if one did. */
  creator: string | undefined;
}

/** Finds an object by its reference. null: it does not exist. undefined: the user may not read it. */
export type FindLive = (reference: ObjectReference) => LiveObject | null | undefined;

/** Reads the objects of references, each once. */
export async function readReferenced(api: ApiClient, references: ObjectReference[]): Promise<FindLive> {
  const wanted = new Map(references.map((reference) => [pathOf(api, reference), reference]));
  const found = new Map(
    await Promise.all(
      [...wanted].map(async ([path, reference]) => [path, await readKeys(api, path, reference)] as const),
    ),
  );
  return (reference) => found.get(pathOf(api, reference));
}

function pathOf({ service }: ApiClient, { from, kind, name }: ObjectReference): string {
  const [group, resource] = collections[kind];
  const { namespace = service.namespace } = from.metadata;
  return isClusterScoped(kind)
    ? `${group}/${resource}/${name}`
    : `${group}/namespaces/${namespace}/${resource}/${name}`;
}

async function readKeys(api: ApiClient, path: string, { kind, name }: ObjectReference): Promise<ReturnType<FindLive>> {
  const collection = path.slice(0, path.lastIndexOf("/"));
  // A deployer may list Secrets, for the release history, but not get them.
  const reading =
    kind === "Secret"
      ? api.list<KubeObject>(collection, { fieldSelector: `metadata.name=${name}` })
      : api.find<KubeObject>(path).then((object) => (object ? [object] : []));
  try {
    const object = (await reading).find(({ metadata }) => metadata.name === name);
    return object ? { keys: new Set(keysOf(object)), creator: object.metadata.annotations?.[CREATED_BY] } : null;
  } catch (error) {
    if (error instanceof ApiError && error.status === 403) return undefined;
    throw error;
  }
}

/** Returns the names of the keys of a ConfigMap or Secret. */
export function keysOf(object: KubeObject): string[] {
  const { data, stringData, binaryData } = object as KubeObject & Record<string, object | null | undefined>;
  return [data, stringData, binaryData].flatMap((values) => Object.keys(values ?? {}));
}
