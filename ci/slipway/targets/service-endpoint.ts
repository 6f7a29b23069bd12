/** Reaches the deployed service without a node port: through the API server's proxy, to its Service or to its pods. */
import type { Service } from "../core/resolve-service.ts";
import type { Endpoint } from "../deploy/verify-from-outside.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { objectName, type KubeObject, type Pod } from "../kubernetes/objects.ts";
import { configuredPort, findServicePort, isWorker, sortWorkloads } from "../kubernetes/service-port.ts";
import { isReady, observeWorkloads, selectorText } from "../kubernetes/workload-state.ts";

/**
 * Returns the endpoint of the manifests' Service, or of the pods if no Service leads to them. The pods of a worker
 * are observed.
 * https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/
 */
export function proxyEndpoint(api: ApiClient, service: Service, manifests: KubeObject[]): Endpoint {
  if (isWorker(service, manifests)) {
    const workloads = sortWorkloads(service, manifests);
    return { url: objectName(workloads[0]!), observe: () => observeWorkloads(api, workloads) };
  }
  const found = findServicePort(service, manifests);
  if (!found) return podEndpoint(api, service, manifests);
  const path = api.collection("/api/v1", `services/${found.service}:${found.port}/proxy${service.versionPath}`);
  return { url: `the API server's ${path}`, open: (init) => api.open(path, init) };
}

/** Requests a ready pod, another one each time. */
function podEndpoint(api: ApiClient, service: Service, manifests: KubeObject[]): Endpoint {
  const [workload] = sortWorkloads(service, manifests);
  const port = configuredPort(service, workload?.spec?.template);
  const pods = api.collection("/api/v1", "pods");
  const labelSelector = selectorText(workload?.spec?.selector) ?? api.selector;
  let next = 0;
  return {
    url: `the API server's ${pods}/*:${port}/proxy${service.versionPath}`,
    async open(init) {
      const ready = (await api.list<Pod>(pods, { labelSelector })).filter(
        (pod) => isReady(pod) && !pod.metadata.deletionTimestamp,
      );
      const pod = ready[next++ % Math.max(ready.length, 1)];
      if (!pod) throw new Error("no pod is ready");
      return api.open(`${pods}/${pod.metadata.name}:${port}/proxy${service.versionPath}`, init);
    },
  };
}
