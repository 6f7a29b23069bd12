/**
 * What the pipeline has to know of the service that it deploys. To carry another one, this is what changes; README.md,
 * "A service of your own", lists what the service itself has to do.
 */
import packageJson from "../../package.json";

export const app = {
  /** Name of the Deployment, the Service and the image; also the value of the label app.kubernetes.io/name. */
  name: packageJson.name,
  namespace: "helloapp",
  /** The kustomize overlay for each target. */
  overlays: { k3s: "k8s/overlays/k3s", registry: "k8s/overlays/registry" },
  /** Path on the Service that answers with JSON whose `id` is the build's. */
  versionPath: "/version",
  /** Environment for the smoke test on the host, beside PORT. */
  smoke: { HOST: "127.0.0.1", ADMIN_PORT: "0", DRAIN_DELAY_SECONDS: "0" },
  /** Versions that the cluster keeps, the one that serves included: what `rollback` can go back to. */
  keep: 5,
  /** Seconds that a container may run without passing its readiness probe before its version counts as failed. */
  readySeconds: 6,
  /** Seconds that a pod may find no place while no other starts or leaves; more where a cluster adds nodes on demand. */
  scheduleSeconds: 4,
  /** Seconds that a whole rollout may take. */
  rolloutSeconds: 120,
};
