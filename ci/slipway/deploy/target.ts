/**
 * Interface of deploy targets: this machine's k3s (k3s.ts), k3s on other machines (ssh.ts), or a cluster with a
 * registry (registry.ts), all in targets/. The deploy is the same for all targets.
 */
import type { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import type { ManifestSource } from "../kubernetes/render.ts";
import type { Endpoint } from "./verify-from-outside.ts";

export interface Target extends ManifestSource {
  api: ApiClient;
  /** Whether the image is imported on the nodes, so that no pod pulls it. Default: false. */
  isImported?: boolean;
  /**
   * Checks that pods of these manifests run only on nodes that get the image.
   *
   * @throws {PipelineError} "environment" if not
   */
  admit?(manifests: KubeObject[]): void;
  /** Architectures of the nodes that get the image, in Go's names. Undefined if they are not known. */
  architectures?: string[];
  /** Returns the nodes that could run pods of these manifests but lack the image of an id. Default: none. */
  lacking?(manifests: KubeObject[], id: string): Promise<string[]>;
  /** Finds the image of an id. @returns its name in manifests, or undefined if pods cannot get it yet */
  find(id: string): Promise<string | undefined>;
  /**
   * Imports or pushes an image archive so that pods can use it.
   *
   * @param show called repeatedly with the progress, at the end with a summary
   * @returns the image's name in manifests
   * @throws {PipelineError} "environment". Nothing was rolled out then
   */
  deliver(archive: string, id: string, show?: (text: string) => void): Promise<string>;
  /** Returns the external endpoint of the manifests' Service. */
  endpoint(manifests: KubeObject[]): Endpoint;
  /** Removes the service's images except those to keep. @returns the names of the removed images */
  clean(kept: () => Promise<Set<string>>): Promise<string[]>;
}
