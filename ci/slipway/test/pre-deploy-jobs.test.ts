/** Jobs that run before the rollout get the objects that they name, and an undo takes these objects back. */
import { beforeEach, expect, test } from "bun:test";
import type { PipelineError } from "../core/errors.ts";
import { planDeploy, type DeployContext } from "../deploy/plan.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";
import { contextWith, deploy } from "./run-prepared-flow.ts";

const named = (kind: string, name: string, more: object = {}, apiVersion = "v1"): KubeObject =>
  ({ apiVersion, kind, metadata: { name, namespace: service.namespace }, ...more }) as KubeObject;
const labels = { "app.kubernetes.io/name": "helloapp" };
const workload = named(
  "Deployment",
  "helloapp",
  {
    spec: {
      replicas: 2,
      template: { metadata: { labels }, spec: { containers: [{ name: "helloapp", image: "helloapp" }] } },
    },
  },
  "apps/v1",
);
const base = [
  named("Namespace", service.namespace),
  named("Service", "helloapp", { spec: { ports: [{ port: 80, nodePort: 30080 }] } }),
  workload,
];
const pod = {
  serviceAccountName: "migrator",
  volumes: [{ persistentVolumeClaim: { claimName: "dump" } }, { configMap: { name: "sql", optional: true } }],
  initContainers: [{ name: "wait", image: "helloapp", envFrom: [{ secretRef: { name: "db" } }] }],
  containers: [
    {
      name: "migrate",
      image: "helloapp",
      env: [{ name: "LEVEL", valueFrom: { configMapKeyRef: { name: "settings", key: "level" } } }],
    },
  ],
};
function job(name: string, spec: object = pod): KubeObject {
  const one = named("Job", name, { spec: { template: { spec } } }, "batch/v1");
  one.metadata.annotations = { "slipway/pre-deploy": "true" };
  return one;
}
/** The objects of the overlay, in no order, and some that no Job names. */
const referenced = [
  named("Secret", "db", { stringData: { url: "x" } }),
  named("PersistentVolumeClaim", "dump", { spec: { storageClassName: "", volumeName: "v" } }),
  named("ConfigMap", "settings", { data: { level: "2" } }),
  named("ConfigMap", "unrelated", { data: { a: "1" } }),
  named("ConfigMap", "sql", { data: { a: "1" } }),
  named("ServiceAccount", "migrator"),
];

let cluster: FakeCluster;
let run: DeployContext;
/** Outcome of all Jobs. */
let outcome: "Complete" | "Failed";

beforeEach(() => {
  cluster = new FakeCluster();
  outcome = "Complete";
  cluster.intercept = (method, path) => {
    // The Job's controller.
    if (method === "GET" && /\/jobs\/./.test(path) && cluster.objects.has(path))
      Object.assign(cluster.get(path), { status: { conditions: [{ type: outcome, status: "True" }] } });
    return undefined;
  };
  run = contextWith(cluster);
});

async function bring(id: string, manifests: KubeObject[]) {
  process.env.MANIFESTS = JSON.stringify(manifests);
  return deploy(run, await planDeploy(run, id), "x.tar");
}
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );
/** Names of the objects that were applied, `configmaps/settings`, from a request on. */
const applied = (from = 0) =>
  cluster.changes
    .slice(from)
    .filter((change) => change.startsWith("PATCH") && !/\/(leases|version)|version-/.test(change))
    .map((change) =>
      change
        .split("/")
        .slice(-2)
        .join("/")
        .replace(/-[0-9a-f]{8}$/, ""),
    );
const inNamespace = (path: string) =>
  cluster.get<KubeObject & { data?: object }>(`/api/v1/namespaces/helloapp/${path}`);

test("the objects that a Job names come before it, in order, and nothing else does", async () => {
  await bring("a", [...base, ...referenced, job("migrate")]);
  const order = applied();
  const before = order.slice(0, order.indexOf("jobs/migrate-a")).filter((name) => !name.startsWith("namespaces/"));
  expect(before).toEqual([
    "serviceaccounts/migrator",
    "configmaps/settings",
    "configmaps/sql",
    "secrets/db",
    "persistentvolumeclaims/dump",
  ]);
  expect(order).toContain("configmaps/unrelated");
  expect(cluster.served()).toBe("a");
});

test("each of several Jobs gets its own objects just before it", async () => {
  const second = job("second", {
    containers: [{ ...pod.containers[0], env: [], envFrom: [{ configMapRef: { name: "unrelated" } }] }],
  });
  await bring("a", [...base, ...referenced, job("migrate"), second]);
  const order = applied();
  expect(order.indexOf("configmaps/unrelated")).toBeGreaterThan(order.indexOf("jobs/migrate-a"));
  expect(order.indexOf("configmaps/unrelated")).toBeLessThan(order.indexOf("jobs/second-a"));
});

test("a Job that has run for the version is left, and its objects are applied once, with all others", async () => {
  const manifests = [...base, ...referenced, job("migrate")];
  await bring("a", manifests);
  cluster.objects.delete("/api/v1/namespaces/helloapp/configmaps/unrelated");
  const from = cluster.changes.length;
  await bring("a", manifests);
  const order = applied(from);
  expect(order.filter((name) => name.startsWith("jobs/"))).toEqual([]);
  expect(order.filter((name) => name === "configmaps/settings")).toHaveLength(1);
  expect(order).toContain("configmaps/unrelated");
});

test("if the Job fails, changed objects are restored and new ones deleted", async () => {
  const [, , settings] = referenced;
  await bring("a", [...base, named("ConfigMap", "settings", { data: { level: "1" } })]);
  outcome = "Failed";
  const error = await failureOf(
    bring("b", [...base, settings!, referenced[0]!, referenced[5]!, referenced[1]!, job("migrate")]),
  );
  expect(error).toMatchObject({ kind: "project", code: "pre-deploy-job-failed" });
  expect(cluster.served()).toBe("a");
  expect(inNamespace("configmaps/settings").data).toEqual({ level: "1" });
  expect(inNamespace("secrets/db")).toBeUndefined();
  expect(inNamespace("serviceaccounts/migrator")).toBeUndefined();
  // A claim may hold data.
  expect(inNamespace("persistentvolumeclaims/dump")).toBeDefined();
});

test("if an object that a Job names is rejected, the Job does not run, and the objects before it are restored", async () => {
  await bring("a", base);
  const { intercept } = cluster;
  cluster.intercept = (method, path) => {
    const isApply =
      method === "PATCH" &&
      cluster.objects.has("/apis/coordination.k8s.io/v1/namespaces/helloapp/leases/helloapp-deploy");
    if (isApply && path.endsWith("/secrets/db")) return Response.json({ message: "denied" }, { status: 403 });
    return intercept(method, path);
  };
  const error = await failureOf(bring("b", [...base, ...referenced, job("migrate")]));
  expect(error.message).toContain("It was undone");
  expect([...cluster.objects.keys()].some((path) => path.includes("/jobs/"))).toBeFalse();
  expect(inNamespace("configmaps/settings")).toBeUndefined();
  expect(cluster.served()).toBe("a");
});

test("a reference of a Job to an object that nobody has is refused at the plan, before anything is written", async () => {
  const error = await failureOf(bring("a", [...base, ...referenced.slice(1), job("migrate")]));
  expect(error).toMatchObject({ kind: "project", code: "reference-missing" });
  expect(error.message).toContain(
    "Job/migrate spec.template.spec.initContainers[0].envFrom[0].secretRef.name: Secret/db",
  );
  expect(error.hint).toContain("create namespace helloapp && ");
  expect(cluster.changes).toEqual([]);
});
