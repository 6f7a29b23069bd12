import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ContainerStatus, Deployment, Pod, ReplicaSet } from "../kubernetes/objects.ts";
import { FailureTimer } from "../deploy/failure-timer.ts";
import { runningId, oldPods, type WorkloadState } from "../kubernetes/workload-state.ts";
import { assessWorkload as assessFor, hasReplacedPods, type RolloutVerdict } from "../deploy/rollout-status.ts";
import { service } from "./helloapp-service.ts";

const assess = (seen: WorkloadState) => assessFor(seen, service);
const time = "2026-01-01T00:01:00Z";
/** The verdict if the state stays the same for this many seconds. */
const after = (seconds: number, seen: WorkloadState): RolloutVerdict => {
  const timer = new FailureTimer();
  timer.evaluate(assess(seen), 0);
  return timer.evaluate(assess(seen), seconds * 1000);
};
const revision = (n: number) => ({ "deployment.kubernetes.io/revision": String(n) });
const template = (tag: string) => ({
  spec: { containers: [{ name: "helloapp", image: `helloapp:${tag}` }] },
});

function deployment(status: Deployment["status"] = {}, generation = 2): Deployment {
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "helloapp", generation, annotations: revision(2) },
    spec: { replicas: 2, template: template("new") },
    status: { observedGeneration: 2, replicas: 4, updatedReplicas: 2, availableReplicas: 2, ...status },
  };
}

function replicaSet(n: number, tag: string, availableReplicas = 0): ReplicaSet {
  const metadata = { name: `helloapp-${tag}`, annotations: revision(n) };
  return {
    apiVersion: "apps/v1",
    kind: "ReplicaSet",
    metadata,
    spec: { replicas: 2, template: template(tag) },
    status: { availableReplicas },
  };
}

function pod(of: string, container: Partial<ContainerStatus>, status: Pod["status"] = {}): Pod {
  return {
    apiVersion: "v1",
    kind: "Pod",
    spec: template(of).spec,
    metadata: {
      name: `helloapp-${of}-abcde`,
      ownerReferences: [{ kind: "ReplicaSet", name: `helloapp-${of}` }],
    },
    status: {
      containerStatuses: [{ name: "helloapp", ready: false, restartCount: 0, ...container }],
      ...status,
    },
  };
}

function observe(pods: Pod[], status?: Deployment["status"]): WorkloadState {
  return {
    deployment: deployment(status),
    replicaSets: [replicaSet(1, "old", 2), replicaSet(2, "new")],
    pods,
  };
}

describe("progressing", () => {
  test("while the controller has not seen the change", () => {
    const seen = { ...observe([]), deployment: deployment({ replicas: 2, updatedReplicas: 2 }, 3) };
    expect(assess(seen).state).toBe("progressing");
  });

  test("while old pods exist", () => {
    expect(assess(observe([])).state).toBe("progressing");
  });

  test("counts the new pods that are ready", () => {
    const ready = pod("new", { ready: true }, { conditions: [{ type: "Ready", status: "True" }] });
    expect(assess(observe([ready, pod("new", {})]))).toEqual({
      state: "progressing",
      detail: "1 of 2 new pods ready, 4 in total",
      suspected: [],
    });
  });

  test.each<[string, Partial<ContainerStatus>]>([
    ["being created", { state: { waiting: { reason: "ContainerCreating" } } }],
    ["pulled for the first time", { state: { waiting: { reason: "ErrImagePull" } } }],
    ["crashed once", { restartCount: 0, state: { terminated: { exitCode: 1 } } }],
    ["that exited with 0", { restartCount: 1, state: { terminated: { exitCode: 0 } } }],
    ["started a moment ago", { state: { running: { startedAt: time } } }],
  ])("a container %s is not a failure yet", (_, container) => {
    expect(assess(observe([pod("new", container)])).state).toBe("progressing");
  });

  test("old and terminating pods are ignored", () => {
    const crash = { restartCount: 5, state: { waiting: { reason: "CrashLoopBackOff" } } };
    const terminating = pod("new", crash);
    terminating.metadata.deletionTimestamp = time;
    expect(assess(observe([pod("old", crash), terminating])).state).toBe("progressing");
  });
});

test("complete when all replicas are new and available, and no old ones exist", () => {
  expect(assess(observe([], { replicas: 2 }))).toEqual({ state: "complete" });
  expect(assess(observe([], { replicas: 2, availableReplicas: 1 })).state).toBe("progressing");
});

test("a ConfigMap that the kubelet has not read yet fails after 30 s", () => {
  const message = "failed to sync configmap cache: timed out waiting for the condition";
  const waiting = { reason: "CreateContainerConfigError", message };
  const seen = observe([pod("new", { state: { waiting } })]);
  expect(after(29, seen).state).toBe("progressing");
  expect(after(30, seen)).toMatchObject({ state: "failed", ...waiting });
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

  test("the message of a crash loop contains the exit code", () => {
    const container = {
      restartCount: 2,
      state: { waiting: { reason: "CrashLoopBackOff", message: "back-off 10s" } },
      lastState: { terminated: { exitCode: 2 } },
    };
    expect(assess(observe([pod("new", container)]))).toMatchObject({ message: "helloapp exits with 2" });
  });

  test("the second exit, before Kubernetes reports a crash loop", () => {
    const container = { restartCount: 1, state: { terminated: { exitCode: 1 } } };
    expect(assess(observe([pod("new", container)]))).toMatchObject({
      state: "failed",
      reason: "CrashLoopBackOff",
    });
  });

  test("a readiness probe that does not pass within readyTimeoutSeconds, by this machine's clock", () => {
    const seen = observe([pod("new", { state: { running: { startedAt: time } } })]);
    expect(after(service.readyTimeoutSeconds - 1, seen).state).toBe("progressing");
    expect(after(service.readyTimeoutSeconds, seen)).toMatchObject({ state: "failed", reason: "NotReady" });
  });

  test("a running init container is not limited by readyTimeoutSeconds", () => {
    const initContainerStatuses = [
      { name: "init", ready: false, restartCount: 0, state: { running: { startedAt: time } } },
    ];
    const seen = observe([pod("new", {}, { containerStatuses: [], initContainerStatuses })]);
    expect(after(service.readyTimeoutSeconds, seen).state).toBe("progressing");
  });

  test("the grace period restarts if the condition has passed in between", () => {
    const timer = new FailureTimer();
    const suspicious = assess(observe([pod("new", { state: { running: { startedAt: time } } })]));
    const none = assess(observe([]));
    timer.evaluate(suspicious, 0);
    timer.evaluate(none, 1000);
    timer.evaluate(suspicious, 2000);
    expect(timer.evaluate(suspicious, service.readyTimeoutSeconds * 1000 + 1000).state).toBe("progressing");
    expect(timer.evaluate(suspicious, service.readyTimeoutSeconds * 1000 + 2000).state).toBe("failed");
  });

  describe("an unschedulable pod", () => {
    const condition = {
      type: "PodScheduled",
      status: "False",
      reason: "Unschedulable",
      message: "0/1 nodes are available: 1 Insufficient cpu.",
    } as const;
    const waiting = pod("new", {}, { conditions: [condition], containerStatuses: [] });

    test("fails after scheduleTimeoutSeconds", () => {
      expect(after(service.scheduleTimeoutSeconds - 1, observe([waiting])).state).toBe("progressing");
      expect(after(service.scheduleTimeoutSeconds, observe([waiting]))).toMatchObject({
        state: "failed",
        reason: "Unschedulable",
        message: condition.message,
      });
    });

    test("does not fail while another new pod starts or an old one terminates", () => {
      const placed = { type: "PodScheduled", status: "True" } as const;
      const starting = pod("new", {}, { conditions: [placed] });
      expect(after(60, observe([waiting, starting])).state).toBe("progressing");
      const terminating = pod("old", {});
      terminating.metadata.deletionTimestamp = time;
      expect(after(60, observe([waiting, terminating])).state).toBe("progressing");
    });

    test("an exceeded quota fails too, unless another new pod starts", () => {
      const message = 'pods "x" is forbidden: exceeded quota: small';
      const conditions = [{ type: "ReplicaFailure", status: "True", reason: "FailedCreate", message } as const];
      expect(after(service.scheduleTimeoutSeconds, observe([], { conditions }))).toMatchObject({ message });
      const placed = { type: "PodScheduled", status: "True" } as const;
      const starting = pod("new", {}, { conditions: [placed] });
      expect(after(60, observe([starting], { conditions })).state).toBe("progressing");
    });

    test("fails after four times scheduleTimeoutSeconds if a new pod is ready: scheduling retries become rarer", () => {
      const ready = [
        { type: "PodScheduled", status: "True" },
        { type: "Ready", status: "True" },
      ] as const;
      const first = pod("new", { ready: true }, { conditions: [...ready] });
      expect(after(service.scheduleTimeoutSeconds, observe([waiting, first])).state).toBe("progressing");
      expect(after(service.scheduleTimeoutSeconds * 4, observe([waiting, first])).state).toBe("failed");
    });
  });

  test("pods rejected by pod security fail at once", () => {
    const condition = {
      type: "ReplicaFailure",
      status: "True",
      reason: "FailedCreate",
      message: "forbidden",
    } as const;
    const verdict = assess(observe([], { conditions: [condition] }));
    expect(verdict).toEqual({ state: "failed", reason: "FailedCreate", message: "forbidden" });
  });

  test("the progress deadline of the Deployment", () => {
    const condition = { type: "Progressing", status: "False", reason: "ProgressDeadlineExceeded" } as const;
    expect(assess(observe([], { conditions: [condition] }))).toMatchObject({
      reason: "ProgressDeadlineExceeded",
    });
  });
});

test("oldPods: other versions, and terminating pods", () => {
  const terminating = pod("new", {});
  terminating.metadata.deletionTimestamp = time;
  const [old, own] = [pod("old", {}), pod("new", {})];
  expect(oldPods(observe([old, own, terminating]))).toEqual([old, terminating]);
});

test.each([
  ["helloapp:abc", {}, "abc"],
  ["localhost:5000/helloapp:abc", {}, "abc"],
  ["r.example/helloapp@sha256:123", { "app.kubernetes.io/version": "abc" }, "abc"],
])("the id of %s with labels %p is %s", (image, labels, id) => {
  const spec = {
    replicas: 1,
    template: { metadata: { labels }, spec: { containers: [{ name: "helloapp", image }] } },
  };
  expect(runningId({ spec })).toBe(id);
});

/**
 * States of a real cluster (k3s, Kubernetes 1.32.4), recorded when a deploy of each kind failed, with the fields of
 * kubernetes/objects.ts. At that time the grace periods were already over.
 */
describe("recorded states", () => {
  const lines = readFileSync(join(import.meta.dir, "states.jsonl"), "utf8")
    .trimEnd()
    .split("\n");
  const states = lines.map((line) => JSON.parse(line) as WorkloadState & { name: string });
  const recorded = Object.fromEntries(states.map((state) => [state.name, state]));
  const failures: [state: string, reason: string, message: string | RegExp][] = [
    ["an image that is not there", "ErrImageNeverPull", 'image "missing:not-there" is not present'],
    ["an image that cannot be pulled", "ImagePullBackOff", "127.0.0.1:1/missing:not-there"],
    ["exits at start", "CrashLoopBackOff", "helloapp exits with 1"],
    ["a ConfigMap that is not there", "CreateContainerConfigError", 'configmap "nowhere" not found'],
    ["refused by pod security", "FailedCreate", "violates PodSecurity"],
    ["refused by a quota", "FailedCreate", "exceeded quota"],
    ["no room on the node", "Unschedulable", "Insufficient cpu"],
    ["never ready", "NotReady", "has not passed its readiness probe"],
  ];

  test("each state has a test", () => {
    const others = ["starting", "complete, the old pods leaving"];
    expect(Object.keys(recorded).sort()).toEqual([...failures.map(([name]) => name), ...others].sort());
  });

  test.each(failures)("%s: %s", (state, reason, message) => {
    const patient = Math.max(service.readyTimeoutSeconds, service.scheduleTimeoutSeconds);
    const verdict = after(patient, recorded[state]!);
    expect(verdict).toMatchObject({ state: "failed", reason });
    expect(verdict.state === "failed" && verdict.message).toContain(message as string);
  });

  test("a starting pod is not a failure", () => {
    const { state, ...rest } = after(60, recorded.starting!);
    expect(state).toBe("progressing");
    expect(rest).toMatchObject({ suspected: [] });
  });

  test("complete, while old pods finish their requests", () => {
    const seen = recorded["complete, the old pods leaving"]!;
    expect(assess(seen).state).toBe("complete");
    expect(oldPods(seen)).toHaveLength(2);
  });
});

describe("before the controller has created the new ReplicaSet (strategy Recreate)", () => {
  const crash = { restartCount: 5, state: { waiting: { reason: "CrashLoopBackOff" } } };
  /** The revision is still that of the old template, although the controller has observed the new one. */
  const waiting = (conditions: Deployment["status"]["conditions"] = []): WorkloadState => ({
    deployment: {
      ...deployment({ replicas: 2, updatedReplicas: 0, availableReplicas: 0, conditions }),
      metadata: { name: "helloapp", generation: 2, annotations: revision(1) },
    },
    replicaSets: [replicaSet(1, "old", 0)],
    pods: [pod("old", crash)],
  });

  test("a crash loop of the old pods is not the new version's", () => {
    expect(assess(waiting())).toMatchObject({ state: "progressing", suspected: [] });
    expect(oldPods(waiting())).toHaveLength(1);
  });

  test.each([
    { type: "ReplicaFailure", status: "True", reason: "FailedCreate", message: "serviceaccount not found" } as const,
    {
      type: "Progressing",
      status: "False",
      reason: "ProgressDeadlineExceeded",
      message: 'ReplicaSet "helloapp-old" has timed out progressing.',
    } as const,
  ])("the old ReplicaSet's condition $type is not the new version's", (condition) => {
    const seen = waiting([condition]);
    if (condition.type === "ReplicaFailure") seen.replicaSets[0]!.status.conditions = [condition];
    expect(assess(seen)).toMatchObject({ state: "progressing", suspected: [] });
  });

  test("the label and the nulls that the server adds do not hide the new ReplicaSet", () => {
    const seen = waiting();
    const set = replicaSet(2, "new");
    const metadata = { creationTimestamp: null, labels: { "pod-template-hash": "1" } };
    set.spec.template = { ...set.spec.template, metadata };
    seen.deployment.spec.template = { ...seen.deployment.spec.template, metadata: { labels: {} } };
    seen.replicaSets.push(set);
    seen.pods.push(pod("new", crash));
    expect(assess(seen)).toMatchObject({ state: "failed", pod: "helloapp-new-abcde" });
  });
});

describe("a Deployment is replaced", () => {
  const isUp = { conditions: [{ type: "Ready", status: "True" }] } as const;
  const up = (of: string, name: string) => {
    const made = pod(of, { ready: true }, { conditions: [...isUp.conditions] });
    return { ...made, metadata: { ...made.metadata, name } };
  };
  const both = [up("new", "a"), up("new", "b")];
  const withSpec = (seen: WorkloadState, spec: object): WorkloadState => ({
    ...seen,
    deployment: { ...seen.deployment, spec: { ...seen.deployment.spec, ...spec } },
  });

  test("as soon as all of its pods are ready, while old ones still leave", () => {
    const seen = observe([...both, up("old", "c")], { replicas: 3, availableReplicas: 3 });
    expect(assess(seen).state).toBe("progressing");
    expect(hasReplacedPods(seen)).toBe(true);
  });

  test.each<[string, WorkloadState]>([
    ["one of two pods is ready", observe([up("new", "a"), pod("new", {})])],
    [
      "a ready pod is being deleted",
      observe([up("new", "a"), { ...both[1]!, metadata: { ...both[1]!.metadata, deletionTimestamp: time } }]),
    ],
    ["the controller has not seen the template", { ...observe(both), deployment: deployment({}, 3) }],
    // The revision is still that of the old template, whose pods are ready.
    ["the controller has made no pod of the template yet", observe(both, { updatedReplicas: 0 })],
    ["pods have to stay ready for a while", withSpec(observe(both), { minReadySeconds: 5 })],
    ["it is scaled to 0", withSpec(observe([], { updatedReplicas: 0, replicas: 0 }), { replicas: 0 })],
    ["it is another kind", { ...observe(both), deployment: { ...deployment(), kind: "StatefulSet" } }],
  ])("but not if %s", (_, seen) => expect(hasReplacedPods(seen)).toBe(false));
});
