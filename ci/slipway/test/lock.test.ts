/** One deploy at a time. */
import { afterEach, describe, expect, setSystemTime, test } from "bun:test";
import type { ApiClient } from "../kubernetes/api.ts";
import { processIdentity, acquireLock, type Lease, type Lock } from "../deploy/lock.ts";
import type { PipelineError } from "../core/errors.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-fixture.ts";

const path = `/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`;
const PROCESS = "helloapp-pipeline/process";
const elsewhere = "other-boot/pid:[1]/7/1";

function cluster(): FakeCluster {
  const made = new FakeCluster();
  const namespace = { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } };
  made.objects.set(`/api/v1/namespaces/${service.namespace}`, namespace);
  return made;
}

const locks: Lock[] = [];
afterEach(async () => {
  for (const lock of locks.splice(0)) await lock.release();
});

async function take(api: ApiClient, options: Partial<Parameters<typeof acquireLock>[1]> = {}) {
  const said: string[] = [];
  const say = (line: string) => void said.push(line);
  const lock = await acquireLock(api, {
    purpose: "deploy of helloapp:abc",
    say,
    leaseSeconds: 0.1,
    renewSeconds: 0.01,
    ...options,
  });
  locks.push(lock);
  return { lock, said };
}

/** As another machine would hold it. */
function heldBy(made: FakeCluster, process: string): Lease {
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
  made.objects.set(path, lease);
  return lease;
}

const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

test("is taken, names its holder and purpose, and is gone when released", async () => {
  const made = cluster();
  const { lock } = await take(made.api());
  expect(made.get<Lease>(path).spec.holderIdentity).toMatch(/^.+@.+ \(deploy of helloapp:abc\)$/);
  await lock.release();
  expect(made.objects.has(path)).toBe(false);
});

test("is gone when released, also after an interruption", async () => {
  const made = cluster();
  const interruption = new AbortController();
  const { lock } = await take(made.api(interruption.signal));
  interruption.abort();
  await lock.release();
  expect(made.objects.has(path)).toBe(false);
});

test("that may not be taken back is told, with when it ends", async () => {
  const made = cluster();
  const { lock, said } = await take(made.api());
  const refuse = (status: number) => {
    made.intercept = (method) =>
      method === "DELETE" ? Response.json({ message: "forbidden" }, { status }) : undefined;
  };
  // Somebody else's by now, or nobody's: then it is not ours to speak of.
  for (const status of [404, 409]) {
    refuse(status);
    await lock.release();
  }
  expect(said).toEqual([]);
  refuse(403);
  await lock.release();
  expect(said.join()).toMatch(/could not be released, and ends by itself within 0\.1 s: .*forbidden/);
  made.intercept = () => undefined;
});

test("without a namespace it is an error, not a wait", async () => {
  const error = await failureOf(take(new FakeCluster().api()));
  expect(error.message).toContain("not found");
});

test("of all who ask at once, one has it", async () => {
  const made = cluster();
  const results = await Promise.allSettled(Array.from({ length: 10 }, () => take(made.api())));
  expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  for (const result of results) {
    if (result.status === "rejected") expect(result.reason.message).toContain("holds the lock");
  }
});

describe("held by somebody", () => {
  test("of this machine who lives: refused at once, with who it is, exit 3", async () => {
    const made = cluster();
    heldBy(made, processIdentity());
    const error = await failureOf(take(made.api(), { leaseSeconds: 3600 }));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("ann@laptop (deploy of helloapp:def) holds the lock");
  });

  test("of this machine who has died: taken over at once", async () => {
    const made = cluster();
    const child = Bun.spawn(["sleep", "60"]);
    const name = processIdentity(child.pid);
    child.kill("SIGKILL");
    await child.exited;
    heldBy(made, name);
    const { said } = await take(made.api(), { leaseSeconds: 3600 });
    expect(said.join()).toContain("ann@laptop (deploy of helloapp:def) has ended without releasing it");
    expect(made.get<Lease>(path).spec.holderIdentity).toContain("helloapp:abc");
  });

  test("of another machine who renews it: refused", async () => {
    const made = cluster();
    const lease = heldBy(made, elsewhere);
    let looks = 0;
    made.intercept = (method) => {
      if (method === "GET" && ++looks === 3) lease.metadata.resourceVersion = "2";
      return undefined;
    };
    const error = await failureOf(take(made.api(), { leaseSeconds: 3600 }));
    expect(error.message).toContain("ann@laptop");
    expect(looks).toBe(3);
  });

  test("of another machine who does not: waited for, then taken over, whatever its clock says", async () => {
    const made = cluster();
    const lease = heldBy(made, elsewhere);
    lease.spec.renewTime = "2999-01-01T00:00:00.000000Z";
    const { said } = await take(made.api());
    expect(said[0]).toContain("waiting for a sign of life");
    expect(said[1]).toContain("taken over");
    expect(made.get<Lease>(path).metadata.annotations![PROCESS]).toStartWith(`${processIdentity()}#`);
  });

  test("who takes it over first has it", async () => {
    const made = cluster();
    heldBy(made, elsewhere);
    const results = await Promise.allSettled([take(made.api()), take(made.api()), take(made.api())]);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });
});

describe("while it is held", () => {
  const renewed = (made: FakeCluster) => made.changes.filter((change) => change.startsWith("PUT")).length;

  test("it is renewed", async () => {
    const made = cluster();
    await take(made.api());
    while (renewed(made) < 3) await Bun.sleep(1);
  });

  test("another holder means that it is lost", async () => {
    const made = cluster();
    const { lock } = await take(made.api());
    heldBy(made, elsewhere).metadata.resourceVersion = "999";
    while (!lock.lost.aborted) await Bun.sleep(1);
    expect((lock.lost.reason as PipelineError).message).toContain("lock was lost");
    await lock.release();
    // Not ours to delete.
    expect(made.get<Lease>(path).spec.holderIdentity).toContain("ann@laptop");
  });

  test("another holder who has released it by now means that as well", async () => {
    const made = cluster();
    const { lock } = await take(made.api());
    made.objects.delete(path);
    // As a real server answers for an object of that uid which is gone.
    made.intercept = (method) =>
      method === "PUT"
        ? Response.json({ message: "StorageError: invalid object" }, { status: 409 })
        : undefined;
    while (!lock.lost.aborted) await Bun.sleep(1);
  });

  test("a server that is away does not lose it, but nothing may be written until it is back", async () => {
    const made = cluster();
    const api = made.api();
    api.retryBudgetSeconds = 0.05;
    const { lock } = await take(api);
    const since = performance.now();
    let refusals = 0;
    made.intercept = () => {
      refusals += 1;
      throw new TypeError("connection refused");
    };
    // Longer than a Lease lasts.
    while (refusals < 5 || performance.now() - since < 150) await Bun.sleep(1);
    expect(await failureOf(lock.ensureHeld())).toMatchObject({
      kind: "environment",
      message: expect.stringContaining("connection refused"),
    });
    expect(lock.lost.aborted).toBe(false);
    made.intercept = () => undefined;
    await lock.ensureHeld();
  });

  test("who was away while another one took it writes nothing any more", async () => {
    const made = cluster();
    const { lock } = await take(made.api(), { leaseSeconds: 3600, renewSeconds: 3600 });
    await lock.ensureHeld();
    heldBy(made, elsewhere).metadata.resourceVersion = "999";
    // The steady clock stands still while a machine sleeps.
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
