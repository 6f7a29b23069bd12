/**
 * A target is where images and versions go: the k3s of this machine (k3s.ts), one on other machines (hosts.ts), or a cluster and
 * the registry that it pulls from (registry.ts), all in targets/. The deploy itself is the same for all.
 */
import type { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import type { ManifestSource } from "../kubernetes/render.ts";
import type { Endpoint } from "./verify.ts";

export interface Target extends ManifestSource {
  api: ApiClient;
  /** @throws {PipelineError} "environment" when pods of these manifests could run where no image is brought */
  admit?(manifests: KubeObject[]): void;
  /** Names of the nodes that could run pods of these manifests and lack the image of an id; default: none. */
  lacking?(manifests: KubeObject[], id: string): Promise<string[]>;
  /** How the manifests name the image of an id, when it is where pods can take it from; undefined when not. */
  find(id: string): Promise<string | undefined>;
  /**
   * Brings an archive to where pods can take it from.
   *
   * @param show is told, again and again, how far it is, and in the end what it came to
   * @returns how the manifests name it
   * @throws {PipelineError} "environment"; nothing was rolled out then
   */
  deliver(archive: string, id: string, show?: (text: string) => void): Promise<string>;
  /** Where the Service of these manifests answers from outside. */
  endpoint(manifests: KubeObject[]): Endpoint;
  /** Removes images of the service that are none of the kept ones. @returns the names of those removed */
  clean(kept: () => Promise<Set<string>>): Promise<string[]>;
}
