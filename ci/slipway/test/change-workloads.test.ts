/** `restart` and `scale` over an in-memory cluster: verified, undone after a failure, and refused before a write. */
import { beforeEach, expect, test } from "bun:test";
import type { PipelineError } from "../core/errors.ts";
import { planDeploy, type DeployContext } from "../deploy/plan.ts";
import type { Deployment, KubeObject } from "../kubernetes/objects.ts";
import type { WorkloadChange } from "../operations/change-workloads.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";
import { contextWith, changeWorkloads, deploy } from "./run-prepared-flow.ts";

const metadata = { name: "helloapp", namespace: service.namespace };
const spec = {
  replicas: 2,
  template: {
    metadata: { labels: { "app.kubernetes.io/name": "helloapp" } },
    spec: { containers: [{ name: "helloapp", image: "helloapp" }] },
  },
};
const manifests: KubeObject[] = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } },
  { apiVersion: "v1", kind: "Service", metadata, spec: { ports: [{ port: 80, nodePort: 30080 }] } } as KubeObject,
  { apiVersion: "apps/v1", kind: "Deployment", metadata, spec } as KubeObject,
];
const path = `/apis/apps/v1/namespaces/${service.namespace}/deployments/helloapp`;

let cluster: FakeCluster;
let run: DeployContext;

beforeEach(async () => {
  cluster = new FakeCluster();
  process.env.MANIFESTS = JSON.stringify(manifests);
  run = contextWith(cluster);
  await deploy(run, await planDeploy(run, "a"), "x.tar");
});

const restart: WorkloadChange = {
  purpose: "restart",
  workload: undefined,
  patch: { spec: { template: { metadata: { annotations: { "kubectl.kubernetes.io/restartedAt": "now" } } } } },
};
const scaleTo = (replicas: number, workload?: string): WorkloadChange => ({
  ...{ purpose: "scale", workload, isSingle: true, replicas, patch: { spec: { replicas } } },
});
const failureOf = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );
const live = () => cluster.get<Deployment>(path);
const pods = () => [...cluster.objects.keys()].filter((key) => key.includes("/pods/"));
const writes = (from: number) => cluster.changes.slice(from).filter((change) => !change.includes("/leases"));

test("a restart replaces every pod and keeps the version", async () => {
  const before = pods();
  expect(await changeWorkloads(run, restart)).toContain("helloapp:a");
  expect(pods()).toHaveLength(2);
  expect(pods().filter((pod) => before.includes(pod))).toEqual([]);
  expect(cluster.served()).toBe("a");
});

test("a restart is no difference for the next plan", async () => {
  await changeWorkloads(run, restart);
  expect((await planDeploy(run, "a")).differences.flatMap(({ lines }) => lines.join())).not.toContain("restartedAt");
});

test("a restart whose pods do not start is undone, with exit code 4 and the diagnosis", async () => {
  const before = structuredClone(live().spec);
  cluster.container = () => ({
    state: { waiting: { reason: "CreateContainerConfigError", message: 'secret "s" not found' } },
  });
  const { intercept } = cluster;
  // After the undo, the pods of before start again.
  cluster.intercept = (method, at) => {
    if (method === "PUT" && at === path) cluster.container = () => ({});
    return intercept(method, at);
  };
  const error = await failureOf(changeWorkloads(run, restart));
  expect(error).toMatchObject({ kind: "partial", code: "rollout-container-config" });
  expect(error.message).toContain('secret "s" not found');
  expect(error.message).toContain("serves, as before");
  expect(live().spec).toEqual(before);
  expect(
    cluster.objects.has(`/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`),
  ).toBe(false);
});

test.each([5, 1, 0])("scale %d waits for the pods", async (replicas) => {
  await changeWorkloads(run, scaleTo(replicas));
  expect(live().spec.replicas).toBe(replicas);
  const versions = pods().map((pod) => cluster.get(pod).metadata.labels?.["app.kubernetes.io/version"]);
  expect(versions.filter((version) => version === "a").length).toBeGreaterThanOrEqual(replicas);
});

test.each<[string, WorkloadChange, object, string]>([
  [
    "an unknown workload",
    scaleTo(2, "mail"),
    { kind: "project", code: "workload-not-found" },
    "The workloads are helloapp",
  ],
  ["an unknown workload of a restart", { ...restart, workload: "x" }, { code: "workload-not-found" }, "helloapp"],
])("%s is refused before a write", async (_, change, expected, hint) => {
  const from = cluster.changes.length;
  const error = await failureOf(changeWorkloads(run, change));
  expect(error).toMatchObject(expected);
  expect(error.hint).toContain(hint);
  expect(writes(from)).toEqual([]);
});

test("an autoscaler and a service that is not deployed are named before a write", async () => {
  cluster.objects.set(`/apis/autoscaling/v2/namespaces/${service.namespace}/horizontalpodautoscalers/x`, {
    ...{ apiVersion: "autoscaling/v2", kind: "HorizontalPodAutoscaler", metadata: { name: "x" } },
    ...{ spec: { scaleTargetRef: { kind: "Deployment", name: "helloapp" } } },
  } as KubeObject);
  const from = cluster.changes.length;
  const error = await failureOf(changeWorkloads(run, scaleTo(5)));
  expect(error).toMatchObject({ kind: "project", code: "workload-not-scalable" });
  cluster.objects.delete(path);
  expect(await failureOf(changeWorkloads(run, restart))).toMatchObject({ code: "workload-not-found" });
  expect(writes(from)).toEqual([]);
});

test("a missing right is named before a write", async () => {
  const rules = [{ verbs: ["get", "list", "create"], apiGroups: ["*"], resources: ["*"] }];
  cluster.intercept = (_, at) =>
    at.endsWith("/selfsubjectrulesreviews") ? Response.json({ status: { resourceRules: rules } }) : undefined;
  const from = cluster.changes.length;
  const error = await failureOf(changeWorkloads(run, restart));
  expect(error).toMatchObject({ kind: "environment", code: "rights-missing" });
  expect(error.message).toContain("deployments (patch, update)");
  expect(writes(from)).toEqual([]);
});

test("restart and scale wait for another deploy only if they are told to", async () => {
  const lease = `/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`;
  let renewals = 0;
  const hold = () =>
    cluster.objects.set(lease, {
      metadata: { name: "helloapp-deploy", resourceVersion: `${(renewals += 1)}`, annotations: {} },
      spec: { holderIdentity: "ann@laptop (deploy of helloapp:b)" },
    } as never);
  hold();
  const renewing = setInterval(hold, 100);
  try {
    expect(await failureOf(changeWorkloads(run, restart))).toMatchObject({ code: "lock-held" });
    const waiting = changeWorkloads({ ...run, lockWaitSeconds: 30 }, restart);
    await Bun.sleep(2500);
    clearInterval(renewing);
    cluster.objects.delete(lease);
    expect(await waiting).toContain("restart");
  } finally {
    clearInterval(renewing);
  }
}, 30_000);
