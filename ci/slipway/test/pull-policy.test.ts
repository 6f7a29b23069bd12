/** Pods of an imported image never ask a registry for it, in whatever object and container they are. */
import { expect, test } from "bun:test";
import type { KubeObject } from "../kubernetes/objects.ts";
import { containersOf, podTemplates } from "../kubernetes/pod-templates.ts";
import { withVersion } from "../kubernetes/render.ts";
import { service } from "./helloapp-service.ts";

const template = () => ({
  spec: {
    initContainers: [
      { name: "migrate", image: "helloapp" },
      { name: "sidecar", image: "envoyproxy/envoy:v1.30", restartPolicy: "Always" },
    ],
    containers: [
      { name: "proxy", image: "caddy:2", imagePullPolicy: "IfNotPresent" },
      { name: "helloapp", image: "helloapp", imagePullPolicy: "Always" },
      { name: "worker", image: "helloapp" },
    ],
  },
});
const object = (kind: string, spec: object) => ({ kind, metadata: { name: kind }, spec }) as unknown as KubeObject;
const objects = [
  ...["Deployment", "StatefulSet", "DaemonSet", "Job"].map((kind) => object(kind, { template: template() })),
  object("CronJob", { jobTemplate: { spec: { template: template() } } }),
  object("Pod", template().spec),
];

test.each(objects.map((one) => [one.kind, one] as const))("%s", (_, one) => {
  const policies = (isImported: boolean) =>
    withVersion(service, [one], "abc", "helloapp:abc", isImported)
      .flatMap(podTemplates)
      .flatMap(containersOf)
      .map(({ name, imagePullPolicy }) => `${name} ${imagePullPolicy}`);
  const others = ["proxy IfNotPresent", "sidecar undefined"];
  expect(policies(true).sort()).toEqual(["helloapp Never", "migrate Never", "worker Never", ...others].sort());
  expect(policies(false).sort()).toEqual(
    ["helloapp Always", "migrate undefined", "worker undefined", ...others].sort(),
  );
});
