/** The deploy lock. */
import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import type { ApiClient } from "../kubernetes/api.ts";
import { processIdentity, acquireLock, type Lease, type Lock } from "../deploy/lock.ts";
import type { PipelineError } from "../core/errors.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

const path = `/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`;
const PROCESS = "helloapp-pipeline/process";
const otherMachine = "other-boot/pid:[1]/7/1";

function createCluster(): FakeCluster {
  const cluster = new FakeCluster();
  const namespace = { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } };
  cluster.objects.set(`/api/v1/namespaces/${service.namespace}`, namespace);
  return cluster;
}

const locks: Lock[] = [];
afterEach(async () => {
  for (const lock of locks.splice(0)) await lock.release();
});

async function acquire(api: ApiClient, options: Partial<Parameters<typeof acquireLock>[1]> = {}) {
  const lines: string[] = [];
  const log = (line: string) => void lines.push(line);
  const lock = await acquireLock(api, {
    purpose: "deploy of helloapp:abc",
    log,
    leaseSeconds: 0.1,
    renewSeconds: 0.01,
    ...options,
  });
  locks.push(lock);
  return { lock, lines };
}

/** Stores a Lease that this process holds. */
function heldBy(cluster: FakeCluster, process: string): Lease {
  const lease: Lease = {
    apiVersion: "coordination.k8s.io/v1",
    kind: "Lease",
    metadata: {
      name: "helloapp-deploy",
      resourceVersion: "1",
      uid: "u",
      annotations: { [PROCESS]: process },
    },
    spec: { holderIdentity: "ann@laptop (deploy of helloapp:def)" },
  };
  cluster.objects.set(path, lease);
  return lease;
}

const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

test("is acquired with holder and purpose, and deleted on release", async () => {
  const cluster = createCluster();
  const { lock } = await acquire(cluster.api());
  expect(cluster.get<Lease>(path).spec.holderIdentity).toMatch(/^.+@.+ \(deploy of helloapp:abc\)$/);
  await lock.release();
  expect(cluster.objects.has(path)).toBe(false);
});

test("is deleted on release after an interruption", async () => {
  const cluster = createCluster();
  const interruption = new AbortController();
  const { lock } = await acquire(cluster.api(interruption.signal));
  interruption.abort();
  await lock.release();
  expect(cluster.objects.has(path)).toBe(false);
});

test("a release that fails is logged with the lock's expiry", async () => {
  const cluster = createCluster();
  const { lock, lines } = await acquire(cluster.api());
  const failDelete = (status: number) => {
    cluster.intercept = (method) =>
      method === "DELETE" ? Response.json({ message: "forbidden" }, { status }) : undefined;
  };
  // Another process holds it, or it is gone: nothing to log.
  for (const status of [404, 409]) {
    failDelete(status);
    await lock.release();
  }
  expect(lines).toEqual([]);
  failDelete(403);
  await lock.release();
  expect(lines.join()).toMatch(/could not be released and expires within 0\.1 s: .*forbidden/);
  cluster.intercept = () => undefined;
});

test("a missing namespace is an error, without waiting", async () => {
  const error = await failureOf(acquire(new FakeCluster().api()));
  expect(error.message).toContain("not found");
});

test("of ten concurrent attempts, exactly one acquires it", async () => {
  const cluster = createCluster();
  const results = await Promise.allSettled(Array.from({ length: 10 }, () => acquire(cluster.api())));
  expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  for (const result of results) {
    if (result.status === "rejected") expect(result.reason.message).toContain("holds the lock");
  }
});

describe("held by another process", () => {
  test("a live process of this machine: fails at once, names the holder, exit 3", async () => {
    const cluster = createCluster();
    heldBy(cluster, processIdentity());
    const error = await failureOf(acquire(cluster.api(), { leaseSeconds: 3600 }));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("ann@laptop (deploy of helloapp:def) holds the lock");
  });

  test("a dead process of this machine: is taken over at once", async () => {
    const cluster = createCluster();
    const child = Bun.spawn(["sleep", "60"]);
    const name = processIdentity(child.pid);
    child.kill("SIGKILL");
    await child.exited;
    heldBy(cluster, name);
    const { lines } = await acquire(cluster.api(), { leaseSeconds: 3600 });
    expect(lines.join()).toContain("ann@laptop (deploy of helloapp:def) has ended without releasing it");
    expect(cluster.get<Lease>(path).spec.holderIdentity).toContain("helloapp:abc");
  });

  test("a process of another machine that renews it: fails", async () => {
    const cluster = createCluster();
    const lease = heldBy(cluster, otherMachine);
    let polls = 0;
    cluster.intercept = (method) => {
      if (method === "GET" && ++polls === 3) lease.metadata.resourceVersion = "2";
      return undefined;
    };
    const error = await failureOf(acquire(cluster.api(), { leaseSeconds: 3600 }));
    expect(error.message).toContain("ann@laptop");
    expect(polls).toBe(3);
  });

  test("a process of another machine that does not renew it: is taken over, whatever its clock says", async () => {
    const cluster = createCluster();
    const lease = heldBy(cluster, otherMachine);
    lease.spec.renewTime = "2999-01-01T00:00:00.000000Z";
    const { lines } = await acquire(cluster.api());
    expect(lines[0]).toContain("waiting for its next renewal");
    expect(lines[1]).toContain("taking over the lock");
    expect(cluster.get<Lease>(path).metadata.annotations![PROCESS]).toStartWith(`${processIdentity()}#`);
  });

  test("of three concurrent takeovers, exactly one succeeds", async () => {
    const cluster = createCluster();
    heldBy(cluster, otherMachine);
    const results = await Promise.allSettled([acquire(cluster.api()), acquire(cluster.api()), acquire(cluster.api())]);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });
});

describe("while held", () => {
  const renewals = (cluster: FakeCluster) => cluster.changes.filter((change) => change.startsWith("PUT")).length;

  test("is renewed", async () => {
    const cluster = createCluster();
    await acquire(cluster.api());
    while (renewals(cluster) < 3) await Bun.sleep(1);
  });

  test("is lost if another process holds it, and is not deleted then", async () => {
    const cluster = createCluster();
    const { lock } = await acquire(cluster.api());
    heldBy(cluster, otherMachine).metadata.resourceVersion = "999";
    while (!lock.lost.aborted) await Bun.sleep(1);
    expect((lock.lost.reason as PipelineError).message).toContain("lock was lost");
    await lock.release();
    expect(cluster.get<Lease>(path).spec.holderIdentity).toContain("ann@laptop");
  });

  test("is lost if another process has held and released it", async () => {
    const cluster = createCluster();
    const { lock } = await acquire(cluster.api());
    cluster.objects.delete(path);
    // A real server responds with 409 for a deleted uid.
    cluster.intercept = (method) =>
      method === "PUT" ? Response.json({ message: "StorageError: invalid object" }, { status: 409 }) : undefined;
    while (!lock.lost.aborted) await Bun.sleep(1);
  });

  test("is kept while the server does not respond, but blocks writes until it does", async () => {
    const cluster = createCluster();
    const api = cluster.api();
    api.retryBudgetSeconds = 0.05;
    const { lock } = await acquire(api);
    const since = performance.now();
    let failures = 0;
    cluster.intercept = () => {
      failures += 1;
      throw new TypeError("connection refused");
    };
    // For longer than the Lease's duration.
    while (failures < 5 || performance.now() - since < 150) await Bun.sleep(1);
    expect(await failureOf(lock.ensureHeld())).toMatchObject({
      kind: "environment",
      message: expect.stringContaining("connection refused"),
    });
    expect(lock.lost.aborted).toBe(false);
    cluster.intercept = () => undefined;
    await lock.ensureHeld();
  });

  test("blocks writes after a suspend during which another process acquired it", async () => {
    const cluster = createCluster();
    const { lock } = await acquire(cluster.api(), { leaseSeconds: 3600, renewSeconds: 3600 });
    await lock.ensureHeld();
    heldBy(cluster, otherMachine).metadata.resourceVersion = "999";
    // The monotonic clock stops while a machine is suspended.
    setSystemTime(new Date(Date.now() + 10 * 3600_000));
    try {
      expect(await failureOf(lock.ensureHeld())).toMatchObject({
        message: expect.stringContaining("lock was lost"),
      });
    } finally {
      setSystemTime();
    }
  });
});
