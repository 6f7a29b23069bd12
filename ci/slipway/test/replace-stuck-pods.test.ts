/** StatefulSets that wait for a pod of a replaced version: which pods are deleted, and which are left alone. */
import { beforeEach, describe, expect, test } from "bun:test";
import type { DeployContext } from "../deploy/plan.ts";
import { stuckPodReplacer } from "../deploy/replace-stuck-pods.ts";
import type { Pod, Workload } from "../kubernetes/objects.ts";
import type { WorkloadState } from "../kubernetes/workload-state.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

let cluster: FakeCluster;
let replace: (states: WorkloadState[]) => Promise<void>;

beforeEach(() => {
  cluster = new FakeCluster();
  replace = stuckPodReplacer({ target: { api: cluster.api() }, log: () => {} } as unknown as DeployContext);
});

const pathOf = (name: string) => `/api/v1/namespaces/${service.namespace}/pods/${name}`;

function pod(name: string, revision: string, ready: boolean): Pod {
  const found: Pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, uid: `${name}-${revision}`, labels: { "controller-revision-hash": revision } },
    spec: { containers: [] },
    status: { conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  };
  cluster.objects.set(pathOf(name), found);
  return found;
}

function observe(pods: Pod[], spec: Partial<Workload["spec"]> = {}, observedGeneration = 2): WorkloadState {
  const deployment: Workload = {
    apiVersion: "apps/v1",
    kind: "StatefulSet",
    metadata: { name: "helloapp", generation: 2 },
    spec: { template: { spec: { containers: [] } }, ...spec },
    status: { observedGeneration, updateRevision: "good" },
  };
  return { deployment, replicaSets: [], pods };
}

const deletedPods = () => cluster.changes.filter((change) => change.startsWith("DELETE"));

describe("a StatefulSet of ordered pods", () => {
  test("the not-ready pod of the failed revision is deleted, and ready pods stay", async () => {
    await replace([observe([pod("a-0", "old", true), pod("a-1", "failed", false), pod("a-2", "good", false)])]);
    expect(deletedPods()).toEqual([`DELETE ${pathOf("a-1")}`]);
  });

  test("nothing is deleted before the controller has named the revision", async () => {
    await replace([observe([pod("a-0", "failed", false)], {}, 1)]);
    expect(deletedPods()).toEqual([]);
    await replace([observe([pod("a-0", "failed", false)])]);
    expect(deletedPods()).toEqual([`DELETE ${pathOf("a-0")}`]);
  });

  test("a pod that becomes not ready after the write is left to the controller", async () => {
    await replace([observe([pod("a-0", "old", true), pod("a-1", "failed", false)])]);
    await replace([observe([pod("a-0", "old", false), pod("a-1", "good", true)])]);
    expect(deletedPods()).toEqual([`DELETE ${pathOf("a-1")}`]);
  });

  test("a pod that the controller creates again from the failed revision is deleted again", async () => {
    await replace([observe([pod("a-0", "failed", false)])]);
    await replace([observe([pod("a-0", "failed", false)])]);
    expect(deletedPods()).toHaveLength(2);
  });

  test("a pod that was replaced meanwhile is no error", async () => {
    const stale = pod("a-0", "failed", false);
    pod("a-0", "good", false);
    await replace([observe([stale])]);
    expect(cluster.objects.has(pathOf("a-0"))).toBe(true);
  });

  test.each<[string, WorkloadState["deployment"]["kind"], Partial<Workload["spec"]>]>([
    ["parallel pods", "StatefulSet", { podManagementPolicy: "Parallel" }],
    ["a Deployment", "Deployment", {}],
  ])("%s: nothing is deleted", async (_, kind, spec) => {
    const seen = observe([pod("a-0", "failed", false)], spec);
    seen.deployment.kind = kind;
    await replace([seen]);
    expect(deletedPods()).toEqual([]);
  });
});
