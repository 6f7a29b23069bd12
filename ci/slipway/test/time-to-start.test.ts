/** A slow start: probes that end it are refused at the plan, and an end that the kubelet has ordered counts. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { assertTimeToStart } from "../deploy/checks-probes.ts";
import { findOrderedKill } from "../deploy/find-ordered-kill.ts";
import type { Event, KubeObject, Pod, Workload } from "../kubernetes/objects.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

function workload(probes: object, kind = "Deployment"): KubeObject {
  const template = { spec: { containers: [{ name: "shop", image: "shop", ...probes }] } };
  return { apiVersion: "apps/v1", kind, metadata: { name: "shop" }, spec: { template } } as unknown as KubeObject;
}

const check = (seconds: number, probes: object, kind?: string) => () =>
  assertTimeToStart([workload(probes, kind)], seconds);
const httpGet = { path: "/healthz", port: "http" };

describe("probes that end a start", () => {
  test.each<[string, number, object]>([
    ["the defaults of a livenessProbe", 60, { livenessProbe: { httpGet } }],
    ["a short livenessProbe", 6, { livenessProbe: { httpGet, periodSeconds: 1 } }],
    ["a delay that is too short", 60, { livenessProbe: { httpGet, initialDelaySeconds: 20 } }],
    ["a short startupProbe", 60, { startupProbe: { httpGet, periodSeconds: 1 } }],
  ])("%s", (_, seconds, probes) => {
    expect(check(seconds, probes)).toThrow(`readyTimeoutSeconds is ${seconds}, but the`);
    expect(check(seconds, probes, "StatefulSet")).toThrow("in StatefulSet/shop ends a container");
  });

  test.each<[string, number, object]>([
    ["no probes", 600, {}],
    ["a readinessProbe, which ends nothing", 600, { readinessProbe: { httpGet } }],
    ["the default time", 6, { livenessProbe: { httpGet } }],
    ["a delay", 60, { livenessProbe: { httpGet, initialDelaySeconds: 30 } }],
    [
      "a startupProbe",
      60,
      { livenessProbe: { httpGet }, startupProbe: { httpGet, periodSeconds: 1, failureThreshold: 60 } },
    ],
  ])("%s is permitted", (_, seconds, probes) => {
    expect(check(seconds, probes)).not.toThrow();
  });

  test("the manifests that init writes permit two minutes", () => {
    const text = readFileSync(join(import.meta.dir, "../init/templates/k8s/base/deployment.yaml"), "utf8");
    expect(() => assertTimeToStart([Bun.YAML.parse(text) as KubeObject], 120)).not.toThrow();
  });
});

describe("an end that the kubelet has ordered", () => {
  const observe = (startedAt: string) => {
    const deployment: Workload = {
      apiVersion: "apps/v1",
      kind: "StatefulSet",
      metadata: { name: "helloapp" },
      spec: { template: { spec: { containers: [] } } },
      status: { updateRevision: "new" },
    };
    const pod: Pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "helloapp-0", labels: { "controller-revision-hash": "new" } },
      spec: { containers: [] },
      status: {
        containerStatuses: [{ name: "shop", ready: true, restartCount: 0, state: { running: { startedAt } } }],
      },
    };
    return [{ deployment, replicaSets: [], pods: [pod] }];
  };
  const clusterWith = (message: string) => {
    const cluster = new FakeCluster();
    const event: Event = {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name: "kill" },
      reason: "Killing",
      message,
      lastTimestamp: "2026-01-01T00:00:30Z",
      involvedObject: { kind: "Pod", name: "helloapp-0" },
    };
    cluster.objects.set(`/api/v1/namespaces/${service.namespace}/events/kill`, event);
    return cluster;
  };
  const ordered = "Container shop failed liveness probe, will be restarted";

  test("fails a rollout whose pods are ready", async () => {
    const found = await findOrderedKill(clusterWith(ordered).api(), observe("2026-01-01T00:00:00Z"));
    expect(found).toMatchObject({ reason: "Killed", pod: "helloapp-0" });
  });

  test("of an earlier run of the container does not count", async () => {
    expect(await findOrderedKill(clusterWith(ordered).api(), observe("2026-01-01T00:00:50Z"))).toBeUndefined();
  });

  test("an end for another reason does not count", async () => {
    const cluster = clusterWith("Stopping container shop");
    expect(await findOrderedKill(cluster.api(), observe("2026-01-01T00:00:00Z"))).toBeUndefined();
  });

  test("without the right to list events, none is found", async () => {
    const cluster = clusterWith(ordered);
    cluster.intercept = (_, path) => (path.endsWith("/events") ? new Response("", { status: 403 }) : undefined);
    expect(await findOrderedKill(cluster.api(), observe("2026-01-01T00:00:00Z"))).toBeUndefined();
  });
});
