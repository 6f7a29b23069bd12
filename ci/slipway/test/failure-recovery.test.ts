/**
 * Recovery from failures during a deploy: transient errors are retried, others are rolled back, and objects of others
 * are never deleted.
 */
import { beforeEach, describe, expect, setSystemTime, test } from "bun:test";
import { unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listVersions } from "../deploy/release-history.ts";
import type { Deployment, KubeObject } from "../kubernetes/objects.ts";
import { isUpToDate, planDeploy, type DeployContext } from "../deploy/plan.ts";
import { PipelineError } from "../core/errors.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { contextWith, deploy, rollback } from "./run-prepared-flow.ts";
import { service } from "./helloapp-service.ts";

const namespaced = { name: "helloapp", namespace: service.namespace };
const workload: KubeObject = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: namespaced,
  spec: {
    replicas: 2,
    template: {
      metadata: { labels: { "app.kubernetes.io/name": "helloapp" } },
      spec: { containers: [{ name: "helloapp", image: "helloapp" }] },
    },
  },
} as KubeObject;
const named = (kind: string, name: string, more: object = {}, apiVersion = "v1"): KubeObject => ({
  apiVersion,
  kind,
  metadata: { name, namespace: service.namespace },
  ...more,
});
const base = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } },
  named("ConfigMap", "settings", { data: { level: "1" } }),
  named("Service", "helloapp", { spec: { ports: [{ port: 80, nodePort: 30080 }] } }),
  workload,
];
const at = (path: string) => `/api/v1/namespaces/${service.namespace}/${path}`;
const deployment = `/apis/apps/v1/namespaces/${service.namespace}/deployments/helloapp`;
const lock = `/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`;

let cluster: FakeCluster;
let run: DeployContext;
let said: string[];
let manifests: KubeObject[];

beforeEach(() => {
  cluster = new FakeCluster();
  said = [];
  manifests = base;
  run = contextWith(cluster, (line) => void said.push(line));
});

async function bring(id: string) {
  process.env.MANIFESTS = JSON.stringify(manifests);
  return deploy(run, await planDeploy(run, id), "x.tar");
}
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );
/** All objects except those of the pipeline and of controllers, without counters. */
const state = () =>
  Object.fromEntries(
    [...cluster.objects]
      .filter(([path]) => !/\/(secrets|leases|pods|replicasets)\//.test(path))
      .map(([path, object]) => {
        const { resourceVersion: _, generation: __, annotations, ...metadata } = structuredClone(object.metadata);
        const { "deployment.kubernetes.io/revision": ___, ...notes } = annotations ?? {};
        return [path, { ...structuredClone(object), status: undefined, metadata: { ...metadata, notes } }];
      }),
  );
const crash = (image: string) => (of: string) =>
  of === image ? { restartCount: 1, state: { terminated: { exitCode: 7 } } } : {};

const faults: [string, () => Response][] = [
  [
    "a refused connection",
    () => {
      throw new TypeError("refused");
    },
  ],
  ["429", () => Response.json({ message: "slow down" }, { status: 429, headers: { "Retry-After": "0" } })],
  ["a webhook's 500", () => Response.json({ message: "failed calling webhook" }, { status: 500 })],
  ["503", () => Response.json({ message: "unavailable" }, { status: 503 })],
  ["a truncated response", () => new Response('{"kind":')],
];

describe.each(faults)("%s at each request of a deploy in turn", (_, fault) => {
  /** Runs `work`, whose n-th request fails once. @returns the number of requests */
  async function withFault(n: number, work: () => Promise<unknown>): Promise<number> {
    let asked = 0;
    cluster.intercept = () => (asked++ === n ? fault() : undefined);
    try {
      await work();
    } finally {
      cluster.intercept = () => undefined;
    }
    return asked;
  }

  test("is retried, and the version is verified", async () => {
    await bring("a");
    const all = await withFault(-1, () => bring("b"));
    expect(all).toBeGreaterThan(15);
    for (let n = 0; n < all; n += 1) {
      const id = `v${n}`;
      await withFault(n, () => bring(id));
      expect(cluster.served(), `request ${n}`).toBe(id);
      const [latest] = await listVersions(run.target.api);
      expect(latest, `request ${n}`).toMatchObject({ id, verified: expect.any(String) });
    }
  }, 60_000);
});

describe("another process acquires the lock at each write of a deploy in turn", () => {
  test.each([
    ["that succeeds", () => ({})],
    ["that is rolled back", crash("helloapp:b")],
  ])(
    "%s: nothing more is written, and a deploy that had written exits with 4",
    async (_, container) => {
      await bring("a");
      cluster.container = container;
      const told = new Set<string>();
      for (let n = 0, asked = n + 1; n < asked; n += 1) {
        let after: string[] | undefined;
        asked = 0;
        cluster.changes.length = 0;
        cluster.intercept = (method) => {
          if (method === "GET") return undefined;
          const lease = asked++ === n ? cluster.get<KubeObject>(lock) : undefined;
          if (!lease) return undefined;
          lease.metadata = { ...lease.metadata, annotations: {}, resourceVersion: "another" };
          // Simulates a suspend of this machine, during which nothing is renewed.
          setSystemTime(new Date(Date.now() + 3600_000));
          // The current request has passed the check already.
          queueMicrotask(() => (after = cluster.changes.splice(0)));
          return undefined;
        };
        const error = await bring("b").then(
          () => undefined,
          (thrown: PipelineError) => thrown,
        );
        cluster.intercept = () => undefined;
        setSystemTime();
        if (after) {
          const others = cluster.changes.filter((change) => !change.endsWith(lock));
          expect(others, `change ${n}`).toEqual([]);
          const begun = after.some((change) => !/\/leases(\/|$)/.test(change));
          if (error?.message.includes("lock was lost"))
            expect(error.kind, `change ${n}`).toBe(begun ? "partial" : "environment");
          told.add(error?.kind ?? "up");
        }
        cluster.objects.delete(lock);
        cluster.container = () => ({});
        await bring("a");
        cluster.container = container;
      }
      expect(told).toContain("partial");
    },
    60_000,
  );
});

describe("permanent errors", () => {
  const lasting = (method: string, part: string, reply: () => Response) => {
    cluster.intercept = (asked, path) => {
      if (cluster.changes.some((change) => change.includes("deployments")) && cluster.served() !== "b")
        return undefined;
      return asked === method && path.includes(part) ? reply() : undefined;
    };
  };

  test("an admission 403 during the apply: exit 1, everything is restored", async () => {
    await bring("a");
    const before = state();
    manifests = [base[0]!, named("ConfigMap", "settings", { data: { level: "2" } }), ...base.slice(2)];
    lasting("PATCH", "deployments", () => Response.json({ message: "admission: no" }, { status: 403 }));
    // The dry run succeeds.
    const planned =
      ((process.env.MANIFESTS = JSON.stringify(manifests)),
      await ((cluster.intercept = () => undefined), planDeploy(run, "b")));
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === deployment
        ? Response.json({ message: "admission: no" }, { status: 403 })
        : undefined;
    const error = await failureOf(deploy(run, planned, "x.tar"));
    expect(error).toMatchObject({
      kind: "project",
      message: expect.stringContaining("the cluster is as before"),
    });
    cluster.intercept = () => undefined;
    expect(state()).toEqual(before);
    expect(cluster.served()).toBe("a");
    await bring("b");
    expect(cluster.served()).toBe("b");
  });

  test("a webhook that keeps failing: exit 3, everything is restored, and the next run succeeds", async () => {
    await bring("a");
    const before = state();
    manifests = [base[0]!, named("ConfigMap", "settings", { data: { level: "2" } }), ...base.slice(2)];
    process.env.MANIFESTS = JSON.stringify(manifests);
    const planned = await planDeploy(run, "b");
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === deployment ? Response.json({ message: "webhook" }, { status: 500 }) : undefined;
    let left = "";
    run.recordState = (state) => void (left = state);
    const error = await failureOf(deploy(run, planned, "x.tar"));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("It was undone: the cluster is as before");
    // Shown below the message.
    expect(left).toContain("was undone");
    cluster.intercept = () => undefined;
    expect(state()).toEqual(before);
    await bring("b");
    expect(cluster.served()).toBe("b");
  });

  test("a server outage after the apply: exit 4, and the message describes the state", async () => {
    await bring("a");
    process.env.MANIFESTS = JSON.stringify(manifests);
    const planned = await planDeploy(run, "b");
    let gone = false;
    cluster.intercept = (method, path) => {
      if (method === "PATCH" && path === at("services/helloapp")) gone = true;
      if (gone) throw new TypeError("refused");
      return undefined;
    };
    const error = await failureOf(deploy(run, planned, "x.tar"));
    expect(error.kind).toBe("partial");
    expect(error.message).toContain("The rollback of helloapp:b failed as well");
    cluster.intercept = () => undefined;
    // The lock could not be released. Its holder, this process, would have ended by then.
    cluster.objects.delete(lock);
    await bring("b");
    expect(cluster.served()).toBe("b");
  }, 20_000);

  test("a failed delivery: exit 3, nothing was changed", async () => {
    await bring("a");
    const before = [...cluster.objects.keys()].filter((path) => !path.includes("leases")).sort();
    run.target.find = async () => undefined;
    run.target.deliver = () =>
      Promise.reject(new PipelineError("environment", "the disk is full", { code: "node-disk-full" }));
    expect(await failureOf(bring("b"))).toMatchObject({ kind: "environment" });
    expect([...cluster.objects.keys()].filter((path) => !path.includes("leases")).sort()).toEqual(before);
  });

  test("a failed delivery of the first deploy: no namespace is created", async () => {
    run.target.find = async () => undefined;
    run.target.deliver = () =>
      Promise.reject(new PipelineError("environment", "the disk is full", { code: "node-disk-full" }));
    await failureOf(bring("a"));
    expect([...cluster.objects.keys()]).toEqual([]);
  });
});

/** Adds a default class, without which a claim is refused at the plan. */
function addStorageClass(): void {
  const annotations = { "storageclass.kubernetes.io/is-default-class": "true" };
  const metadata = { name: "standard", annotations };
  const kind = { apiVersion: "storage.k8s.io/v1", kind: "StorageClass" };
  cluster.objects.set("/apis/storage.k8s.io/v1/storageclasses/standard", { ...kind, metadata });
}

describe("exit 3: nothing was changed", () => {
  /** All objects except the lock. */
  const everything = () =>
    structuredClone(Object.fromEntries([...cluster.objects].filter(([path]) => !path.includes("/leases/"))));
  const forbidden = () => Response.json({ message: 'user "x" cannot do that' }, { status: 403 });
  const isNote = (path: string) => path.includes("/secrets/helloapp-version-");

  test("a failed rollback deletes no Secret", async () => {
    for (const id of ["a", "b"]) await bring(id);
    cluster.objects.set(at("secrets/theirs"), named("Secret", "theirs"));
    const before = Object.keys(everything()).filter((path) => path.includes("/secrets/"));
    let refused = false;
    cluster.intercept = (method, path) => {
      if (refused || method !== "PATCH" || path !== deployment) return undefined;
      refused = true;
      return forbidden();
    };
    expect(await failureOf(rollback(run))).toMatchObject({ kind: "environment" });
    expect(Object.keys(everything()).filter((path) => path.includes("/secrets/"))).toEqual(before);
  });

  test("a failed deploy of an earlier version leaves its stored version unchanged", async () => {
    for (const id of ["a", "b"]) await bring(id);
    const before = await listVersions(run.target.api);
    process.env.MANIFESTS = JSON.stringify(manifests);
    const planned = await planDeploy(run, "a");
    let refused = false;
    cluster.intercept = (method, path) => {
      if (refused || method !== "PATCH" || path !== deployment) return undefined;
      refused = true;
      return forbidden();
    };
    expect(await failureOf(deploy(run, planned, "x.tar"))).toMatchObject({ kind: "environment" });
    expect(await listVersions(run.target.api)).toEqual(before);
  });

  test.each([1, 2])("a rejected write number %d of the stored version: nothing is left", async (nth) => {
    await bring("a");
    const before = everything();
    process.env.MANIFESTS = JSON.stringify(manifests);
    const planned = await planDeploy(run, "b");
    let notes = 0;
    cluster.intercept = (method, path) =>
      method === "PATCH" && isNote(path) && (notes += 1) === nth ? forbidden() : undefined;
    expect(await failureOf(deploy(run, planned, "x.tar"))).toMatchObject({ kind: "environment" });
    expect(everything()).toEqual(before);
  });

  test("a stored version that cannot be deleted: exit 4 names it, and the next run succeeds", async () => {
    await bring("a");
    process.env.MANIFESTS = JSON.stringify(manifests);
    const planned = await planDeploy(run, "b");
    run.target.find = async () => undefined;
    run.target.deliver = () =>
      Promise.reject(new PipelineError("environment", "the disk is full", { code: "node-disk-full" }));
    cluster.intercept = (method, path) => (method === "DELETE" && isNote(path) ? forbidden() : undefined);
    const error = await failureOf(deploy(run, planned, "x.tar"));
    expect(error).toMatchObject({
      kind: "partial",
      message: expect.stringMatching(/the disk is full\. Nothing was rolled out.*Secret\/helloapp-version-b-/),
      hint: expect.stringContaining("Run the same command again to continue"),
    });
    cluster.intercept = () => undefined;
    run.target.deliver = async (_, id) => `helloapp:${id}`;
    await bring("b");
    expect(cluster.served()).toBe("b");
  });

  test("a failed deploy does not store the version that was deployed without the pipeline", async () => {
    await bring("a");
    for (const path of cluster.objects.keys()) if (isNote(path)) cluster.objects.delete(path);
    const before = Object.keys(everything()).sort();
    cluster.container = crash("helloapp:b");
    await failureOf(bring("b"));
    // The failed version's ReplicaSet belongs to its controller.
    const now = Object.keys(everything()).filter((path) => !/\/(replicasets|pods)\//.test(path));
    expect(now.sort()).toEqual(before.filter((path) => !/\/(replicasets|pods)\//.test(path)));
  });

  test("objects that are never deleted automatically (namespace, claim) are named, exit 4", async () => {
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === at("services/helloapp") && cluster.objects.has(at("configmaps/settings"))
        ? forbidden()
        : undefined;
    // An empty namespace that the run has created is deleted.
    expect(await failureOf(bring("a"))).toMatchObject({ kind: "environment" });
    expect(cluster.objects.has(`/api/v1/namespaces/${service.namespace}`)).toBe(false);
    const create = cluster.intercept;
    cluster.intercept = (method, path) => {
      // Somebody uses it at once.
      if (path === at("services/helloapp")) cluster.objects.set(at("configmaps/theirs"), named("ConfigMap", "theirs"));
      return create(method, path);
    };
    const namespace = await failureOf(bring("a"));
    cluster.objects.delete(at("configmaps/theirs"));
    expect(namespace).toMatchObject({
      kind: "partial",
      message: expect.stringContaining(`not deleted automatically: Namespace/${service.namespace}`),
      hint: expect.stringContaining("Run the same command again to continue"),
    });
    cluster.intercept = () => undefined;
    await bring("a");
    addStorageClass();
    manifests = [...base.slice(0, 3), named("PersistentVolumeClaim", "data"), workload];
    process.env.MANIFESTS = JSON.stringify(manifests);
    const planned = await planDeploy(run, "b");
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === deployment && cluster.objects.has(at("persistentvolumeclaims/data"))
        ? forbidden()
        : undefined;
    const claim = await failureOf(deploy(run, planned, "x.tar"));
    expect(claim.kind).toBe("partial");
    expect(claim.message).toContain("PersistentVolumeClaim/data");
    expect(claim.message).not.toContain("the cluster is as before");
  });
});

describe("a deploy that has begun", () => {
  const lease = `/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`;

  test("and loses the lock reports its state, exit 4", async () => {
    await bring("a");
    run.service.rolloutTimeoutSeconds = 30;
    run.service.readyTimeoutSeconds = 30;
    cluster.container = (image) => (image === "helloapp:b" ? { ready: false } : {});
    cluster.intercept = (method, path) => {
      // Another process acquires it when the Deployment is written.
      if (method === "PATCH" && path === deployment && cluster.objects.has(lease))
        cluster.get(lease).metadata = {
          ...cluster.get(lease).metadata,
          annotations: {},
          resourceVersion: "theirs",
        };
      return undefined;
    };
    const error = await failureOf(bring("b"));
    expect(error.kind).toBe("partial");
    expect(error.message).toMatch(
      /helloapp:b was being rolled out and may be applied in part: the deploy lock was lost/,
    );
    expect(error.hint).toContain("Run the same command again to continue");
  }, 30_000);

  test("and is interrupted fails with the interruption", async () => {
    await bring("a");
    const interrupted = new AbortController();
    run.signal = interrupted.signal;
    cluster.intercept = (method, path) => {
      if (method === "PATCH" && path === deployment && cluster.objects.has(lease))
        interrupted.abort(new PipelineError("interrupted", "interrupted"));
      return undefined;
    };
    expect(await failureOf(bring("b"))).toMatchObject({ kind: "interrupted" });
  });

  test.each(["slipway/pre-deploy", "slipway/first"])(
    "and has run a Job (%s) names it when the rest is rolled back, exit 4",
    async (annotation) => {
      await bring("a");
      const job = named("Job", "migration", { spec: {} }, "batch/v1");
      job.metadata.annotations = { [annotation]: "true" };
      manifests = [...base.slice(0, 3), job, workload];
      process.env.MANIFESTS = JSON.stringify(manifests);
      const planned = await planDeploy(run, "b");
      cluster.intercept = (method, path) => {
        const [made] = [...cluster.objects].find(([one]) => one.includes("/jobs/migration-")) ?? [];
        if (made)
          Object.assign(cluster.get(made), {
            status: { conditions: [{ type: "Complete", status: "True" }] },
          });
        return method === "PATCH" && path === deployment && made
          ? Response.json({ message: 'user "x" cannot' }, { status: 403 })
          : undefined;
      };
      const error = await failureOf(deploy(run, planned, "x.tar"));
      expect(error.kind).toBe("partial");
      expect(error.message).toMatch(/It was undone\. Left in the cluster, .*: Job\/migration-b-/);
      expect(cluster.served()).toBe("a");
    },
  );
});

test("a rollback that serves but cannot be recorded: the next command names the version", async () => {
  for (const id of ["a", "b"]) await bring(id);
  cluster.intercept = (method, path) =>
    method === "PATCH" && path.includes("/secrets/helloapp-version-b-")
      ? Response.json({ message: 'user "x" cannot' }, { status: 403 })
      : undefined;
  const error = await failureOf(rollback(run));
  cluster.intercept = () => undefined;
  expect(error.kind).toBe("partial");
  expect(error.hint).toContain("Run `bun ci/pipeline.ts rollback a` to continue");
  // Without the id, it would select the version that was just rolled back.
  expect(await rollback(run, "a")).toBe("a");
  expect(cluster.served()).toBe("a");
});

test("a verified rollback whose undo fails: the next command names the version", async () => {
  for (const id of ["a", "b"]) await bring(id);
  let isVerified = false;
  const { step } = run;
  run.step = async (name, work) => {
    isVerified ||= name === "settle";
    return step(name, work);
  };
  cluster.intercept = (_, path) =>
    isVerified && path.startsWith("/apis/apps/")
      ? Response.json({ message: 'user "x" cannot' }, { status: 403 })
      : undefined;
  const error = await failureOf(rollback(run));
  cluster.intercept = () => undefined;
  expect(error.kind).toBe("partial");
  expect(error.message).toContain("The rollback of helloapp:a failed as well");
  expect(error.hint).toContain("Run `bun ci/pipeline.ts rollback a` to continue");
  expect(await rollback(run, "a")).toBe("a");
  expect(cluster.served()).toBe("a");
});

describe("the automatic rollback", () => {
  test("restores manual changes, annotations included", async () => {
    await bring("a");
    const live = cluster.get<KubeObject & { data: Record<string, string> }>(at("configmaps/settings"));
    live.data = { level: "9", extra: "by hand" };
    live.metadata.annotations = { ...live.metadata.annotations, note: "by hand" };
    live.metadata.resourceVersion = "by hand";
    const before = state();
    cluster.container = crash("helloapp:b");
    const error = await failureOf(bring("b"));
    expect(error.message).toContain("Rolled back: helloapp:a serves, as before");
    expect(state()).toEqual(before);
  });

  test.each([
    ["Service", "services", "v1"],
    ["PersistentVolumeClaim", "persistentvolumeclaims", "v1"],
    ["Secret", "secrets", "v1"],
  ])("restores a %s that was created by hand and is in the new overlay", async (kind, resources) => {
    await bring("a");
    const path = at(`${resources}/theirs`);
    cluster.objects.set(path, { ...named(kind, "theirs", { spec: { by: "hand" } }) });
    manifests = [...base.slice(0, 3), named(kind, "theirs", { spec: { by: "us" } }), workload];
    cluster.container = crash("helloapp:b");
    await failureOf(bring("b"));
    expect(cluster.get<KubeObject>(path)).toMatchObject({ spec: { by: "hand" } });
  });

  // Regression: the retry budget of these requests was lost in a rename.
  test.each(["PUT", "POST"])("retries a %s that fails once", async (method) => {
    await bring("a");
    manifests = [base[0]!, named("ConfigMap", "settings", { data: { level: "2" } }), ...base.slice(2)];
    cluster.container = crash("helloapp:b");
    let failures = 0;
    cluster.intercept = (asked, path) => {
      const isRestore =
        cluster.changes.some((change) => change === `PATCH ${deployment}`) && path.includes("/configmaps");
      // With POST, the object was deleted by hand during the deploy.
      if (isRestore && method === "POST" && failures === 0) cluster.objects.delete(at("configmaps/settings"));
      if (!isRestore || asked !== method || failures > 0) return undefined;
      failures += 1;
      return Response.json({ message: "unavailable" }, { status: 503 });
    };
    cluster.changes.length = 0;
    expect((await failureOf(bring("b"))).message).toContain("Rolled back: helloapp:a serves");
    expect(failures).toBe(1);
    expect(cluster.get<KubeObject & { data: object }>(at("configmaps/settings")).data).toEqual({
      level: "1",
    });
  });

  test("deletes objects of the deploy, but no PersistentVolumeClaim", async () => {
    await bring("a");
    addStorageClass();
    const made = [named("Service", "new"), named("PersistentVolumeClaim", "data")];
    manifests = [...base.slice(0, 3), ...made, workload];
    cluster.container = crash("helloapp:b");
    await failureOf(bring("b"));
    expect(cluster.objects.has(at("services/new"))).toBe(false);
    expect(cluster.objects.has(at("persistentvolumeclaims/data"))).toBe(true);
    expect(said.join("\n")).toContain("not deleted: PersistentVolumeClaim/data");
  });

  test("a `rollback` that fails restores the current version", async () => {
    for (const id of ["a", "b"]) await bring(id);
    cluster.container = crash("helloapp:a");
    const error = await failureOf(rollback(run));
    expect(error).toMatchObject({
      kind: "project",
      message: expect.stringContaining("helloapp:b serves, as before"),
    });
    expect(cluster.served()).toBe("b");
    expect((await listVersions(run.target.api)).map(({ id }) => id)).toEqual(["b", "a"]);
  });
});

describe("versions", () => {
  test("with the same id but other manifests are separate versions", async () => {
    await bring("a");
    manifests = [base[0]!, named("ConfigMap", "settings", { data: { level: "2" } }), ...base.slice(2)];
    await bring("a");
    expect((await listVersions(run.target.api)).length).toBe(2);
    expect(await rollback(run)).toBe("a");
    expect(cluster.get<KubeObject & { data: object }>(at("configmaps/settings")).data).toEqual({
      level: "1",
    });
  });

  test("that are invalid are logged and skipped", async () => {
    for (const id of ["a", "b"]) await bring(id);
    const forged = named("Secret", "helloapp-version-x", {
      type: "slipway/version",
      data: { id: btoa("x") },
    });
    forged.metadata.labels = {
      "app.kubernetes.io/name": "helloapp",
      "app.kubernetes.io/component": "version",
    };
    cluster.objects.set(at("secrets/helloapp-version-x"), forged);
    expect(await rollback(run)).toBe("a");
    expect(said.join("\n")).toContain("skipping Secret/helloapp-version-x, not a valid version");
  });

  test("with an object that the overlay does not contain are not applied", async () => {
    for (const id of ["a", "b"]) await bring(id);
    const { deleteVersion, saveVersion } = await import("../deploy/release-history.ts");
    const [, a] = await listVersions(run.target.api);
    await deleteVersion(run.target.api, a!);
    const role = {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRole",
      metadata: { name: "all" },
    };
    await saveVersion(run.target.api, { ...a!, manifests: [...a!.manifests, role] });
    const error = await failureOf(rollback(run));
    expect(error).toMatchObject({
      kind: "environment",
      message: expect.stringContaining("ClusterRole/all"),
    });
    expect(cluster.served()).toBe("b");
  });

  test("larger than a Secret are rejected before the delivery", async () => {
    let delivered = false;
    run.target.find = async () => undefined;
    run.target.deliver = async (_, id) => ((delivered = true), id);
    const text = () => crypto.getRandomValues(new Uint8Array(65_536)).toHex();
    const large = Array.from({ length: 24 }, (_, i) => named("ConfigMap", `large-${i}`, { data: { text: text() } }));
    // Too large for an environment variable.
    const file = join(tmpdir(), `helloapp-large-${process.pid}.json`);
    await Bun.write(file, JSON.stringify([...base.slice(0, 3), ...large, workload]));
    run.target.kubectl = [process.execPath, "-e", `console.log(await Bun.file("${file}").text())`];
    const error = await failureOf(planDeploy(run, "a"));
    await unlink(file);
    expect(error).toMatchObject({
      kind: "project",
      message: expect.stringContaining("too large to store as a version"),
    });
    expect(delivered).toBe(false);
  });
});

describe("secrets", () => {
  const secret = (value: string, name = "token") => named("Secret", name, { stringData: { key: value } });

  test("values appear in no plan, no output, and no object except the Secret", async () => {
    for (const [id, value] of [
      ["a", "hunter-one"],
      ["b", "hunter-two"],
      ["c", "hunter-three"],
    ] as const) {
      manifests = [...base.slice(0, 3), secret(value), workload];
      process.env.MANIFESTS = JSON.stringify(manifests);
      const planned = await planDeploy(run, id);
      expect(JSON.stringify(planned.differences)).not.toContain("hunter");
      if (id !== "a") expect(planned.differences.flatMap(({ lines }) => lines)).toContain("stringData.key changed");
      await deploy(run, planned, "x.tar");
    }
    await rollback(run);
    const others = [...cluster.objects].filter(([path]) => !path.endsWith("/secrets/token"));
    const all = JSON.stringify([others, said]);
    for (const value of ["hunter-one", "hunter-two", "hunter-three"]) {
      expect(all).not.toContain(value);
      expect(all).not.toContain(btoa(value));
      expect(JSON.stringify([...cluster.objects]).includes(value)).toBe(value === "hunter-three");
    }
  });

  test("a Secret named by its content exists as long as a stored version needs it", async () => {
    for (const id of ["a", "b"]) {
      manifests = [...base.slice(0, 3), secret(id, `token-${id}`), workload];
      await bring(id);
    }
    expect(cluster.objects.has(at("secrets/token-a"))).toBe(true);
    expect(await rollback(run)).toBe("a");
    expect(cluster.objects.has(at("secrets/token-a"))).toBe(true);
    run.service.keepVersions = 1;
    manifests = [...base.slice(0, 3), secret("c", "token-c"), workload];
    await bring("c");
    expect(cluster.objects.has(at("secrets/token-a"))).toBe(false);
    expect(cluster.objects.has(at("secrets/token-c"))).toBe(true);
  });

  test("a rejected Secret is named without the server's message", async () => {
    await bring("a");
    manifests = [...base.slice(0, 3), secret("hunter"), workload];
    cluster.intercept = (method, path) =>
      method === "PATCH" && path.endsWith("/token")
        ? Response.json({ message: 'Invalid value: "hunter"' }, { status: 422 })
        : undefined;
    const error = await failureOf(bring("b"));
    expect(error.message).toContain("Secret/token");
    expect(JSON.stringify([error.message, error.output, error.hint, String(error.cause)])).not.toContain("hunter");
  });
});

describe("replicas set by an autoscaler", () => {
  const scaler = named(
    "HorizontalPodAutoscaler",
    "helloapp",
    { spec: { minReplicas: 2, maxReplicas: 6, scaleTargetRef: { kind: "Deployment", name: "helloapp" } } },
    "autoscaling/v2",
  );
  const replicas = () => cluster.get<Deployment>(deployment).spec.replicas;

  test("are kept by a deploy, start at the minimum, and are no difference in a plan", async () => {
    manifests = [...base.slice(0, 3), scaler, workload];
    manifests = manifests.map((one) =>
      one === workload ? ({ ...workload, spec: { ...(workload as Deployment).spec, replicas: 1 } } as KubeObject) : one,
    );
    await bring("a");
    expect(replicas()).toBe(2);
    cluster.get<Deployment>(deployment).spec.replicas = 4;
    await bring("b");
    expect(replicas()).toBe(4);
    process.env.MANIFESTS = JSON.stringify(manifests);
    expect((await planDeploy(run, "b")).differences).toEqual([]);
  });

  // Regression: a deploy reset the replicas to their number before a migration.
  test("are kept if they change after the cluster was read", async () => {
    manifests = [...base.slice(0, 3), scaler, workload];
    await bring("a");
    run.log = (line) => {
      if (line.startsWith("apply ")) cluster.get<Deployment>(deployment).spec.replicas = 6;
    };
    await bring("b");
    expect(replicas()).toBe(6);
  });

  // Regression: a failed version under load removed pods that the autoscaler had added in the meantime.
  test("are kept if they change before a rollback", async () => {
    manifests = [...base.slice(0, 3), scaler, workload];
    await bring("a");
    cluster.container = crash("helloapp:b");
    run.log = (line) => {
      if (line.startsWith("roll back to ")) cluster.get<Deployment>(deployment).spec.replicas = 6;
    };
    expect((await failureOf(bring("b"))).message).toContain("Rolled back: helloapp:a serves");
    expect(replicas()).toBe(6);
  });

  test("are restored if the autoscaler is new in the failed version", async () => {
    await bring("a");
    manifests = [...base.slice(0, 3), scaler, workload];
    cluster.container = crash("helloapp:b");
    run.log = (line) => {
      if (line.startsWith("roll back to ")) cluster.get<Deployment>(deployment).spec.replicas = 6;
    };
    expect((await failureOf(bring("b"))).message).toContain("Rolled back: helloapp:a serves");
    expect(replicas()).toBe(2);
  });

  // Manifests for an autoscaler usually set no replicas.
  test("without replicas in the manifest, start at the minimum and are kept", async () => {
    const { replicas: _, ...spec } = (workload as Deployment).spec;
    manifests = [...base.slice(0, 3), scaler, { ...workload, spec } as KubeObject];
    await bring("a");
    expect(replicas()).toBe(2);
    cluster.get<Deployment>(deployment).spec.replicas = 5;
    await bring("b");
    expect(replicas()).toBe(5);
  });

  test.each([
    [500, "environment"],
    [403, undefined],
  ])("status %d for the list of autoscalers: fails, unless the user may not list them", async (status, fault) => {
    manifests = [...base.slice(0, 3), workload];
    await bring("a");
    cluster.objects.set(`/apis/autoscaling/v2/namespaces/${service.namespace}/horizontalpodautoscalers/x`, scaler);
    cluster.intercept = (_, path) =>
      path.endsWith("/horizontalpodautoscalers") ? Response.json({ message: "no" }, { status }) : undefined;
    const error = await bring("b").then(
      () => undefined,
      (error: PipelineError) => error,
    );
    expect(error?.kind).toBe(fault as "environment");
    expect(cluster.served()).toBe(fault ? "a" : "b");
  });
});

test("every pod template with the service's image gets the version's image", async () => {
  const template = {
    spec: {
      containers: [
        { name: "x", image: "helloapp" },
        { name: "y", image: "other:1" },
      ],
    },
  };
  const job = named("Job", "once", { spec: { template } }, "batch/v1");
  manifests = [...base.slice(0, 3), job, workload];
  await bring("a");
  const made = cluster.get<KubeObject & { spec: { template: typeof template } }>(
    `/apis/batch/v1/namespaces/${service.namespace}/jobs/once`,
  );
  expect(made.spec.template.spec.containers.map(({ image }) => image)).toEqual(["helloapp:a", "other:1"]);
});

test("the pipeline's own annotations are no changes in the next plan", async () => {
  await bring("a");
  process.env.MANIFESTS = JSON.stringify(manifests);
  expect(isUpToDate(run, await planDeploy(run, "a"))).toBe(true);
});
