/** A contradiction in the manifests, and the state of the cluster that the checks compare with. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import type { FindLive } from "../kubernetes/read-referenced.ts";

export interface CheckInput {
  service: Service;
  /** Path of the overlay, for messages. */
  overlay: string;
  manifests: KubeObject[];
  /** The service's namespace in the cluster. null: it does not exist. undefined: the user may not read it. */
  namespace: KubeObject | null | undefined;
  /** Other namespaces that the manifests name, and whether they exist. */
  hasNamespace: (name: string) => boolean | undefined;
  /** Finds the object of a reference in the cluster. */
  findLive: FindLive;
  /** Whether the nodes have the service's image without a registry. */
  isImported: boolean;
  /** Whether a version was verified with this service's settings before. */
  wasVerified: boolean;
}

/** A contradiction in one field. */
export interface ManifestProblem {
  /** `Deployment/shop` */
  object: string;
  /** `spec.paused`. Empty for the object as a whole. */
  field: string;
  /** The problem and the remedy, each a sentence without its period. */
  problem: string;
  remedy: string;
}
