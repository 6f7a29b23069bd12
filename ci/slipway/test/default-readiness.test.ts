/** The readiness probe of a container that has none. */
import { expect, test } from "bun:test";
import type { KubeObject } from "../kubernetes/objects.ts";
import { withVersion } from "../kubernetes/render.ts";
import { service } from "./helloapp-service.ts";

const labels = { app: "shop" };
const workloadOf = (container: object, kind = "Deployment", more: object[] = []) =>
  ({
    apiVersion: "apps/v1",
    kind,
    metadata: { name: "shop" },
    spec: { template: { metadata: { labels }, spec: { containers: [{ name: "web", ...container }, ...more] } } },
  }) as unknown as KubeObject;
const serviceOf = (port: object) =>
  ({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "shop" },
    spec: { selector: labels, ports: [port] },
  }) as never;
/** A container port names the port that serves the version. */
const own = { image: service.name, ports: [{ containerPort: service.port }] };
const worker = { image: service.name };

/** Returns the readiness probes of the last object's containers. */
function probesOf(...objects: KubeObject[]): unknown[] {
  const { spec } = withVersion(service, objects, "abc", "helloapp:abc").at(-1) as any;
  return spec.template.spec.containers.map(({ readinessProbe }: { readinessProbe?: unknown }) => readinessProbe);
}

test.each(["Deployment", "StatefulSet", "DaemonSet"])("a %s without a probe asks the service's port", (kind) => {
  expect(probesOf(workloadOf(own, kind))).toEqual([{ tcpSocket: { port: service.port }, periodSeconds: 1 }]);
});

test.each([
  ["PORT", { ...own, env: [{ name: "PORT", value: "5000" }] }, [], 5000],
  [
    "the port that the Service leads to",
    { ...own, ports: [{ name: "web", containerPort: 8000 }] },
    [{ port: 80, targetPort: "web" }],
    8000,
  ],
])("the probe asks %s", (_, container, ports, port) => {
  expect(probesOf(...ports.map(serviceOf), workloadOf(container))).toEqual([{ tcpSocket: { port }, periodSeconds: 1 }]);
});

const times = (...objects: KubeObject[]) =>
  withVersion(service, objects, "abc", "helloapp:abc").map(({ spec }: any) => spec.minReadySeconds);

test.each(["Deployment", "StatefulSet", "DaemonSet"])("a worker in a %s has no port to ask, and stays up", (kind) => {
  expect(probesOf(workloadOf(worker, kind))).toEqual([undefined]);
  expect(times(workloadOf(worker, kind))).toEqual([5]);
});

test("a worker keeps its probe and its own time, and other ports are not asked", () => {
  const probe = { exec: { command: ["/ready"] } };
  expect(probesOf(workloadOf({ ...worker, readinessProbe: probe }))).toEqual([probe]);
  expect(times(workloadOf({ ...worker, readinessProbe: probe }))).toEqual([undefined]);
  const patient = workloadOf(worker) as any;
  patient.spec.minReadySeconds = 0;
  expect(times(patient)).toEqual([0]);
  const metrics = { ...worker, ports: [{ name: "metrics", containerPort: 9090 }] };
  expect(probesOf(workloadOf(metrics))).toEqual([undefined]);
  expect(times(workloadOf(own))).toEqual([undefined]);
});

test("the setting `port` says that the service has one", () => {
  const [workload] = withVersion({ ...service, port: 3000, isPortSet: true }, [workloadOf(worker)], "abc", "x") as any;
  expect(workload.spec.template.spec.containers[0].readinessProbe.tcpSocket.port).toBe(3000);
});

test("a readiness or startup probe of the manifests, and other containers stay", () => {
  const probe = { httpGet: { path: "/", port: 8080 } };
  expect(probesOf(workloadOf({ ...own, readinessProbe: probe }))).toEqual([probe]);
  expect(probesOf(workloadOf({ ...own, startupProbe: probe }))).toEqual([undefined]);
  const probes = probesOf(workloadOf({ image: "nginx" }, "Deployment", [{ name: "app", ...own }]));
  expect(probes).toEqual([undefined, expect.objectContaining({ periodSeconds: 1 })]);
});

test("other workloads and the rendered manifests stay as they are", () => {
  const [main, worker] = [workloadOf(own), { ...workloadOf(own), metadata: { name: "worker" } }];
  expect(probesOf(main, worker)).toEqual([undefined]);
  expect(JSON.stringify(main)).not.toContain("readinessProbe");
});
