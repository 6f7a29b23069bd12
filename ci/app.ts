/** What the pipeline has to know of the service that it deploys. To carry another one, this is what changes. */
export const app = {
  /** Name of the Deployment, the Service and the image; also the value of the label app.kubernetes.io/name. */
  name: "helloapp",
  namespace: "helloapp",
  /** The kustomize overlay that is applied to k3s. */
  overlay: "k8s/overlays/k3s",
  /** Path that answers with JSON whose `id` is the build's. */
  versionPath: "/version",
};
