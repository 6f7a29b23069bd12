/**
 * A target is where images and versions go: the k3s of this machine (k3s.ts), or a cluster and the registry that it pulls
 * from (registry.ts), both in targets/. The deploy itself is the same for both.
 */
import type { Api } from "./api.ts";
import type { KubeObject } from "./objects.ts";
import type { Endpoint } from "./verify.ts";

export interface Target {
  api: Api;
  /** kubectl as a person would type it for this cluster, for the line to run next. */
  kubectl: string[];
  /** The overlay that is applied here. */
  overlay: string;
  /** How the manifests name the image of an id, when it is where pods can take it from; undefined when not. */
  find(id: string): Promise<string | undefined>;
  /**
   * Brings an archive to where pods can take it from.
   *
   * @returns how the manifests name it
   * @throws {PipelineError} "surroundings"; nothing was rolled out then
   */
  deliver(archive: string, id: string): Promise<string>;
  /** Where the Service of these manifests answers from outside. */
  endpoint(manifests: KubeObject[]): Endpoint;
  /** Removes images of the service that are none of the kept ones. @returns the names of those removed */
  clean(kept: () => Promise<Set<string>>): Promise<string[]>;
}
