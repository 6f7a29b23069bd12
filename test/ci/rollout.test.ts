import { describe, expect, test } from "bun:test";
import type { ContainerStatus, Deployment, Pod, ReplicaSet } from "../../ci/deploy/kubectl.ts";
import { assess, serving, tagOf, type Observation } from "../../ci/deploy/rollout.ts";

const now = Date.parse("2026-01-01T00:01:00Z");
const ago = (seconds: number) => new Date(now - seconds * 1000).toISOString();
const revision = (n: number) => ({ "deployment.kubernetes.io/revision": String(n) });
const template = (tag: string) => ({
  spec: { containers: [{ name: "helloapp", image: `helloapp:${tag}` }] },
});

function deployment(status: Deployment["status"] = {}, generation = 2): Deployment {
  return {
    kind: "Deployment",
    metadata: { name: "helloapp", generation, annotations: revision(2) },
    spec: { replicas: 2, template: template("new") },
    status: { observedGeneration: 2, replicas: 4, updatedReplicas: 2, availableReplicas: 2, ...status },
  };
}

function replicaSet(n: number, tag: string, availableReplicas = 0): ReplicaSet {
  const metadata = { name: `helloapp-${tag}`, annotations: revision(n) };
  return {
    kind: "ReplicaSet",
    metadata,
    spec: { replicas: 2, template: template(tag) },
    status: { availableReplicas },
  };
}

function pod(of: string, container: Partial<ContainerStatus>, status: Pod["status"] = {}): Pod {
  return {
    kind: "Pod",
    metadata: {
      name: `helloapp-${of}-abcde`,
      ownerReferences: [{ kind: "ReplicaSet", name: `helloapp-${of}` }],
    },
    status: { containerStatuses: [{ ready: false, restartCount: 0, ...container }], ...status },
  };
}

function observe(pods: Pod[], status?: Deployment["status"]): Observation {
  return {
    deployment: deployment(status),
    replicaSets: [replicaSet(1, "old", 2), replicaSet(2, "new")],
    pods,
    now,
  };
}

describe("progressing", () => {
  test("while the controller has not seen the change", () => {
    const seen = { ...observe([]), deployment: deployment({ replicas: 2, updatedReplicas: 2 }, 3) };
    expect(assess(seen).state).toBe("progressing");
  });

  test("while old pods are still there", () => {
    expect(assess(observe([])).state).toBe("progressing");
  });

  test("counts the new pods that are ready", () => {
    const ready = pod("new", { ready: true }, { conditions: [{ type: "Ready", status: "True" }] });
    expect(assess(observe([ready, pod("new", {})]))).toEqual({
      state: "progressing",
      detail: "1 of 2 new pods ready, 4 in all",
    });
  });

  test.each<[string, Partial<ContainerStatus>]>([
    ["being created", { state: { waiting: { reason: "ContainerCreating" } } }],
    ["pulled for the first time", { state: { waiting: { reason: "ErrImagePull" } } }],
    ["crashed once", { restartCount: 0, state: { terminated: { exitCode: 1 } } }],
    ["started a moment ago", { state: { running: { startedAt: ago(3) } } }],
  ])("a container %s is no failure yet", (_, container) => {
    expect(assess(observe([pod("new", container)])).state).toBe("progressing");
  });

  test("pods of the old version and those that are leaving do not matter", () => {
    const crash = { restartCount: 5, state: { waiting: { reason: "CrashLoopBackOff" } } };
    const leaving = pod("new", crash);
    leaving.metadata.deletionTimestamp = ago(1);
    expect(assess(observe([pod("old", crash), leaving])).state).toBe("progressing");
  });
});

test("complete when all replicas are new and available, and no others are left", () => {
  expect(assess(observe([], { replicas: 2 }))).toEqual({ state: "complete" });
  expect(assess(observe([], { replicas: 2, availableReplicas: 1 })).state).toBe("progressing");
});

describe("failed", () => {
  test.each([
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
  ])("%s", (reason) => {
    const verdict = assess(observe([pod("new", { state: { waiting: { reason, message: "why" } } })]));
    expect(verdict).toEqual({ state: "failed", reason, message: "why", pod: "helloapp-new-abcde" });
  });

  test("a crash loop says the exit code", () => {
    const container = {
      restartCount: 2,
      state: { waiting: { reason: "CrashLoopBackOff", message: "back-off 10s" } },
      lastState: { terminated: { exitCode: 2 } },
    };
    expect(assess(observe([pod("new", container)]))).toMatchObject({ message: "exits with 2" });
  });

  test("the second exit, before Kubernetes calls it a loop", () => {
    const container = { restartCount: 1, state: { terminated: { exitCode: 1 } } };
    expect(assess(observe([pod("new", container)]))).toMatchObject({
      state: "failed",
      reason: "CrashLoopBackOff",
    });
  });

  test("a readiness probe that does not pass", () => {
    const verdict = assess(observe([pod("new", { state: { running: { startedAt: ago(8) } } })]));
    expect(verdict).toMatchObject({ state: "failed", reason: "NotReady" });
  });

  test("no place for the pod, unless just now", () => {
    const unschedulable = (seconds: number) => {
      const message = "0/1 nodes are available: 1 Insufficient cpu.";
      const lastTransitionTime = ago(seconds);
      const condition = {
        type: "PodScheduled",
        status: "False",
        reason: "Unschedulable",
        message,
        lastTransitionTime,
      } as const;
      return assess(observe([pod("new", {}, { conditions: [condition], containerStatuses: [] })]));
    };
    expect(unschedulable(1).state).toBe("progressing");
    expect(unschedulable(9)).toMatchObject({ state: "failed", reason: "Unschedulable" });
  });

  test("pods refused by quota or pod security, before there is any", () => {
    const condition = {
      type: "ReplicaFailure",
      status: "True",
      reason: "FailedCreate",
      message: "forbidden",
    } as const;
    const verdict = assess(observe([], { conditions: [condition] }));
    expect(verdict).toEqual({ state: "failed", reason: "FailedCreate", message: "forbidden" });
  });

  test("the deadline of the Deployment itself", () => {
    const condition = { type: "Progressing", status: "False", reason: "ProgressDeadlineExceeded" } as const;
    expect(assess(observe([], { conditions: [condition] }))).toMatchObject({
      reason: "ProgressDeadlineExceeded",
    });
  });
});

test("what serves is the newest with available pods", () => {
  expect(serving([replicaSet(1, "a", 2), replicaSet(3, "c", 0), replicaSet(2, "b", 1)])).toMatchObject({
    metadata: { name: "helloapp-b" },
  });
  expect(serving([replicaSet(1, "a", 0)])).toBeUndefined();
});

test.each([
  ["helloapp:abc", "abc"],
  ["localhost:5000/helloapp:abc", "abc"],
])("the tag of %s is %s", (image, tag) => {
  const spec = { replicas: 1, template: { spec: { containers: [{ name: "helloapp", image }] } } };
  expect(tagOf({ spec })).toBe(tag);
});
