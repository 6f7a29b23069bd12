/**
 * Deploys to any cluster through a registry: several nodes, managed clusters, k3s's embedded registry. The image is pushed
 * under its ID as the tag and deployed by its digest, so that the cluster runs exactly the built image.
 *
 * A tag in the registry is not trusted. The ID can be computed from the source before anything is built, so anybody with
 * push permission could otherwise decide what runs. A deploy compares the tagged image with the local build.
 */
import type { Service } from "../core/resolve-service.ts";
import { sbomPathFor } from "../image/sbom.ts";
import { CONNECT_RETRY_SECONDS, CONNECT_TIMEOUT_SECONDS } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/kubectl-proxy.ts";
import { checkArchive } from "./check-archive.ts";
import { proxyEndpoint } from "./service-endpoint.ts";
import { joinUrl } from "./service-url.ts";
import { compareWithRemote, resolveDigest, pushImage } from "../registry/push.ts";
import type { Target } from "../deploy/target.ts";

export interface RegistryTargetOptions {
  service: Service;
  /** Default: kubectl's own ($KUBECONFIG or ~/.kube/config). */
  kubeconfig?: string | undefined;
  context: string;
  /** Image repository, `HOST/PATH` without a tag. */
  repository: string;
  /** External base URL of the service. Default: requests go through the API server's proxy. */
  url?: string | undefined;
  signal: AbortSignal;
  /** Opens the connection to the API server. Default: `connectApi`. */
  connect?: typeof connectApi;
}

export interface RegistryTarget extends Target {
  /**
   * Compares the image that is tagged with an ID to a local archive. Afterwards, find() only returns an identical image for
   * this ID.
   *
   * @returns whether both are identical. undefined: the tag does not exist
   * @throws {PipelineError} "environment" if the registry is unreachable
   */
  compare(archive: string, id: string): Promise<boolean | undefined>;
}

export function isRegistryTarget(target: Target): target is RegistryTarget {
  return "compare" in target;
}

/** @throws {PipelineError} "environment" if kubectl or the context is missing, or the API server cannot be used */
export async function connectRegistryTarget(options: RegistryTargetOptions): Promise<RegistryTarget> {
  const { service, kubeconfig, context, repository, url, signal, connect = connectApi } = options;
  const kubectl = ["kubectl", ...(kubeconfig ? [`--kubeconfig=${kubeconfig}`] : []), `--context=${context}`];
  const api = await connect({ service, kubectl, signal });
  try {
    await api.json("/version", {
      timeoutSeconds: CONNECT_TIMEOUT_SECONDS,
      retryBudgetSeconds: CONNECT_RETRY_SECONDS,
    });
  } catch (error) {
    await api.close();
    throw error;
  }
  const tagOf = (id: string) => `${repository}:${id}`;
  const pinnedTo = (digest: string) => `${repository}@${digest}`;
  /** Digest of the compared or pushed image by ID. undefined: the tag is missing or refers to another image. */
  const verifiedDigests = new Map<string, string | undefined>();
  return {
    api,
    kubectl,
    overlay: service.overlays.registry,
    endpoint: (manifests) =>
      url ? { url: joinUrl(url, service.versionPath) } : proxyEndpoint(api, service, manifests),

    async find(id) {
      const digest = await resolveDigest(tagOf(id), { signal });
      const isMismatch = verifiedDigests.has(id) && verifiedDigests.get(id) !== digest;
      return digest && !isMismatch ? pinnedTo(digest) : undefined;
    },

    async compare(archive, id) {
      const found = await compareWithRemote(archive, tagOf(id), { signal });
      verifiedDigests.set(id, found?.same ? found.digest : undefined);
      return found?.same;
    },

    async deliver(archive, id) {
      await checkArchive(archive, `${service.name}:${id}`);
      const digest = await pushImage(archive, tagOf(id), { signal, sbom: sbomPathFor(archive) });
      verifiedDigests.set(id, digest);
      return pinnedTo(digest);
    },

    // The registry's own retention policy decides.
    clean: async () => [],
  };
}
