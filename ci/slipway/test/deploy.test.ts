/** Deploys against an in-memory cluster: what they change, in which order, and what they restore. */
import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describePlan, isUpToDate, planDeploy, type DeployContext } from "../deploy/plan.ts";
import { describeStatus, readStatus } from "../deploy/status-report.ts";
import { listVersions } from "../deploy/release-history.ts";
import { processIdentity, type Lease } from "../deploy/lock.ts";
import { compareFields } from "../kubernetes/diff.ts";
import type { Deployment, KubeObject, Pod } from "../kubernetes/objects.ts";
import type { Engine } from "../engines/engine.ts";
import { PipelineError } from "../core/errors.ts";
import { Report } from "../core/step-report.ts";
import { readOptions } from "../cli/options.ts";
import { ensureArchive } from "../cli/build-steps.ts";
import { deployWorkingTree } from "../cli/run-deploy.ts";
import { CommandContext } from "../cli/context.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { deploy, rollback } from "./run-prepared-flow.ts";
import { service } from "./helloapp-service.ts";

const namespaced = { name: "helloapp", namespace: service.namespace };
const overlay: KubeObject[] = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } },
  { apiVersion: "v1", kind: "Service", metadata: namespaced },
  {
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
  } as unknown as Deployment,
];
const deployment = `/apis/apps/v1/namespaces/${service.namespace}/deployments/helloapp`;
const lease = `/apis/coordination.k8s.io/v1/namespaces/${service.namespace}/leases/helloapp-deploy`;

let cluster: FakeCluster;
let images: Set<string>;
let manifests: KubeObject[];
let said: string[];
let left: string;
let interruption: AbortController;
let run: DeployContext;

beforeEach(() => {
  cluster = new FakeCluster();
  images = new Set();
  manifests = overlay;
  [said, left] = [[], "Nothing was changed."];
  interruption = new AbortController();
  const { signal } = interruption;
  const target: DeployContext["target"] = {
    api: cluster.api(signal),
    // Renders the overlay. The e2e tests cover `kubectl kustomize`.
    kubectl: [process.execPath, "-e", "console.log(process.env.MANIFESTS)"],
    overlay: "k8s/overlays/k3s",
    find: async (id) => (images.has(id) ? `helloapp:${id}` : undefined),
    deliver: async (_, id) => {
      images.add(id);
      return `helloapp:${id}`;
    },
    endpoint: () => ({
      url: "http://service",
      open: async () => Response.json({ id: cluster.served() }),
    }),
    clean: async (kept) => {
      const keep = await kept();
      const gone = [...images].filter((id) => !keep.has(`helloapp:${id}`));
      for (const id of gone) images.delete(id);
      return gone;
    },
  };
  run = {
    target,
    service,
    signal,
    recordState: (state) => (left = state),
    log: (line) => void said.push(line),
    step: async (_, work) => (await work(() => {})).value,
  };
});

afterAll(() => void delete process.env.MANIFESTS);

/** Plans and deploys one version. */
async function bring(id: string) {
  process.env.MANIFESTS = JSON.stringify(manifests);
  return deploy(run, await planDeploy(run, id), "x.tar");
}

const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );
const kept = async () => (await listVersions(run.target.api)).map(({ id }) => id);
const crashing = (image: string) => (id: string) =>
  id === image ? { restartCount: 1, state: { terminated: { exitCode: 7 } } } : {};

describe("a deploy", () => {
  test("the first deploy creates the namespace and all objects, and stores the version", async () => {
    process.env.MANIFESTS = JSON.stringify(manifests);
    expect(describePlan(await planDeploy(run, "a"))).toEqual([
      `Namespace/${service.namespace} is new`,
      "Service/helloapp is new",
      "Deployment/helloapp is new",
    ]);
    const { samples } = await bring("a");
    expect(samples).toBeUndefined();
    expect(cluster.served()).toBe("a");
    expect(await kept()).toEqual(["a"]);
    expect(cluster.objects.has(lease)).toBe(false);
  });

  test("a second deploy of the same id changes nothing", async () => {
    await bring("a");
    const before = cluster.changes.length;
    const found = await planDeploy(run, "a");
    expect(found.differences).toEqual([]);
    expect(isUpToDate(run, found)).toBe(true);
    expect(cluster.changes).toHaveLength(before);
  });

  test("the next deploy lists its changes, measures availability, and applies the Deployment last", async () => {
    await bring("a");
    cluster.changes.length = 0;
    expect(describePlan(await planDeploy(run, "b"))).toContain(
      'Deployment/helloapp spec.template.metadata.labels.app.kubernetes.io/version: "a" -> "b"',
    );
    const { samples } = await bring("b");
    expect(samples).toMatchObject({ failed: 0 });
    expect(cluster.changes.filter((change) => change.includes("deployments")).length).toBe(1);
    const applied = cluster.changes.filter((change) => change.startsWith("PATCH"));
    expect(applied.findLast((change) => !change.includes("secrets"))).toContain("deployments");
  });

  test("keeps keepVersions versions and only their images", async () => {
    const ids = ["a", "b", "c", "d", "e", "f", "g"];
    for (const id of ids) await bring(id);
    expect(await kept()).toEqual(ids.slice(-service.keepVersions).reverse());
    expect([...images]).toEqual(ids.slice(-service.keepVersions));
  });

  test("objects removed from the manifests are deleted, except the namespace", async () => {
    await bring("a");
    manifests = overlay.filter(({ kind }) => kind !== "Service" && kind !== "Namespace");
    await bring("b");
    expect([...cluster.objects.keys()].filter((path) => path.includes("/services/"))).toEqual([]);
    expect(cluster.objects.has(`/api/v1/namespaces/${service.namespace}`)).toBe(true);
    expect(said.join("\n")).toContain("Service/helloapp");
  });

  test("the version is stored before its image is delivered, to protect the image from clean-up", async () => {
    await bring("a");
    const deliver = run.target.deliver;
    let seen: string[] = [];
    run.target.deliver = async (archive, id) => {
      seen = await kept();
      return deliver(archive, id);
    };
    await bring("b");
    expect(seen).toContain("b");
  });

  test("a concurrent deploy is refused", async () => {
    await bring("a");
    const other: Lease = {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { name: "helloapp-deploy", annotations: { "helloapp-pipeline/process": processIdentity() } },
      spec: { holderIdentity: "ann@laptop" },
    };
    cluster.objects.set(lease, other);
    cluster.changes.length = 0;
    const error = await failureOf(bring("b"));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("ann@laptop");
    expect(cluster.changes).toEqual([]);
  });
});

describe("a version that does not become ready", () => {
  test("is rolled back: the previous version serves, the error names the cause, no version is stored", async () => {
    await bring("a");
    cluster.container = crashing("helloapp:b");
    const error = await failureOf(bring("b"));
    expect(error.kind).toBe("project");
    expect(error.message).toContain("CrashLoopBackOff, helloapp exits with 7");
    expect(error.message).toContain("Rolled back: helloapp:a serves, as before");
    expect(cluster.served()).toBe("a");
    expect(await kept()).toEqual(["a"]);
    expect(cluster.objects.has(lease)).toBe(false);
  });

  test("an unschedulable pod: the hint is not about the source", async () => {
    await bring("a");
    cluster.container = (image) => (image === "helloapp:b" ? { ready: false } : {});
    const reason = "Unschedulable";
    const message = "1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }";
    cluster.intercept = () => {
      for (const [path, object] of cluster.objects) {
        if (!path.includes("/pods/") || object.metadata.labels?.["app.kubernetes.io/version"] !== "b") continue;
        const conditions = [{ type: "PodScheduled", status: "False" as const, reason, message }];
        (object as Pod).status = { conditions };
      }
      return undefined;
    };
    run.service = { ...service, scheduleTimeoutSeconds: 0.1 };
    const error = await failureOf(bring("b"));
    expect(error.message).toContain("Unschedulable, 1 node(s) had untolerated taint");
    expect(error.message).toContain("Rolled back: helloapp:a serves");
    expect(error.hint).toContain("Free capacity in the cluster");
    expect(error.hint).not.toContain("source");
  });

  test("a full node disk: the hint is not about the source", async () => {
    await bring("a");
    const waiting = {
      reason: "CreateContainerConfigError",
      message: "write etc-hosts: no space left on device",
    };
    cluster.container = (image) => (image === "helloapp:b" ? { ready: false, state: { waiting } } : {});
    expect((await failureOf(bring("b"))).hint).toContain("Free capacity in the cluster");
  });

  test.each(["with a previous version", "as the first deploy"])(
    "a write to the read-only root, %s: the hint names the fix",
    async (when) => {
      if (when !== "as the first deploy") await bring("a");
      cluster.container = crashing("helloapp:b");
      const log = "EROFS: read-only file system, mkdir '/storage'";
      cluster.intercept = (_, path) => (path.endsWith("/log") ? new Response(log) : undefined);
      const error = await failureOf(bring("b"));
      expect(error.output).toContain(log);
      expect(error.hint).toStartWith("The service writes to /storage, but only /tmp and volumes are writable");
    },
  );

  test("the namespace of a first deploy that the cluster rejects is removed, unless something is in it", async () => {
    const path = `/api/v1/namespaces/${service.namespace}`;
    for (const isUsed of [false, true]) {
      cluster.objects.clear();
      cluster.intercept = (method, at) => {
        if (isUsed && method === "PATCH" && at.includes("/services/"))
          cluster.objects.set(`${path}/configmaps/mine`, {
            apiVersion: "v1",
            kind: "ConfigMap",
            metadata: { name: "mine" },
          });
        if (method !== "PATCH" || !at.includes("/services/") || !cluster.objects.has(path)) return undefined;
        return Response.json({ message: "provided port is already allocated" }, { status: 422 });
      };
      const error = await failureOf(bring("a"));
      expect(error.message).toContain("provided port is already allocated");
      expect(cluster.objects.has(path)).toBe(isUsed);
    }
  });

  test("its other changes are rolled back too", async () => {
    await bring("a");
    const extra: KubeObject = {
      apiVersion: "v1",
      kind: "Service",
      metadata: { ...namespaced, name: "extra" },
    };
    const labelled = { ...overlay[1]!, metadata: { ...namespaced, labels: { new: "yes" } } };
    manifests = [overlay[0]!, labelled, extra, overlay[2]!];
    cluster.container = crashing("helloapp:b");
    await failureOf(bring("b"));
    expect(cluster.objects.has(`/api/v1/namespaces/${service.namespace}/services/extra`)).toBe(false);
    const back = cluster.changes.findLast((change) => change.includes("services/helloapp"));
    expect(back).toStartWith("PUT");
  });

  test("the first deploy is kept for inspection, because there is no version to roll back to", async () => {
    cluster.container = crashing("helloapp:a");
    const error = await failureOf(bring("a"));
    expect(error.message).toContain("no earlier version to roll back to");
    expect(error.hint).toContain("describe pod");
  });

  test("is rolled back to a version deployed without the pipeline, with any tag", async () => {
    await bring("by-hand");
    const live = cluster.get<Deployment>(deployment);
    live.spec.template.spec.containers[0]!.image = "helloapp:latest";
    for (const path of cluster.objects.keys()) if (path.includes("configmaps")) cluster.objects.delete(path);
    cluster.container = crashing("helloapp:b");
    const error = await failureOf(bring("b"));
    expect(error.message).toContain("helloapp:by-hand serves, as before");
    expect(cluster.served()).toBe("by-hand");
  });

  test("if the rollback fails too, the error names both failures, exit 4", async () => {
    await bring("a");
    cluster.container = () => ({ restartCount: 1, state: { terminated: { exitCode: 7 } } });
    const error = await failureOf(bring("b"));
    expect(error.message).toContain("b failed to become ready");
    expect(error.message).toContain("The rollback to a failed as well");
    expect(error.kind).toBe("partial");
  });
});

describe("rollback", () => {
  test("selects the previous version, and skips versions that were rolled back unless named", async () => {
    for (const id of ["a", "b", "c"]) await bring(id);
    expect(await rollback(run)).toBe("b");
    expect(cluster.served()).toBe("b");
    expect(await rollback(run)).toBe("a");
    expect((await failureOf(rollback(run))).message).toContain("no earlier version");
    // When named, it is rolled back to, and counts like any other version from then on.
    expect(await rollback(run, "c")).toBe("c");
    expect(cluster.served()).toBe("c");
  });

  test("selects any stored version by id, to which a failed deploy then returns", async () => {
    for (const id of ["a", "b", "c"]) await bring(id);
    expect(await rollback(run, "a")).toBe("a");
    cluster.container = crashing("helloapp:d");
    expect((await failureOf(bring("d"))).message).toContain("helloapp:a serves, as before");
  });

  test("orders versions correctly although a clock was ahead", async () => {
    for (const id of ["a", "b"]) await bring(id);
    for (const object of cluster.objects.values()) {
      const { data } = object as { data?: Record<string, string> };
      if (data?.id === btoa("b")) data.verified = btoa("2999-01-01T00:00:00.000Z");
    }
    expect(await rollback(run)).toBe("a");
    expect(await kept()).toEqual(["a", "b"]);
  });

  test("is refused without an earlier version, for an unknown version, or without its image, and changes nothing", async () => {
    await bring("a");
    cluster.changes.length = 0;
    const nothing = await failureOf(rollback(run));
    expect(nothing.message).toContain("no earlier version");
    const unknown = await failureOf(rollback(run, "zzz"));
    expect(unknown.message).toContain("version zzz is not stored");
    expect(unknown.hint).toContain("Stored versions: a");
    await bring("b");
    images.delete("a");
    expect((await failureOf(rollback(run))).message).toContain("the image of a is gone");
    expect(cluster.served()).toBe("b");
  });
});

describe("failures during a deploy", () => {
  test("a short API server outage is retried", async () => {
    await bring("a");
    let refusals = 0;
    cluster.intercept = (method, path) => {
      if (method === "GET" && path === deployment && cluster.served() === "b" && refusals++ < 2) {
        throw new Error("connection refused");
      }
      return undefined;
    };
    await bring("b");
    expect(refusals).toBeGreaterThan(1);
    expect(cluster.served()).toBe("b");
  });

  test("after a kill before the verification, the next run verifies the version", async () => {
    await bring("a");
    // Like a kill: nothing after the apply happens.
    cluster.intercept = (method, path) => {
      if (method === "GET" && path === deployment && cluster.served() === "b") throw new TypeError("killed");
      return undefined;
    };
    const dying = bring("b").catch((error: Error) => error);
    while (cluster.served() !== "b") await Bun.sleep(1);
    interruption.abort(new PipelineError("interrupted", "interrupted"));
    expect(await dying).toMatchObject({ kind: "interrupted" });
    expect(left).toContain("continues in the cluster");
    expect(cluster.objects.has(lease)).toBe(false);
    cluster.intercept = () => undefined;
    run = { ...run, signal: new AbortController().signal };
    run.target = { ...run.target, api: cluster.api() };
    const found = await planDeploy(run, "b");
    expect(isUpToDate(run, found)).toBe(false);
    await bring("b");
    expect(await kept()).toEqual(["b", "a"]);
  });

  test("rejected manifests are a project error, and nothing is applied", async () => {
    await bring("a");
    cluster.changes.length = 0;
    const changed = structuredClone(overlay) as any[];
    changed[2].spec.replicas = -1;
    manifests = changed;
    const error = await failureOf(bring("b"));
    expect(error.kind).toBe("project");
    expect(error.message).toContain("the cluster rejected the dry run of Deployment/helloapp: replicas: Invalid value");
    expect(cluster.changes).toEqual([]);
  });

  test("a label that makes the query for pods invalid is reported by the dry run, with object and field", async () => {
    cluster.intercept = (method, path) => {
      if (path.endsWith("/replicasets"))
        return Response.json({ message: "unable to parse requirement: found '<'" }, { status: 400 });
      if (method === "PATCH" && path === deployment)
        return Response.json({ message: 'metadata.labels: Invalid value: "<app-name>"' }, { status: 422 });
      return undefined;
    };
    const error = await failureOf(bring("a"));
    expect(error.kind).toBe("project");
    expect(error.message).toContain("dry run of Deployment/helloapp: metadata.labels: Invalid value");
    expect(cluster.changes.filter((change) => !change.includes("leases"))).toEqual([]);
  });

  test("missing rights are an environment error", async () => {
    cluster.intercept = (method) =>
      method === "PATCH"
        ? Response.json({ message: 'namespaces is forbidden: User "x" cannot patch' }, { status: 403 })
        : undefined;
    const error = await failureOf(bring("a"));
    expect(error.kind).toBe("environment");
    expect(error.hint).toContain("auth can-i");
    expect(cluster.changes).toEqual([]);
  });

  test("a webhook's rejection is not reported as missing rights", async () => {
    await bring("a");
    const message = 'admission webhook "no.example" denied the request';
    cluster.intercept = (method, path) =>
      method === "POST" && path.endsWith("/leases") ? Response.json({ message }, { status: 403 }) : undefined;
    const error = await failureOf(bring("b"));
    expect(error.message).toContain(message);
    expect(error.hint).toContain("admission");
  });
});

test("status: running version, its health, and stored versions", async () => {
  process.env.MANIFESTS = JSON.stringify(manifests);
  expect(describeStatus(await readStatus(run))).toEqual(["helloapp is not deployed"]);
  for (const id of ["a", "b"]) await bring(id);
  const text = describeStatus(await readStatus(run)).join("\n");
  expect(text).toMatch(/^helloapp:b is rolled out, verified \d{4}-/);
  expect(text).toContain("2 of 2 pods ready, 0 restarts");
  expect(text).toContain("http://service serves this version");
  expect(text).toMatch(/^ {2}b {2}.*\n {2}a {2}/m);
});

test("differences are listed with their path", () => {
  expect(compareFields({ a: { b: [1, 2] }, c: "x" }, { a: { b: [1, 3] }, d: true })).toEqual([
    "a.b.1: 2 -> 3",
    'c: "x" -> nothing',
    "d: nothing -> true",
  ]);
  expect(compareFields([1], [1])).toEqual([]);
});

describe("a container that ends after it was ready, while old pods terminate", () => {
  /** Changes one of the new pods when the last step begins. */
  function atTheEnd(change: (pod: Pod) => void): void {
    const { step } = run;
    let isDone = false;
    run.step = async (name, work) => {
      const pods = [...cluster.objects.values()].filter(({ kind }) => kind === "Pod") as Pod[];
      const last = pods.find(({ spec }) => spec.containers[0]!.image === "helloapp:b");
      // The rollback has this step too.
      if (name === "settle" && !isDone) change(last!);
      isDone ||= name === "settle";
      return step(name, work);
    };
  }
  const exit = (status: object) => (pod: Pod) => Object.assign(pod.status.containerStatuses![0]!, status);
  const ended = { terminated: { exitCode: 9 } };

  test.each<[string, object]>([
    ["and is running again", { restartCount: 1, state: { running: {} }, lastState: ended }],
    ["and is not running yet", { state: ended }],
    ["with exit code 0", { restartCount: 1, lastState: { terminated: { exitCode: 0 } } }],
  ])("%s: the deploy is rolled back", async (_, status) => {
    await bring("a");
    atTheEnd(exit(status));
    const error = await failureOf(bring("b"));
    expect(error.kind).toBe("project");
    expect(error.message).toMatch(/exited with [09] after it had been ready\. Rolled back: helloapp:a serves/);
    expect(cluster.served()).toBe("a");
  });

  test.each<[string, (pod: Pod) => void]>([
    [
      "in a pod that is deleted",
      (pod) => {
        exit({ state: ended })(pod);
        pod.metadata.deletionTimestamp = "2026-01-01T00:00:00Z";
        const leave = () => cluster.objects.forEach((one, path) => one === pod && cluster.objects.delete(path));
        setTimeout(leave, 50);
      },
    ],
    [
      "in an evicted pod",
      (pod) => {
        exit({ state: ended })(pod);
        pod.status.phase = "Failed";
      },
    ],
    ["before the rollout was complete", exit({ lastState: ended })],
  ])("%s: the deploy succeeds", async (_, change) => {
    await bring("a");
    atTheEnd(change);
    await bring("b");
    expect(cluster.served()).toBe("b");
  });
});

test("an image that disappears after the plan: nothing is rolled out, no version is stored, exit 3", async () => {
  await bring("a");
  images.add("b");
  process.env.MANIFESTS = JSON.stringify(manifests);
  const planned = await planDeploy(run, "b");
  const { find } = run.target;
  // A deploy to another namespace removes it between the two checks.
  run.target.find = async (id) => {
    const found = await find(id);
    images.delete(id);
    return found;
  };
  const error = await failureOf(deploy(run, planned, "x.tar"));
  expect(error).toMatchObject({ kind: "environment", hint: expect.stringContaining("again") });
  expect(error.message).toContain("has removed the image");
  expect(await kept()).toEqual(["a"]);
  expect(cluster.served()).toBe("a");
  run.target.find = find;
  expect((await bring("b")).servedAt).toBeGreaterThan(0);
});

describe("the image, while checks and tests run", () => {
  let red: Promise<never> | undefined;
  /** Makes the tests pass. */
  let pass: () => void;
  /** The engine's output directory, and whether its build fails. */
  let [built, breaks]: [string | undefined, boolean] = [undefined, false];
  function runOf(id: string): { whole: CommandContext; to: typeof run } {
    const engine: Engine = {
      name: "host",
      runPrebuild: async () => ({ unchanged: true }),
      runScript: async () => ({ unchanged: true }),
      computeId: async () => id,
      async build(dist) {
        built = dist;
        if (breaks) throw new PipelineError("environment", "no space left", { code: "node-disk-full" });
        for (const layer of ["runtime", "app"]) {
          mkdirSync(join(dist, layer), { recursive: true });
          writeFileSync(join(dist, layer, "file"), layer);
        }
        writeFileSync(join(dist, "sbom.cdx.json"), "{}");
        const platform = { os: "linux", architecture: "amd64" } as const;
        return { id, platform, warnings: [], reused: false };
      },
    };
    const own = { ...service, scripts: { check: undefined, test: undefined } };
    const options = readOptions({ output: archive }, [], own, {});
    const report = new Report((line) => void said.push(line.trim().replace(/ +/g, " ")));
    const whole = new CommandContext({ service: own, options, signal: run.signal, report, engine });
    return { whole, to: { ...run, step: report.step.bind(report) } };
  }
  async function here(id: string): Promise<string> {
    process.env.MANIFESTS = JSON.stringify(manifests);
    const tests = new Promise<void>((resolve) => (pass = resolve));
    const { whole, to } = runOf(id);
    const check = red ?? tests;
    return (await deployWorkingTree(whole, { given: { connect: to, check } })).conclusion;
  }

  const directory = mkdtempSync(join(tmpdir(), "helloapp-deploy-"));
  const archive = join(directory, "x.tar");
  afterAll(() => rmSync(directory, { recursive: true }));

  beforeEach(async () => {
    red = undefined;
    [built, breaks] = [undefined, false];
    rmSync(archive, { force: true });
    await bring("aaaaaaaaaaaa");
  });

  describe("is built speculatively", () => {
    /** Builds as the step `image` does. `tell` says where the image is already, or that nobody needs it. */
    const begin = (id: string) => {
      const { whole } = runOf(id);
      const { promise: existingImage, resolve, reject } = Promise.withResolvers<string | undefined>();
      existingImage.catch(() => {});
      const imaging = whole.report.step("image", () => ensureArchive(whole, id, { existingImage }));
      return { imaging, tell: resolve, cancel: () => reject(new Error("no connection")) };
    };
    const begun = async (id: string) => {
      const build = begin(id);
      while (built === undefined) await Bun.sleep(1);
      return build;
    };
    const left = () => [existsSync(built!), existsSync(archive)];
    const imageLines = () => said.filter((line) => line.startsWith("image"));

    test("and written to the archive if it is needed", async () => {
      const { imaging, tell } = await begun("bbbbbbbbbbbb");
      tell(undefined);
      expect(await imaging).toBe("bbbbbbbbbbbb");
      expect(left()).toEqual([false, true]);
    });

    test("and discarded if it is already delivered, even if the build fails", async () => {
      for (breaks of [false, true]) {
        built = undefined;
        const { imaging, tell } = await begun("bbbbbbbbbbbb");
        tell("on the node already");
        expect(await imaging).toBe("bbbbbbbbbbbb");
        expect(left()).toEqual([false, false]);
        expect(imageLines().at(-1)).toMatch(/reused .*bbbbbbbbbbbb is on the node already/);
      }
    });

    test("and discarded without output if the connection fails", async () => {
      const { imaging, cancel } = await begun("bbbbbbbbbbbb");
      cancel();
      await imaging;
      expect(left()).toEqual([false, false]);
      expect(imageLines()).toEqual([]);
    });

    test("but not if the delivery is known before the id", async () => {
      const { whole } = runOf("bbbbbbbbbbbb");
      const existingImage = Promise.resolve("on the node already");
      expect((await ensureArchive(whole, "bbbbbbbbbbbb", { existingImage })).value).toBe("bbbbbbbbbbbb");
      expect(built).toBeUndefined();
    });
  });

  test("is delivered, but rolled out only after they have passed", async () => {
    const deploying = here("bbbbbbbbbbbb");
    while (!images.has("bbbbbbbbbbbb")) await Bun.sleep(1);
    expect(left).toContain("was being delivered. Nothing was rolled out");
    expect(cluster.served()).toBe("aaaaaaaaaaaa");
    expect(cluster.objects.has(lease) && cluster.get<Lease>(lease).spec.holderIdentity).toBeFalsy();
    pass();
    expect(await deploying).toContain("bbbbbbbbbbbb serves");
    expect(said.filter((line) => line.startsWith("deliver"))).toHaveLength(1);
  });

  test("is delivered again if it was removed in the meantime", async () => {
    const deploying = here("bbbbbbbbbbbb");
    while (!images.has("bbbbbbbbbbbb")) await Bun.sleep(1);
    images.delete("bbbbbbbbbbbb");
    pass();
    await deploying;
    expect(images.has("bbbbbbbbbbbb")).toBe(true);
  });

  describe("and is still being delivered when they have passed", () => {
    let [end, refuse]: [() => void, (error: Error) => void] = [() => {}, () => {}];
    let finds = 0;
    beforeEach(() => {
      const { deliver, find } = run.target;
      const gate = new Promise<void>((resolve, reject) => ([end, refuse] = [resolve, reject]));
      run.target.deliver = async (...args) => {
        await gate;
        return deliver(...args);
      };
      finds = 0;
      run.target.find = (id) => {
        finds += 1;
        return find(id);
      };
    });
    const untilRecorded = async () => {
      while (!(await kept()).includes("bbbbbbbbbbbb")) await Bun.sleep(1);
      expect(cluster.get<Lease>(lease).spec.holderIdentity).toBeTruthy();
      expect(images.has("bbbbbbbbbbbb")).toBe(false);
    };

    test("the lock is held and the version is recorded meanwhile, so the image is not looked up again", async () => {
      const deploying = here("bbbbbbbbbbbb");
      pass();
      await untilRecorded();
      expect(cluster.served()).toBe("aaaaaaaaaaaa");
      end();
      expect(await deploying).toContain("bbbbbbbbbbbb serves");
      expect(finds).toBe(1);
      expect(said.filter((line) => line.startsWith("deliver"))).toHaveLength(1);
    });

    test("a failed delivery leaves no lock, no record and no change, and is reported once", async () => {
      const deploying = failureOf(here("bbbbbbbbbbbb"));
      pass();
      await untilRecorded();
      refuse(new PipelineError("environment", "no space left", { code: "node-disk-full" }));
      expect(await deploying).toMatchObject({ kind: "environment", message: "no space left" });
      expect(await kept()).toEqual(["aaaaaaaaaaaa"]);
      expect(cluster.objects.has(lease) && cluster.get<Lease>(lease).spec.holderIdentity).toBeFalsy();
      expect(cluster.served()).toBe("aaaaaaaaaaaa");
      expect(said.filter((line) => line.includes("no space left")).length).toBeLessThanOrEqual(1);
    });
  });

  describe("when they fail", () => {
    let fail: (error: Error) => void;
    beforeEach(() => void (red = new Promise((_, reject) => (fail = reject))));

    test("it is removed again, and no version is stored", async () => {
      const deploying = failureOf(here("bbbbbbbbbbbb"));
      while (!images.has("bbbbbbbbbbbb")) await Bun.sleep(1);
      fail(new PipelineError("project", "a red test", { code: "script-failed" }));
      expect(await deploying).toMatchObject({ kind: "project", message: "a red test" });
      expect([...images]).toEqual(["aaaaaaaaaaaa"]);
      expect(await kept()).toEqual(["aaaaaaaaaaaa"]);
    });

    test("and it cannot be removed, the error says so, exit 4", async () => {
      const deploying = failureOf(here("bbbbbbbbbbbb"));
      while (!images.has("bbbbbbbbbbbb")) await Bun.sleep(1);
      run.target.clean = () =>
        Promise.reject(new PipelineError("environment", "containerd is gone", { code: "containerd-failed" }));
      fail(new PipelineError("project", "a red test", { code: "script-failed" }));
      const error = await deploying;
      expect(error.kind).toBe("partial");
      expect(error.message).toMatch(
        /a red test.*the image helloapp:bbbbbbbbbbbb could not be removed.*containerd is gone/,
      );
    });

    test("before the image is built, it is not delivered", async () => {
      const find = run.target.find;
      run.target.find = async (id) => {
        await Bun.sleep(20);
        return find(id);
      };
      const deploying = failureOf(here("bbbbbbbbbbbb"));
      await Bun.sleep(1);
      fail(new PipelineError("project", "a red test", { code: "script-failed" }));
      expect(await deploying).toMatchObject({ message: "a red test" });
      expect(said.join("\n")).not.toContain("deliver");
    });
  });
});

describe("a clean-up that fails", () => {
  const extra: KubeObject = {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "extra", namespace: service.namespace },
  };
  const extraPath = `/api/v1/namespaces/${service.namespace}/configmaps/extra`;
  const isDeletion = (method: string, path: string) => method === "DELETE" && path === extraPath;
  const forbidDeletion = () => {
    cluster.intercept = (method, path) =>
      isDeletion(method, path) ? Response.json({ message: "configmaps is forbidden" }, { status: 403 }) : undefined;
  };
  const permitDeletion = () => void (cluster.intercept = () => undefined);
  const plan = async (id: string) => {
    process.env.MANIFESTS = JSON.stringify(manifests);
    return planDeploy(run, id);
  };

  beforeEach(async () => {
    manifests = [...overlay, extra];
    await bring("a");
    manifests = overlay;
    forbidDeletion();
    expect(describePlan(await plan("b"))).toContain("ConfigMap/extra is deleted: no longer in the manifests");
    expect(await failureOf(bring("b"))).toMatchObject({ kind: "partial" });
    expect(cluster.served()).toBe("b");
    permitDeletion();
  });

  test("the same command catches up, and the version is complete only then", async () => {
    expect((await listVersions(run.target.api)).find(({ id }) => id === "b")?.verified).toBeUndefined();
    const again = await plan("b");
    expect(isUpToDate(run, again)).toBe(false);
    expect(describePlan(again)).toEqual(["ConfigMap/extra is deleted: no longer in the manifests"]);
    await bring("b");
    expect(cluster.objects.has(extraPath)).toBe(false);
    expect(isUpToDate(run, await plan("b"))).toBe(true);
  });

  test("a later version catches up", async () => {
    await bring("c");
    expect(cluster.objects.has(extraPath)).toBe(false);
  });

  test("a rollback that is repeated catches up", async () => {
    await bring("b");
    manifests = [...overlay, extra];
    await bring("c");
    forbidDeletion();
    expect(await failureOf(rollback(run))).toMatchObject({ kind: "partial" });
    permitDeletion();
    await rollback(run, "b");
    expect(cluster.objects.has(extraPath)).toBe(false);
    expect(cluster.served()).toBe("b");
  });
});
