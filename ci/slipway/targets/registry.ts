/**
 * Any cluster, by a registry that it pulls from: several nodes, managed clusters, k3s's embedded registry. The image is
 * pushed under its id and deployed by its digest, so that what was built is what runs.
 *
 * What a registry has under an id is taken for nothing more than a claim: the id can be computed from the source before anything is
 * built, so whoever may push a tag could decide what runs. A deploy compares it with what is built here.
 */
import type { Service } from "../core/service-config.ts";
import { sbomPathFor } from "../image/sbom.ts";
import { CONNECT_RETRY_SECONDS, CONNECT_TIMEOUT_SECONDS } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/connect.ts";
import { checkArchive } from "./check-archive.ts";
import { joinUrl } from "./service-url.ts";
import { compareWithRemote, resolveDigest, pushImage } from "../registry/push.ts";
import type { Target } from "../deploy/target.ts";

export interface RegistryTargetOptions {
  service: Service;
  /** Default: kubectl's own, $KUBECONFIG or ~/.kube/config. */
  kubeconfig?: string | undefined;
  context: string;
  /** Where the image is pushed, `HOST/PATH` without a tag. */
  repository: string;
  /** Where the Service answers from outside; default: it is asked through the API server, which always can. */
  url?: string | undefined;
  signal: AbortSignal;
  /** Speaks to the cluster; default: `connectApi`. */
  connect?: typeof connectApi;
}

export interface RegistryTarget extends Target {
  /**
   * Compares what stands under an id with an archive that was built here. From then on find() knows of that id what is the same image,
   * and nothing else.
   *
   * @returns whether it is the same; undefined when there is nothing
   * @throws {PipelineError} "environment" when the registry cannot be asked
   */
  compare(archive: string, id: string): Promise<boolean | undefined>;
}

export function isRegistryTarget(target: Target): target is RegistryTarget {
  return "compare" in target;
}

/** @throws {PipelineError} "environment": no kubectl, no such context, no answer, no rights */
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
  const reference = (id: string) => `${repository}:${id}`;
  const byDigest = (digest: string) => `${repository}@${digest}`;
  const path = api.collection("/api/v1", `services/${service.name}:http/proxy${service.versionPath}`);
  /** What stands under an id and is the image that was built here; undefined: nothing does. */
  const compared = new Map<string, string | undefined>();
  return {
    api,
    kubectl,
    overlay: service.overlays.registry,
    endpoint: () =>
      url
        ? { url: joinUrl(url, service.versionPath) }
        : { url: `the API server's ${path}`, open: (init) => api.open(path, init) },

    async find(id) {
      const digest = await resolveDigest(reference(id), { signal });
      const isOther = compared.has(id) && compared.get(id) !== digest;
      return digest && !isOther ? byDigest(digest) : undefined;
    },

    async compare(archive, id) {
      const found = await compareWithRemote(archive, reference(id), { signal });
      compared.set(id, found?.same ? found.digest : undefined);
      return found?.same;
    },

    async deliver(archive, id) {
      await checkArchive(archive, `${service.name}:${id}`);
      const digest = await pushImage(archive, reference(id), { signal, sbom: sbomPathFor(archive) });
      compared.set(id, digest);
      return byDigest(digest);
    },

    // How long a registry keeps what is the registry's to say.
    clean: async () => [],
  };
}
