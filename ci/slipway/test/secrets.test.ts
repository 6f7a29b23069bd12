/** Secrets against an in-memory cluster: what is stored, who rolls, what is undone, and that no value is shown. */
import { beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runSteps } from "../core/step-graph.ts";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { CommandContext } from "../cli/context.ts";
import { readOptions } from "../cli/options.ts";
import { secretSteps } from "../cli/secrets-flow.ts";
import { planSecrets } from "../deploy/deployed-secrets.ts";
import { describePlan, isUpToDate, planDeploy, type DeployContext } from "../deploy/plan.ts";
import { acquireLock } from "../deploy/lock.ts";
import { listVersions } from "../deploy/release-history.ts";
import type { Engine } from "../engines/engine.ts";
import type { Deployment, KubeObject } from "../kubernetes/objects.ts";
import { readSecrets, SecretChange } from "../kubernetes/secret-store.ts";
import { describeSecrets, listSecrets } from "../secrets/list-secrets.ts";
import { readEnvFile, readValue, type ValueInput } from "../secrets/read-value.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { deploy, rollback } from "./run-prepared-flow.ts";
import { service as helloapp } from "./helloapp-service.ts";

const namespace = `/api/v1/namespaces/${helloapp.namespace}`;
const secretPath = `${namespace}/secrets/helloapp-slipway-secrets`;
const deployment = `/apis/apps/v1/namespaces/${helloapp.namespace}/deployments/helloapp`;
const lease = `/apis/coordination.k8s.io/v1/namespaces/${helloapp.namespace}/leases/helloapp-deploy`;
const metadata = { name: "helloapp", namespace: helloapp.namespace };

type Container = { name: string; image: string; env?: object[]; envFrom?: object[] };
const workload = (...containers: Container[]) =>
  ({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata,
    spec: {
      replicas: 2,
      template: { metadata: { labels: { "app.kubernetes.io/name": "helloapp" } }, spec: { containers } },
    },
  }) as unknown as Deployment;
const overlay = (...more: KubeObject[]): KubeObject[] => [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: helloapp.namespace } },
  { apiVersion: "v1", kind: "Service", metadata },
  workload({ name: "helloapp", image: "helloapp" }, { name: "proxy", image: "envoy:1" }),
  ...more,
];

let cluster: FakeCluster;
let images: Set<string>;
let manifests: KubeObject[];
let said: string[];
let run: DeployContext;

beforeEach(() => {
  cluster = new FakeCluster();
  images = new Set();
  manifests = overlay();
  said = [];
  use({ secrets: [{ name: "A" }, { name: "B" }] });
});

/** Starts over with other settings, in the same cluster. */
function use(settings: Partial<Pick<Service, "secrets" | "env" | "rolloutTimeoutSeconds">>): void {
  const service = { ...helloapp, readyTimeoutSeconds: 1, rolloutTimeoutSeconds: 3, ...settings };
  const { signal } = new AbortController();
  const target: DeployContext["target"] = {
    api: cluster.api(signal),
    kubectl: [process.execPath],
    overlay: "k8s/overlays/k3s",
    kustomize: async () => ({ code: 0, stdout: JSON.stringify(manifests), stderr: "" }) as never,
    find: async (id) => (images.has(id) ? `helloapp:${id}` : undefined),
    deliver: async (_, id) => {
      images.add(id);
      return `helloapp:${id}`;
    },
    endpoint: () => ({ url: "http://service", open: async () => Response.json({ id: cluster.served() }) }),
    clean: async () => [],
  };
  run = {
    target,
    service,
    signal,
    recordState: (state) => void said.push(state),
    log: (line) => void said.push(line),
    step: async (_, work) => (await work(() => {})).value,
  };
}

const bytes = (values: Record<string, string>) =>
  Object.entries(values).map(([name, value]): [string, Uint8Array] => [name, Buffer.from(value)]);

/** Runs the flow of `secrets set` and `secrets unset`. */
async function change(values: Record<string, string>, { removed = [] as string[], restarts = true, by = run } = {}) {
  const options = readOptions({}, [], by.service, {});
  const context = new CommandContext({ service: by.service, options, signal: by.signal, engine: {} as Engine });
  return runSteps(secretSteps(context, new SecretChange(bytes(values), removed), restarts), {
    signal: by.signal,
    report: by.step,
    choose: ([first]: unknown[]) => first,
    goals: ["complete", "verify"],
    given: { connect: by },
  });
}

const bring = async (id: string) => deploy(run, await planDeploy(run, id), "x.tar");
const stored = () => {
  const { data = {} } = (cluster.objects.get(secretPath) ?? {}) as { data?: Record<string, string> };
  const { "slipway.digest-key": _, ...values } = data;
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, atob(value)]));
};
const digest = () =>
  cluster.get<Deployment>(deployment)?.spec.template.metadata?.annotations?.["slipway/secrets"] as string;
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );
const env = (index = 0) =>
  (cluster.get<Deployment>(deployment).spec.template.spec.containers[index] as Container).env ?? [];

describe("a deploy", () => {
  test("is refused without a named value, before anything is delivered, with the commands that set it", async () => {
    const error = await failureOf(bring("a"));
    expect(error).toMatchObject({ kind: "environment", code: "secret-missing" });
    expect(error.message).toContain("the secrets A, B. Nothing was changed");
    expect(error.hint).toContain("`bun ci/pipeline.ts secrets set A`, `bun ci/pipeline.ts secrets set B`");
    expect(cluster.changes).toEqual([]);
    expect(images.size).toBe(0);
  });

  test("is refused if a manifest refers to a key of the Secret that has no value", async () => {
    use({ secrets: [] });
    const valueFrom = { secretKeyRef: { name: "helloapp-slipway-secrets", key: "BY_HAND" } };
    manifests = overlay();
    manifests[2] = workload({ name: "helloapp", image: "helloapp", env: [{ name: "X", valueFrom }] });
    expect(await failureOf(bring("a"))).toMatchObject({ code: "secret-missing" });
  });

  test("gives env and secrets to the containers with the service's image, and to no other", async () => {
    use({ secrets: [{ name: "A" }], env: { LEVEL: "info", LITERAL: "$(LEVEL) $$ $x" } });
    manifests = overlay({
      ...workload({ name: "migrate", image: "helloapp" }),
      ...{ apiVersion: "batch/v1", kind: "CronJob", metadata: { name: "nightly", namespace: helloapp.namespace } },
    });
    const job = manifests[3] as unknown as { spec: { template?: object; jobTemplate?: object } };
    job.spec = { jobTemplate: { spec: { template: job.spec.template } } };
    await change({ A: "one" });
    cluster.intercept = (_, path) =>
      path === "/apis/batch/v1"
        ? Response.json({ resources: [{ kind: "CronJob", name: "cronjobs", namespaced: true }] })
        : undefined;
    await bring("a");
    const secretKeyRef = { name: "helloapp-slipway-secrets", key: "A" };
    const expected = [
      { name: "LEVEL", value: "info" },
      { name: "LITERAL", value: "$$(LEVEL) $$$ $x" },
      { name: "A", valueFrom: { secretKeyRef } },
    ];
    expect(env()).toEqual(expected);
    expect(env(1)).toEqual([]);
    const cron = JSON.stringify(cluster.get(`/apis/batch/v1/namespaces/${helloapp.namespace}/cronjobs/nightly`));
    expect(cron).toContain(JSON.stringify(expected));
    // A Job's template cannot change, so it has no digest.
    expect(cron).not.toContain("slipway/secrets");
  });

  test("shows plain values and no secret ones in the plan", async () => {
    await change({ A: "value-of-a", B: "value-of-b" });
    await bring("a");
    use({ secrets: run.service.secrets, env: { LEVEL: "debug" } });
    await change({ A: "other-of-a" }, { restarts: false });
    const lines = describePlan(await planDeploy(run, "b")).join("\n");
    expect(lines).toContain("debug");
    expect(lines).toMatch(/spec\.template\.metadata\.annotations\.slipway\/secrets: "\w{12}" -> "\w{12}"/);
    expect(lines).not.toMatch(/value-of|other-of/);
  });

  test("rolls pods whose values were only stored, and is up to date then", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    expect(isUpToDate(run, await planDeploy(run, "a"))).toBe(true);
    const before = digest();
    await change({ A: "3" }, { restarts: false });
    expect(digest()).toBe(before);
    expect(isUpToDate(run, await planDeploy(run, "a"))).toBe(false);
    await bring("a");
    expect(digest()).not.toBe(before);
    expect(isUpToDate(run, await planDeploy(run, "a"))).toBe(true);
    // The history has one version, without digest and value.
    const versions = await listVersions(run.target.api);
    expect(versions.map(({ id }) => id)).toEqual(["a"]);
    expect(JSON.stringify(versions)).not.toContain('slipway/secrets"');
  });

  test("stops under the lock if a value was removed after the plan", async () => {
    await change({ A: "1", B: "2" });
    const plan = await planDeploy(run, "a");
    await change({}, { removed: ["B"] });
    expect(await failureOf(deploy(run, plan, "x.tar"))).toMatchObject({ code: "secret-missing" });
    expect(cluster.objects.has(deployment)).toBe(false);
    expect(await listVersions(run.target.api)).toEqual([]);
    expect(cluster.objects.has(lease)).toBe(false);
  });
});

describe("a command as the source", () => {
  const script = (text: string) => ["sh", "-c", text];
  const withCommand = (text: string) => use({ secrets: [{ name: "A", command: script(text) }] });

  test("its output is stored by the deploy, and only if it changed", async () => {
    withCommand("echo first");
    const plan = await planDeploy(run, "a");
    expect(describePlan(plan)).toContain("Secret/helloapp-slipway-secrets is new");
    expect(JSON.stringify(plan) + Bun.inspect(plan, { depth: 9 })).not.toMatch(/first|Zmlyc3Q/);
    const planned = (await planSecrets(run.target.api, [], plan.secrets))!;
    expect(JSON.stringify(planned) + Bun.inspect(planned, { depth: 9 })).not.toMatch(/first|Zmlyc3Q/);
    await deploy(run, plan, "x.tar");
    expect(stored()).toEqual({ A: "first" });
    const store = await readSecrets(run.target.api);
    expect(store.names).toEqual(["A"]);
    expect(JSON.stringify(store) + Bun.inspect(store, { depth: 9 })).not.toMatch(/first|Zmlyc3Q/);
    const before = cluster.changes.length;
    expect(isUpToDate(run, await planDeploy(run, "a"))).toBe(true);
    await bring("b");
    expect(cluster.changes.slice(before).filter((one) => one.includes("slipway-secrets"))).toEqual([]);
    withCommand("echo second");
    expect(describePlan(await planDeploy(run, "b"))).toContain("Secret/helloapp-slipway-secrets data.A changed");
    await bring("b");
    expect(stored()).toEqual({ A: "second" });
  });

  test("a version that fails with the new value gets the old value back, first", async () => {
    withCommand("echo good");
    await bring("a");
    withCommand("echo bad");
    cluster.container = (image) =>
      image.endsWith(":b") ? { restartCount: 1, state: { terminated: { exitCode: 7 } } } : {};
    const before = cluster.changes.length;
    expect(await failureOf(bring("b"))).toMatchObject({ kind: "project" });
    expect(stored()).toEqual({ A: "good" });
    expect(cluster.served()).toBe("a");
    const changes = cluster.changes.slice(before).filter((one) => /slipway-secrets|deployments/.test(one));
    const secret = "helloapp-slipway-secrets";
    // Stored, rolled out, the value restored, then its owner, and the old pods.
    expect(changes.map((one) => one.split("/").at(-1))).toEqual([secret, "helloapp", secret, secret, "helloapp"]);
  });

  test.each([
    ["fails", "echo hunter2; echo no login >&2; exit 3", "exited with 3"],
    ["prints nothing", "true", "is empty"],
    ["prints a newline alone", "echo", "is empty"],
    ["prints binary data", "printf '\\377\\376'", "not valid UTF-8"],
    ["prints a zero byte", "printf 'a\\0b'", "zero byte"],
    ["prints 200 KiB", "head -c 204800 /dev/zero | tr '\\0' x", "204800 bytes"],
  ])("that %s: exit 3, nothing changed, no output shown", async (_, text, cause) => {
    withCommand(text);
    const error = await failureOf(planDeploy(run, "a"));
    expect(error).toMatchObject({ kind: "environment", code: "secret-command-failed" });
    expect(error.message).toContain(cause);
    expect(`${error.message}${error.output}${error.hint}`).not.toContain("hunter2");
    expect(cluster.changes).toEqual([]);
  });

  test("a missing program is named", async () => {
    use({ secrets: [{ name: "A", command: ["no-such-manager", "read"] }] });
    expect(await failureOf(planDeploy(run, "a"))).toMatchObject({ code: "program-not-found" });
  });
});

describe("secrets set", () => {
  test("before the first deploy creates the namespace and one annotated Secret, and rolls nothing", async () => {
    const { prepare } = await change({ A: "one", B: "two" });
    expect(prepare).toBeUndefined();
    expect(stored()).toEqual({ A: "one", B: "two" });
    const { metadata } = cluster.get(secretPath);
    expect(metadata.annotations).toMatchObject({ "slipway/created-by": "helloapp" });
    expect(cluster.objects.has(lease)).toBe(false);
    expect((await run.target.api.list(`${namespace}/secrets`)).length).toBe(1);
  });

  test("rolls the pods that use the value under the lock, and verifies", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    const before = [digest(), cluster.changes.length] as const;
    const { prepare, verify, settle } = await change({ A: "changed" });
    expect(prepare!.name).toBe("helloapp:a with the changed secrets");
    expect(verify!.servedAfter).toBeNumber();
    expect(settle).toMatchObject({ failed: 0 });
    expect(digest()).not.toBe(before[0]);
    const changes = cluster.changes.slice(before[1]).map((one) => one.split("/").at(-1));
    expect(changes[0]).toBe("leases");
    expect(changes.indexOf("helloapp-slipway-secrets")).toBeLessThan(changes.indexOf("helloapp"));
    expect(env()).toHaveLength(2);
    expect(isUpToDate(run, await planDeploy(run, "a"))).toBe(true);
  });

  test("of a name that the running version does not use, or of the same value, rolls nothing", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    const before = digest();
    expect((await change({ NEW: "x" })).prepare).toBeUndefined();
    expect((await change({ A: "1" })).prepare).toBeUndefined();
    expect(digest()).toBe(before);
    expect(stored()).toEqual({ A: "1", B: "2", NEW: "x" });
  });

  test("--no-restart only stores, and the same command without it rolls", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    const before = digest();
    expect((await change({ A: "3" }, { restarts: false })).prepare).toBeUndefined();
    expect(digest()).toBe(before);
    expect(said.join()).toContain("running pods keep their values");
    expect((await change({ A: "3" })).prepare).toBeDefined();
    expect(digest()).not.toBe(before);
  });

  test("a value with which the pods fail is undone: the old values and pods, with their age", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    const [before, owners] = [digest(), cluster.get(secretPath).metadata.managedFields];
    let isFailing = false;
    cluster.container = () => (isFailing ? { restartCount: 1, state: { terminated: { exitCode: 7 } } } : {});
    cluster.intercept = (method, path) => {
      // The old template's pods are as before.
      if (path === deployment) isFailing = method === "PATCH";
      return undefined;
    };
    const error = await failureOf(change({ A: "bad-value", C: "new" }));
    expect(error).toMatchObject({ kind: "project" });
    expect(error.message).toContain("Rolled back: helloapp:a serves, as before");
    expect(error.hint).toContain("Correct the values");
    expect(stored()).toEqual({ A: "1", B: "2" });
    expect(digest()).toBe(before);
    expect(cluster.get(secretPath).metadata.managedFields).toEqual(owners!);
    expect(cluster.objects.has(lease)).toBe(false);
    expect(error.message + said.join()).not.toContain("bad-value");
  });

  test("an import that fails in the middle stores nothing", async () => {
    await change({ A: "1" });
    let writes = 0;
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === secretPath && (writes += 1) === 3
        ? Response.json({ message: 'quota "hunter2" exceeded' }, { status: 403 })
        : undefined;
    const error = await failureOf(change({ A: "x", B: "y", C: "hunter2", D: "z" }));
    expect(stored()).toEqual({ A: "1" });
    expect(`${error.message}${error.output}`).not.toContain("hunter2");
  });

  test("an import whose undo fails too: exit 4, with the state", async () => {
    await change({ A: "1" });
    let writes = 0;
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === secretPath && (writes += 1) > 1
        ? Response.json({ message: 'quota "hunter2" exceeded' }, { status: 403 })
        : undefined;
    const error = await failureOf(change({ A: "x", B: "hunter2" }));
    expect(error).toMatchObject({ kind: "partial" });
    expect(error.message).toContain("Some values may be stored, and restoring the others failed");
    expect(`${error.message}${error.hint}${error.output}`).not.toContain("hunter2");
    expect(cluster.objects.has(lease)).toBe(false);
  });

  test("a first import that fails in the middle leaves no Secret", async () => {
    let writes = 0;
    cluster.intercept = (method, path) =>
      method === "PATCH" && path === secretPath && (writes += 1) === 2
        ? Response.json({ message: "denied" }, { status: 403 })
        : undefined;
    await failureOf(change({ A: "x", B: "y" }));
    expect(cluster.objects.has(secretPath)).toBe(false);
  });

  test("two people at once: different keys both win, and the later one of the same key is told", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    const other = { ...run, target: { ...run.target, api: cluster.api() } };
    await Promise.all([change({ A: "from-one", X: "one" }), change({ B: "from-two", X: "two" }, { by: other })]);
    const { X, ...values } = stored();
    expect(values).toEqual({ A: "from-one", B: "from-two" });
    expect(["one", "two"]).toContain(X!);
    expect(said.join("\n")).toContain("waiting: another deploy is under way");
    expect(said.join("\n")).toContain("X was changed by another command meanwhile");
  });

  test("waits for the lock no longer than a rollout may take: exit 3, nothing changed", async () => {
    await change({ A: "1" });
    use({ secrets: [], rolloutTimeoutSeconds: 1 });
    const lock = await acquireLock(cluster.api(), { purpose: "deploy of x", log: () => {} });
    const error = await failureOf(change({ A: "2" }));
    await lock.release();
    expect(error).toMatchObject({ kind: "environment", code: "lock-held" });
    expect(stored()).toEqual({ A: "1" });
  });

  test("over 1 MiB in total is refused, nothing changed", async () => {
    const value = "x".repeat(130_000);
    const values = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`V${i}`, value]));
    await change(values);
    const error = await failureOf(change({ ONE_MORE: value }));
    expect(error).toMatchObject({ kind: "project", code: "secret-invalid" });
    expect(error.message).toMatch(/1143 KiB in total/);
    expect(Object.keys(stored())).toHaveLength(8);
  });

  test.each([
    ["created by hand", undefined, "was not created by slipway"],
    ["of another service", { "slipway/created-by": "other" }, 'belongs to "other"'],
    ["of another project", { "slipway/created-by": "helloapp", "slipway/project": "p2" }, 'belongs to "p2"'],
  ])("a Secret %s is left alone", async (_, annotations, cause) => {
    const secret = { metadata: { name: "helloapp-slipway-secrets", ...(annotations && { annotations }) } };
    cluster.objects.set(secretPath, { apiVersion: "v1", kind: "Secret", ...secret } as KubeObject);
    const error = await failureOf(change({ A: "1" }));
    expect(error).toMatchObject({ kind: "project", code: "project-differs" });
    expect(error.message).toContain(cause);
    expect(cluster.changes).toEqual([]);
  });

  test("a cluster that forbids: the missing rights are named before the first write", async () => {
    cluster.intercept = (_, path) =>
      path.endsWith("/selfsubjectrulesreviews")
        ? Response.json({ status: { resourceRules: [{ verbs: ["list"], apiGroups: [""], resources: ["secrets"] }] } })
        : undefined;
    const error = await failureOf(change({ A: "1" }));
    expect(error).toMatchObject({ kind: "environment", code: "rights-missing" });
    expect(error.message).toContain("secrets (create, patch, delete)");
    expect(cluster.changes).toEqual([]);
  });
});

describe("secrets unset", () => {
  test("removes unused values, and refuses a value that the running version uses", async () => {
    await change({ A: "1", B: "2", OLD: "3" });
    await bring("a");
    await change({}, { removed: ["OLD", "NEVER", "toString"] });
    expect(stored()).toEqual({ A: "1", B: "2" });
    for (const restarts of [true, false]) {
      const error = await failureOf(change({}, { removed: ["A"], restarts }));
      expect(error).toMatchObject({ kind: "project", code: "secret-in-use" });
      expect(error.hint).toContain("Remove it from `secrets`");
    }
    expect(stored()).toEqual({ A: "1", B: "2" });
  });

  test("refuses a value that only a CronJob of the running version uses", async () => {
    const valueFrom = { secretKeyRef: { name: "helloapp-slipway-secrets", key: "CRON" } };
    const container = { name: "x", image: "other", env: [{ name: "X", valueFrom }] };
    const template = { spec: { containers: [container] } };
    const cronJob = { apiVersion: "batch/v1", kind: "CronJob", metadata: { name: "n", namespace: helloapp.namespace } };
    manifests.push({ ...cronJob, spec: { jobTemplate: { spec: { template } } } } as never);
    cluster.intercept = (_, path) =>
      path === "/apis/batch/v1"
        ? Response.json({ resources: [{ kind: "CronJob", name: "cronjobs", namespaced: true }] })
        : undefined;
    await change({ A: "1", B: "2", CRON: "3" });
    await bring("a");
    expect(await failureOf(change({}, { removed: ["CRON"] }))).toMatchObject({ code: "secret-in-use" });
  });

  test("removes a value that another program owns too", async () => {
    await change({ A: "1", OLD: "3" });
    const secret = cluster.get(secretPath) as KubeObject & { data: Record<string, string> };
    secret.data.EDITED = btoa("x");
    await change({}, { removed: ["EDITED"] });
    expect(stored()).toEqual({ A: "1", OLD: "3" });
  });
});

describe("a rollback", () => {
  test("over a changed secret keeps the current values, and marks the pods with them", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    const old = digest();
    await bring("b");
    await change({ A: "new" });
    expect(await rollback(run)).toBe("a");
    expect(stored()).toEqual({ A: "new", B: "2" });
    expect(digest()).not.toBe(old);
    expect((await change({ A: "new" })).prepare).toBeUndefined();
  });

  test("to a version that needs a removed value is refused, with the command that sets it", async () => {
    await change({ A: "1", B: "2" });
    await bring("a");
    use({ secrets: [{ name: "A" }] });
    await bring("b");
    await change({}, { removed: ["B"] });
    expect(said.join("\n")).toContain("a rollback to a needs B");
    const error = await failureOf(rollback(run));
    expect(error).toMatchObject({ kind: "environment", code: "secret-missing" });
    expect(error.hint).toContain("secrets set B");
    expect(cluster.served()).toBe("b");
    await change({ B: "again" });
    expect(await rollback(run)).toBe("a");
  });
});

describe("the plan's checks", () => {
  test.each<[string, () => void, string]>([
    [
      "a manifest's own env",
      () => (manifests[2] = workload({ name: "x", image: "y" }, { ...own, env: [{ name: "A", value: "1" }] })),
      "Deployment/helloapp spec.template.spec.containers[1].env[0]: A is also set by ci/pipeline.ts",
    ],
    [
      "a ConfigMap of envFrom",
      () => {
        manifests[2] = workload({ ...own, envFrom: [{ prefix: "X_", configMapRef: { name: "c" } }] });
        manifests.push({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "c" }, data: { KEY: "" } } as never);
        use({ secrets: [], env: { X_KEY: "1" } });
      },
      "containers[0].envFrom[0]: X_KEY is also set by ci/pipeline.ts, and by ConfigMap/c",
    ],
    [
      "a Secret of the same name",
      () => void manifests.push({ apiVersion: "v1", kind: "Secret", metadata: { name: "helloapp-slipway-secrets" } }),
      "Secret/helloapp-slipway-secrets metadata.name",
    ],
  ])("%s is refused with its field", async (_, prepare, text) => {
    prepare();
    const error = await failureOf(planDeploy(run, "a"));
    expect(error).toMatchObject({ kind: "project", code: "manifests-unsuitable" });
    expect(error.message).toContain(text);
  });
  const own = { name: "helloapp", image: "helloapp" };

  test("an env of the same name in another container is no conflict", async () => {
    manifests[2] = workload(own, { name: "proxy", image: "envoy:1", env: [{ name: "A", value: "1" }] });
    await change({ A: "1", B: "2" });
    await bring("a");
  });
});

test("list shows names, ages and digests, marks missing ones, and no value", async () => {
  use({ secrets: [{ name: "A" }, { name: "GONE" }, { name: "CMD", command: ["true"] }] });
  await change({ A: "value-a", OTHER: "value-a" });
  const found = await listSecrets(run);
  expect(found.map(({ name, source, isUsed }) => [name, source, isUsed])).toEqual([
    ["A", "cluster", true],
    ["CMD", "command", true],
    ["GONE", "missing", true],
    ["OTHER", "cluster", false],
  ]);
  const lines = describeSecrets(found, Date.now() + 7_200_000);
  expect(lines[1]).toMatch(/^A +2h +[0-9a-f]{12}$/);
  expect(lines[3]).toContain("missing: run `bun ci/pipeline.ts secrets set GONE`");
  expect(lines[4]).toContain("not in `secrets`");
  // The digest is keyed, and differs for equal values of two names.
  expect(found[0]!.digest).not.toBe(found[3]!.digest);
  const bare = new Bun.CryptoHasher("sha256").update("value-a").digest("hex");
  expect(bare).not.toStartWith(found[0]!.digest!);
  expect(lines.join("\n")).not.toContain("value");
});

describe("input", () => {
  const { signal } = new AbortController();
  const piped = (text: string | Uint8Array): ValueInput => ({
    read: async () => (typeof text === "string" ? Buffer.from(text) : text),
    prompt: async () => expect.unreachable(),
  });
  const value = async (text: string | Uint8Array) => Buffer.from(await readValue("A", piped(text), signal)).toString();

  test("one newline at the end is removed, others stay", async () => {
    expect(await value("x\n")).toBe("x");
    expect(await value("x\r\n")).toBe("x");
    expect(await value("-----BEGIN\nabc\n-----END\n\n")).toBe("-----BEGIN\nabc\n-----END\n");
    expect(await value("x".repeat(65_536))).toHaveLength(65_536);
    expect(await value("ünïcödé\t")).toBe("ünïcödé\t");
  });

  test.each<[string, string | Uint8Array, string]>([
    ["empty, as without a terminal", "", "is empty"],
    ["a newline alone", "\n", "is empty"],
    ["no UTF-8", new Uint8Array([0xff, 0x41]), "not valid UTF-8"],
    ["a surrogate", new Uint8Array([0xed, 0xa0, 0x80]), "not valid UTF-8"],
    ["a zero byte", "a\0b", "zero byte"],
    ["128 KiB", "x".repeat(131_072), "131072 bytes, and Linux allows 131069"],
    ["over 1 MiB", "x".repeat(1_200_000), "1200000 bytes"],
  ])("%s is refused", async (_, text, cause) => {
    const error = await failureOf(value(text));
    expect(error).toMatchObject({ kind: "project", code: "secret-invalid" });
    expect(error.message).toContain(cause);
  });

  test("a terminal is asked without echo, and Ctrl-C ends with 130", async () => {
    const asked: string[] = [];
    const answer = (text: string | undefined): ValueInput => ({
      isTTY: true,
      read: async () => expect.unreachable(),
      prompt: async (question) => {
        asked.push(question);
        return text;
      },
    });
    expect(await readValue("A", answer("typed"), signal)).toEqual(Buffer.from("typed"));
    expect(asked).toEqual(["Value of A (not shown): "]);
    expect(await failureOf(readValue("A", answer(undefined), signal))).toMatchObject({ kind: "interrupted" });
    expect(await failureOf(readValue("A", answer(""), signal))).toMatchObject({ code: "secret-invalid" });
  });

  test("a .env file with comments, quotes and several lines", async () => {
    const text = `# c\r\nexport A=1 # one\n\nB = "two\\nlines"\nC='$A'\nD="a\nb"\nE=x#y\nF=\`q"q\`\n`;
    const found = await readEnvFile("-", piped(text), signal);
    expect(Object.fromEntries([...found].map(([name, value]) => [name, Buffer.from(value).toString()]))).toEqual({
      A: "1",
      B: "two\nlines",
      C: "$A",
      D: "a\nb",
      E: "x#y",
      F: 'q"q',
    });
  });

  test.each([
    ["a line without =", "A=1\nhunter2\n", "line 2 is not of the form"],
    ["an open quote", 'A="hunter2\n', "line 1 (A) is not of the form"],
    ["text after a quote", 'A="x" hunter2', "line 1 (A)"],
    ["a name with a dot", "A.B=hunter2", "line 1 (A.B)"],
    ["a name twice", "A=1\nA=hunter2", "line 2 sets A a second time"],
    ["an empty value", "A=1\nB=", "value of B is empty"],
    ["no entry", "# hunter2\n", "sets no variable"],
    ["a long name", `${"N".repeat(101)}=hunter2`, "more than 100 characters"],
    ["a zero byte", "A=a\0hunter2", "zero byte"],
  ])("a .env file with %s is refused as a whole, and its text is not shown", async (_, text, cause) => {
    const error = await failureOf(readEnvFile("-", piped(text), signal));
    expect(error).toMatchObject({ kind: "project", code: "secret-invalid" });
    expect(error.message).toContain(cause);
    expect(`${error.message}${error.hint}`).not.toContain("hunter2");
  });

  test("a .env file that is missing, a directory, or no UTF-8", async () => {
    const directory = mkdtempSync(join(tmpdir(), "secrets-"));
    writeFileSync(join(directory, "latin1"), new Uint8Array([0x41, 0x3d, 0xe9]));
    for (const [file, cause] of [
      [join(directory, "none"), "ENOENT"],
      [directory, "EISDIR"],
      [join(directory, "latin1"), "not valid UTF-8"],
    ] as const) {
      const error = await failureOf(readEnvFile(file, piped(""), signal));
      expect(error.message).toContain(cause);
      expect(error.code).toBe("secret-invalid");
    }
  });
});
