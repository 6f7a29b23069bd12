/** Manifests that were written for other ways of deploying: taken as they are, or refused with object and field. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assertArchitecture } from "../cli/connect-target.ts";
import type { Options } from "../cli/options.ts";
import { describeEnd } from "../deploy/container-exit.ts";
import { isStaleFailure } from "../deploy/stale-failures.ts";
import { assessWorkload } from "../deploy/rollout-status.ts";
import type { Target } from "../deploy/target.ts";
import { assertSuitable } from "../deploy/manifest-checks.ts";
import type { CheckInput } from "../deploy/manifest-problem.ts";
import { PipelineError } from "../core/errors.ts";
import type { KubeObject, Pod } from "../kubernetes/objects.ts";
import { prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { adoptServiceImage, renamedImages } from "../kubernetes/service-images.ts";
import { findServicePort, sortWorkloads } from "../kubernetes/service-port.ts";
import { selectorText, type WorkloadState } from "../kubernetes/workload-state.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

const labels = { app: "helloapp" };
const container = { name: "helloapp", image: "helloapp", ports: [{ name: "web", containerPort: 8080 }] };
const workload = (spec: object = {}, parts: object = {}, name = "helloapp", kind = "Deployment") =>
  ({
    apiVersion: "apps/v1",
    kind,
    metadata: { name },
    spec: {
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ ...container, ...parts }] } },
      ...spec,
    },
  }) as unknown as KubeObject;
const serviceOf = (ports: object[], spec: object = {}, name = "helloapp") =>
  ({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name },
    spec: { selector: labels, ports, ...spec },
  }) as unknown as KubeObject;
const policy = (egress: object[]) =>
  ({
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: { name: "out" },
    spec: { egress },
  }) as unknown as KubeObject;
const web = serviceOf([{ port: 80, targetPort: "web" }]);
const existing = { apiVersion: "v1", kind: "Namespace", metadata: { name: "helloapp" } };

function check(manifests: KubeObject[], more: Partial<CheckInput> = {}): PipelineError | undefined {
  const input = {
    service,
    overlay: "k8s",
    manifests,
    namespace: existing,
    hasNamespace: () => false,
    findLive: () => null,
    isImported: false,
    wasVerified: false,
  };
  try {
    assertSuitable({ ...input, ...more });
    return undefined;
  } catch (error) {
    return error as PipelineError;
  }
}

test.each([
  ["paused", [workload({ paused: true }), web], "Deployment/helloapp spec.paused:"],
  [
    "OnDelete",
    [workload({ updateStrategy: { type: "OnDelete" } }, {}, "helloapp", "StatefulSet")],
    "StatefulSet/helloapp spec.updateStrategy.type:",
  ],
  [
    "partition",
    [workload({ updateStrategy: { rollingUpdate: { partition: 1 } } }, {}, "helloapp", "StatefulSet")],
    "rollingUpdate.partition: pods below 1",
  ],
  [
    "another image",
    [workload({}, { image: "nginx:1" }), web],
    "Deployment/helloapp spec.template.spec.containers[0].image: nginx:1 is not",
  ],
  ["no workload", [web], "k8s: there is no Deployment"],
  [
    "another namespace",
    [{ ...workload(), metadata: { name: "helloapp", namespace: "shop" } }],
    "Deployment/helloapp metadata.namespace: shop is not",
  ],
  [
    "no such port name",
    [workload(), serviceOf([{ port: 80, targetPort: "http" }])],
    "Service/helloapp spec.ports[0].targetPort: no container has a port http",
  ],
  [
    "no such port number",
    [workload(), serviceOf([{ port: 80, targetPort: 3000 }])],
    "spec.ports[0].targetPort: no container has the port 3000",
  ],
  [
    "containerPort is not PORT",
    [workload({}, { ports: [{ containerPort: 3000 }] }), serviceOf([{ port: 3000 }])],
    "ports[0].containerPort: the service gets PORT=8080, but containerPort is 3000",
  ],
  [
    "PORT is not containerPort",
    [workload({}, { env: [{ name: "PORT", value: "9000" }] }), web],
    "the service gets PORT=9000, but containerPort is 8080",
  ],
  [
    "an example address",
    [workload(), web, policy([{ to: [{ ipBlock: { cidr: "203.0.113.10/32" } }] }])],
    "NetworkPolicy/out spec.egress[0].to[0].ipBlock.cidr: 203.0.113.10/32",
  ],
  [
    "another example address",
    [workload(), web, policy([{}, { to: [{ ipBlock: { cidr: "198.51.100.0/24" } }] }])],
    "spec.egress[1].to[0].ipBlock.cidr",
  ],
  [
    "the example namespace",
    [
      workload(),
      web,
      policy([{ to: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "database" } } }] }]),
    ],
    "spec.egress[0].to[0].namespaceSelector: the example namespace database",
  ],
])("%s is refused with object and field", (_, manifests, message) => {
  const error = check(manifests)!;
  expect(error).toMatchObject({ kind: "project", code: "manifests-unsuitable" });
  expect(error.message).toContain(message);
  expect(error.message).toEndWith("Nothing was changed");
  expect(error.hint).toEndWith(".");
});

test("a namespace that is being deleted, or missing, is the environment's fault", () => {
  const deleted = { ...existing, metadata: { name: "helloapp", deletionTimestamp: "2026-01-01T00:00:00Z" } };
  expect(check([workload(), web], { namespace: deleted })).toMatchObject({
    kind: "environment",
    code: "namespace-terminating",
  });
  expect(check([workload(), web], { namespace: null })).toMatchObject({
    kind: "environment",
    code: "namespace-not-found",
  });
  expect(check([existing, workload(), web], { namespace: null })).toBeUndefined();
  expect(check([workload(), web], { namespace: undefined })).toBeUndefined();
});

test("clear manifests are taken: no pods, a verified fixed port, a prefix, labels of their own, an existing database", () => {
  const fixed = [workload({}, { ports: [{ containerPort: 3000 }] }), serviceOf([{ port: 3000 }])];
  expect(check([workload({ replicas: 0 }), web])).toBeUndefined();
  expect(check(fixed, { wasVerified: true })).toBeUndefined();
  expect(
    check([workload({}, {}, "prod-helloapp"), serviceOf([{ port: 80, targetPort: 8080 }], {}, "prod-helloapp")]),
  ).toBeUndefined();
  expect(check([workload()])).toBeUndefined();
  const database = policy([
    { to: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "database" } } }] },
  ]);
  expect(check([workload(), web, database], { hasNamespace: () => true })).toBeUndefined();
});

const imageAfter = (image: string, renamed: string[] = [], other?: string) => {
  const sidecar = other ? [{ name: "other", image: other }] : [];
  const object = workload({ template: { spec: { containers: [{ ...container, image }, ...sidecar] } } });
  const [adopted] = adoptServiceImage("helloapp", [object], new Set(renamed));
  return (adopted as any).spec.template.spec.containers.map((one: { image: string }) => one.image);
};

test("any tag, digest or registry of the image's name is the built image", () => {
  for (const image of [
    "helloapp",
    "helloapp:latest",
    "ghcr.io/me/helloapp:1.2",
    "localhost:5000/helloapp",
    "x/helloapp@sha256:ab",
  ])
    expect(imageAfter(image)).toEqual(["helloapp"]);
  expect(imageAfter("ghcr.io/me/shop:v1", ["ghcr.io/me/shop"])).toEqual(["helloapp"]);
  expect(imageAfter("nginx:1")).toEqual(["nginx:1"]);
  expect(imageAfter("helloapp-worker:1")).toEqual(["helloapp-worker:1"]);
  // A namesake of somebody else beside the service's own image.
  expect(imageAfter("helloapp:1", [], "ghcr.io/other/helloapp:7")).toEqual(["helloapp", "ghcr.io/other/helloapp:7"]);
  // Two repositories: neither is clear.
  expect(imageAfter("a/helloapp", [], "b/helloapp")).toEqual(["a/helloapp", "b/helloapp"]);
});

test("kustomize's images: of a base rename the image", () => {
  const directory = mkdtempSync(join(tmpdir(), "sb-kustomize-"));
  for (const name of ["base", "overlay"]) mkdirSync(join(directory, name));
  writeFileSync(join(directory, "base/kustomization.yaml"), "images: [{ name: helloapp, newName: ghcr.io/me/shop }]\n");
  writeFileSync(join(directory, "overlay/kustomization.yml"), "resources: [../base]\n");
  expect([...renamedImages("helloapp", join(directory, "overlay"))]).toEqual(["ghcr.io/me/shop"]);
});

test("the Service port that leads to PORT answers, whatever its name, place and type", () => {
  const deployment = workload();
  const find = (...services: KubeObject[]) => findServicePort(service, [deployment, ...services]);
  expect(
    find(
      serviceOf([
        { name: "metrics", port: 9090, targetPort: 9090 },
        { name: "api", port: 80, targetPort: "web" },
      ]),
    ),
  ).toMatchObject({ port: "api" });
  expect(find(serviceOf([{ port: 80, targetPort: 8080 }], { type: "LoadBalancer" }, "front"))).toMatchObject({
    service: "front",
    port: "80",
    nodePort: undefined,
  });
  expect(find(web, serviceOf([{ port: 80, targetPort: 8080, nodePort: 31200 }], {}, "public"))).toMatchObject({
    nodePort: 31200,
  });
  expect(find()).toBeUndefined();
  expect(find(serviceOf([{ port: 80 }], { selector: { app: "other" } }, "other"))).toBeUndefined();
});

test("the workload with a prefixed name is the main one, and its own selector finds its pods", () => {
  const worker = workload({}, { image: "worker" }, "a-worker");
  expect(sortWorkloads(service, [worker, workload({}, {}, "prod-helloapp")])[0]!.metadata.name).toBe("prod-helloapp");
  expect(selectorText({ matchLabels: labels })).toBe("app=helloapp");
  expect(
    selectorText({
      matchExpressions: [
        { key: "a", operator: "In", values: ["b", "c"] },
        { key: "d", operator: "Exists" },
      ],
    }),
  ).toBe("a in (b,c),d");
  expect(selectorText({})).toBeUndefined();
});

test("a label that names another service of the namespace is left to that service, another label is refused", async () => {
  const cluster = new FakeCluster();
  const live: KubeObject = {
    ...existing,
    metadata: {
      name: "helloapp",
      annotations: { "slipway/created-by": "blog" },
      labels: { "app.kubernetes.io/name": "blog", "pod-security.kubernetes.io/enforce": "restricted" },
      managedFields: [
        {
          manager: "blog-pipeline",
          fieldsV1: {
            "f:metadata": {
              "f:labels": { "f:app.kubernetes.io/name": {}, "f:pod-security.kubernetes.io/enforce": {} },
            },
          },
        },
      ],
    },
  };
  cluster.objects.set("/api/v1/namespaces/helloapp", live);
  const own = {
    ...existing,
    metadata: { name: "helloapp", labels: { "app.kubernetes.io/name": "helloapp", tier: "web" } },
  };
  const [prepared] = await prepareForApply(cluster.api(), [own]);
  expect(prepared!.object.metadata).toEqual({ name: "helloapp", labels: { tier: "web" } });
  expect(check([own, workload(), web], { namespace: live })).toBeUndefined();
  const other = {
    ...existing,
    metadata: { name: "helloapp", labels: { "pod-security.kubernetes.io/enforce": "baseline" } },
  };
  expect(check([other, workload(), web], { namespace: live })).toMatchObject({
    kind: "project",
    code: "namespace-shared",
  });
});

test("an image for another architecture than the node's is refused at plan", () => {
  const target = { architectures: ["amd64"] } as unknown as Target;
  const check = (architecture: "amd64" | "arm64") =>
    assertArchitecture({ options: { architectures: [architecture] } as unknown as Options }, target);
  expect(() => check("arm64")).toThrow("the image is for arm64, but the node is amd64. Nothing was changed");
  expect(() => check("amd64")).not.toThrow();
  expect(() => assertArchitecture({ options: {} as Options }, {} as Target)).not.toThrow();
});

test("the end of a container names the memory limit, and a claim that binds late is waited for", () => {
  const spec = { containers: [{ name: "web", image: "x", resources: { limits: { memory: "256Mi" } } }] };
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "web-0", ownerReferences: [{ kind: "ReplicaSet", name: "web" }] },
    spec,
    status: {},
  } as unknown as Pod;
  const killed = { exitCode: 137, reason: "OOMKilled" };
  expect(describeEnd("exits", killed, pod, "web")).toBe("exceeds its memory limit of 256Mi (OOMKilled)");
  expect(describeEnd("exited", killed, pod, "other")).toBe("exceeded the node's memory (OOMKilled)");
  expect(describeEnd("exits", { exitCode: 3 }, pod, "web")).toBe("exits with 3");
  const message = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
  pod.status.conditions = [{ type: "PodScheduled", status: "False", reason: "Unschedulable", message }];
  const deployment = { kind: "Deployment", metadata: { name: "web" }, spec: { replicas: 1, template: {} }, status: {} };
  const replicaSets = [{ metadata: { name: "web" }, spec: { template: {} } }];
  const seen = { deployment, replicaSets, pods: [pod] } as unknown as WorkloadState;
  const graceOf = () =>
    (assessWorkload(seen, service) as { suspected: { graceSeconds: number }[] }).suspected[0]!.graceSeconds;
  expect(graceOf()).toBe(60);
  pod.status.conditions[0]!.message = "0/1 nodes are available: 1 Insufficient cpu.";
  expect(graceOf()).toBe(service.scheduleTimeoutSeconds);
});

test("a failure from before the rollout is not judged again until a container restarts, or 30 s are over", () => {
  const pod = (restartCount: number) => ({
    metadata: { name: "web-0", ownerReferences: [{ kind: "ReplicaSet", name: "web" }] },
    status: { containerStatuses: [{ name: "web", ready: false, restartCount }] },
  });
  const stateWith = (restarts: number) =>
    ({
      deployment: { kind: "Deployment", metadata: { name: "web" }, spec: { template: {} }, status: {} },
      replicaSets: [{ metadata: { name: "web" }, spec: { template: {} } }],
      pods: [pod(restarts)],
    }) as unknown as WorkloadState;
  const verdict = { state: "failed", reason: "CreateContainerConfigError", message: "", pod: "web-0" } as const;
  expect(isStaleFailure(verdict, [stateWith(0)], [stateWith(0)], 1)).toBe(true);
  expect(isStaleFailure(verdict, [stateWith(0)], [stateWith(1)], 1)).toBe(false);
  expect(isStaleFailure(verdict, [stateWith(0)], [stateWith(0)], 31)).toBe(false);
  expect(isStaleFailure(verdict, [], [stateWith(0)], 1)).toBe(false);
});
