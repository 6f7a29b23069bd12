/**
 * Any cluster, by a registry that it pulls from: several nodes, managed clusters, k3s's embedded registry. The image is
 * pushed under its id and deployed by its digest, so that what was built is what runs.
 */
import type { Service } from "../ground/service.ts";
import { sbomBeside } from "../image/sbom.ts";
import { FIRST_PATIENCE_SECONDS, FIRST_SECONDS } from "../cluster/api.ts";
import { connectApi } from "../cluster/connect.ts";
import { checkArchive } from "./check.ts";
import { below } from "./url.ts";
import { digestUnder, push } from "../registry/push.ts";
import type { Target } from "../cluster/target.ts";

export interface ClusterOptions {
  service: Service;
  /** Default: kubectl's own, $KUBECONFIG or ~/.kube/config. */
  kubeconfig?: string | undefined;
  context: string;
  /** Where the image is pushed, `HOST/PATH` without a tag. */
  repository: string;
  /** Where the Service answers from outside; default: it is asked through the API server, which always can. */
  url?: string | undefined;
  signal: AbortSignal;
}

/** @throws {PipelineError} "surroundings": no kubectl, no such context, no answer, no rights */
export async function connectCluster(options: ClusterOptions): Promise<Target> {
  const { service, kubeconfig, context, repository, url, signal } = options;
  const kubectl = ["kubectl", ...(kubeconfig ? [`--kubeconfig=${kubeconfig}`] : []), `--context=${context}`];
  const api = await connectApi({ service, kubectl, signal });
  try {
    await api.json("/version", { timeoutSeconds: FIRST_SECONDS, patienceSeconds: FIRST_PATIENCE_SECONDS });
  } catch (error) {
    await api.close();
    throw error;
  }
  const reference = (id: string) => `${repository}:${id}`;
  const byDigest = (digest: string) => `${repository}@${digest}`;
  const path = api.collection("/api/v1", `services/${service.name}:http/proxy${service.versionPath}`);
  return {
    api,
    kubectl,
    overlay: service.overlays.registry,
    endpoint: () =>
      url
        ? { url: below(url, service.versionPath) }
        : { url: `the API server's ${path}`, open: (init) => api.open(path, init) },

    async find(id) {
      const digest = await digestUnder(reference(id), { signal });
      return digest && byDigest(digest);
    },

    async deliver(archive, id) {
      await checkArchive(archive, `${service.name}:${id}`);
      return byDigest(await push(archive, reference(id), { signal, sbom: sbomBeside(archive) }));
    },

    // How long a registry keeps what is the registry's to say.
    clean: async () => [],
  };
}
