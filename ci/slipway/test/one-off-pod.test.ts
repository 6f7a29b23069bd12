/** One-off pods: the Job that is created, its lease and its end, over an in-memory cluster, and the programs for it. */
import { beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PipelineError } from "../core/errors.ts";
import type { DeployContext } from "../deploy/plan.ts";
import type { KubeObject, Pod } from "../kubernetes/objects.ts";
import type { WorkloadState } from "../kubernetes/workload-state.ts";
import { createOneOffJob } from "../operations/one-off-job.ts";
import { readExitCode, withOneOffPod, type OneOffPod } from "../operations/one-off-pod.ts";
import { SHELL } from "../operations/terminal-session.ts";
import { bundleScript, launchProgram } from "../operations/script-bundle.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { root, service } from "./helloapp-service.ts";

const template = {
  metadata: { labels: { "app.kubernetes.io/name": "helloapp", app: "web", "mesh/inject": "true" } },
  spec: {
    serviceAccountName: "shop",
    securityContext: { runAsNonRoot: true },
    affinity: { podAntiAffinity: { x: 1 }, nodeAffinity: { y: 1 } },
    topologySpreadConstraints: [{ maxSkew: 1 }],
    volumes: [{ name: "cache", emptyDir: {} }],
    initContainers: [{ name: "proxy", image: "proxy", restartPolicy: "Always" }],
    containers: [
      { name: "log", image: "log" },
      {
        ...{ name: "helloapp", image: "helloapp:a", imagePullPolicy: "Never", command: ["/other"], args: ["serve"] },
        ports: [{ containerPort: 8080, hostPort: 8080 }],
        env: [
          { name: "KEY", valueFrom: { secretKeyRef: { name: "s", key: "k" } } },
          { name: "BUN_BE_BUN", value: "0" },
        ],
        volumeMounts: [
          { name: "cache", mountPath: "/cache" },
          { name: "data", mountPath: "/data" },
        ],
        securityContext: { readOnlyRootFilesystem: true },
        ...{ livenessProbe: {}, readinessProbe: {}, startupProbe: {}, lifecycle: { preStop: {} } },
      },
    ],
  },
};
const deployment = {
  ...{ apiVersion: "apps/v1", kind: "Deployment" },
  metadata: { name: "helloapp", namespace: "helloapp" },
  spec: { replicas: 1, selector: { matchLabels: { "app.kubernetes.io/name": "helloapp" } }, template },
  status: {},
} as never;
const state = (more: Partial<WorkloadState> = {}): WorkloadState => ({
  ...{ deployment, replicaSets: [], pods: [] },
  ...more,
});
const create = (more: Partial<WorkloadState> = {}, hasInput = true) =>
  createOneOffJob({
    service,
    state: state(more),
    services: [{ kind: "Service", spec: { selector: { app: "web" } } } as never],
    args: ["run", "-"],
    hasInput,
    deadlineSeconds: 30,
  });

test("the pod has image, environment, volumes, security context and account of the one that serves", () => {
  const { job, container, missingVolumes } = create();
  const { spec } = job.spec.template as unknown as { spec: Record<string, any> };
  expect(container).toBe("helloapp");
  expect(missingVolumes).toEqual(["data"]);
  expect(spec).toMatchObject({
    ...{ serviceAccountName: "shop", securityContext: { runAsNonRoot: true }, restartPolicy: "Never" },
    ...{ volumes: [{ name: "cache" }], initContainers: [{ name: "proxy" }], affinity: { nodeAffinity: { y: 1 } } },
  });
  expect(spec.containers).toEqual([
    {
      ...{ name: "helloapp", image: "helloapp:a", imagePullPolicy: "Never", args: ["run", "-"] },
      env: [
        { name: "KEY", valueFrom: { secretKeyRef: { name: "s", key: "k" } } },
        { name: "BUN_BE_BUN", value: "1" },
        { name: "BUN_ENABLE_EXPERIMENTAL_SHELL_BUILTINS", value: "1" },
      ],
      volumeMounts: [{ name: "cache", mountPath: "/cache" }],
      securityContext: { readOnlyRootFilesystem: true },
      ...{ stdin: true, stdinOnce: true },
    },
  ]);
  expect(spec).not.toHaveProperty("topologySpreadConstraints");
  expect(job.spec).toMatchObject({ backoffLimit: 0, parallelism: 1, activeDeadlineSeconds: 30 });
  expect(job.spec.ttlSecondsAfterFinished).toBeNumber();
});

test("no Service, workload or disruption budget selects the pod, and it is never ready", () => {
  const { job } = create();
  const { metadata, spec } = job.spec.template as { metadata?: { labels?: object }; spec: object };
  expect(metadata!.labels).toEqual({
    ...{ "mesh/inject": "true", "slipway/service": "helloapp", "app.kubernetes.io/component": "run" },
  });
  expect(spec).toMatchObject({ readinessGates: [{ conditionType: "slipway/one-off" }] });
});

test("during a rollout, the pod is one of the version that serves", () => {
  const previous = structuredClone(template) as any;
  previous.spec.containers[1].image = "helloapp:previous";
  const set = { metadata: { name: "set-1" }, spec: { replicas: 1, template: previous }, status: {} } as never;
  const pod = {
    metadata: { name: "p", ownerReferences: [{ kind: "ReplicaSet", name: "set-1" }] },
    status: { conditions: [{ type: "Ready", status: "True" }] },
  } as never;
  expect(create({ replicaSets: [set], pods: [pod] }).job.spec.template.spec.containers[0]!.image).toBe(
    "helloapp:previous",
  );
});

let cluster: FakeCluster;
let context: DeployContext;
let logged: string[];
let states: string[];
const jobs = "/apis/batch/v1/namespaces/helloapp/jobs";
const podPath = "/api/v1/namespaces/helloapp/pods/run-1";

/** The status of the pod that a Job's controller creates. */
let status: Pod["status"];

beforeEach(() => {
  cluster = new FakeCluster();
  [logged, states] = [[], []];
  status = { containerStatuses: [{ name: "helloapp", ready: false, restartCount: 0, state: { running: {} } }] };
  cluster.objects.set("/api/v1/namespaces/helloapp", { metadata: { name: "helloapp" } } as KubeObject);
  cluster.objects.set("/apis/apps/v1/namespaces/helloapp/deployments/helloapp", structuredClone(deployment));
  cluster.intercept = (method, path) => {
    if (method === "POST" && path === jobs) {
      // The name is unknown here: the next list finds the pod by it.
      const created = { metadata: { name: "run-1", labels: {} }, spec: template.spec, status } as unknown as Pod;
      queueMicrotask(() => {
        const [name] = [...cluster.objects.keys()].flatMap((key) =>
          key.startsWith(`${jobs}/`) ? [key.slice(jobs.length + 1)] : [],
        );
        created.metadata.labels = { "job-name": name! };
        cluster.objects.set(podPath, created);
      });
    }
    return undefined;
  };
  const signal = AbortSignal.timeout(60_000);
  context = {
    target: { api: cluster.api(signal) } as DeployContext["target"],
    ...{ service: { ...service, scheduleTimeoutSeconds: 1, rolloutTimeoutSeconds: 2 }, signal },
    recordState: (text) => void states.push(text),
    log: (line) => void logged.push(line),
    step: async (_, work) => (await work(() => {})).value,
  };
});

const options = { args: ["run", "-"], hasInput: true, deadlineSeconds: 3600, connectsBy: "attach" as const };
const leftJobs = () => [...cluster.objects.keys()].filter((path) => path.startsWith(jobs));
const run = <T>(use: (pod: OneOffPod) => Promise<T>) => withOneOffPod(context, options, use);
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error as PipelineError,
  );

test("the Job is removed at the end, after an error and after an interruption", async () => {
  expect(await run(async ({ pod }) => pod)).toBe("run-1");
  expect(leftJobs()).toEqual([]);
  expect(states.at(-1)).toBe("The pod was ended.");
  expect((await failure(run(() => Promise.reject(new Error("x")))))!.message).toBe("x");
  expect(leftJobs()).toEqual([]);
  const interrupted = new AbortController();
  const { signal } = interrupted;
  context = { ...context, signal, target: { ...context.target, api: cluster.api(signal) } };
  status = {};
  const running = failure(run(async () => {}));
  await Bun.sleep(300);
  expect(leftJobs()).toHaveLength(1);
  interrupted.abort(new Error("stop"));
  expect((await running)!.message).toBe("stop");
  expect(leftJobs()).toEqual([]);
});

test("a Job whose creation has no answer is removed too", async () => {
  const { intercept } = cluster;
  cluster.intercept = (method, path) => {
    if (method !== "POST" || path !== jobs) return intercept(method, path);
    cluster.objects.set(`${jobs}/lost`, { metadata: { name: "lost" } } as KubeObject);
    return Response.json({ message: "EOF" }, { status: 502 });
  };
  expect((await failure(run(async () => {})))!.message).toContain("EOF");
  expect(cluster.changes.filter((change) => change.startsWith(`DELETE ${jobs}`))).toHaveLength(1);
});

test.each<[string, Pod["status"], string]>([
  ["an image that is gone", waiting("ErrImageNeverPull", "no image"), "ErrImageNeverPull, no image"],
  ["a Secret that is gone", waiting("CreateContainerConfigError", 'secret "s" not found'), 'secret "s" not found'],
  [
    "a failing init container",
    { initContainerStatuses: waiting("CrashLoopBackOff", "x").containerStatuses! },
    "CrashLoop",
  ],
  [
    "no room on the nodes",
    { conditions: [{ type: "PodScheduled", status: "False", reason: "Unschedulable", message: "no memory" }] },
    "Unschedulable, no memory",
  ],
  ["an eviction", { phase: "Failed", reason: "Evicted" }, "Evicted"],
  ["nothing at all", {}, "no container runs"],
])("%s is an environment error with the reason, and nothing stays", async (_, given, reason) => {
  status = given;
  const error = await failure(run(async () => {}));
  expect(error).toMatchObject({ kind: "environment", code: "one-off-not-started" });
  expect(error!.message).toContain(reason);
  expect(leftJobs()).toEqual([]);
});

function waiting(reason: string, message: string): Pod["status"] {
  return {
    containerStatuses: [{ name: "helloapp", ready: false, restartCount: 0, state: { waiting: { reason, message } } }],
  };
}

test("missing rights are named before the Job is created", async () => {
  cluster.intercept = (_, path) =>
    path.endsWith("/selfsubjectrulesreviews")
      ? Response.json({ status: { resourceRules: [{ verbs: ["*"], apiGroups: ["apps", ""], resources: ["pods"] }] } })
      : undefined;
  const error = await failure(run(async () => {}));
  expect(error).toMatchObject({ kind: "environment", code: "rights-missing" });
  expect(error!.message).toContain("jobs (create, get, patch, delete); pods/attach (create)");
  expect(cluster.changes.filter((change) => change.includes("/jobs"))).toEqual([]);
});

test("a service that is not deployed is a project error", async () => {
  cluster.objects.clear();
  expect(await failure(run(async () => {}))).toMatchObject({ kind: "project", code: "pods-not-found" });
});

const podWith = (found: Partial<Pod> | undefined): OneOffPod => ({
  ...{ pod: "run-1", container: "helloapp" },
  read: async () => found as Pod | undefined,
});
const ended = (exitCode: number): Pod["status"] => ({
  containerStatuses: [{ name: "helloapp", ready: false, restartCount: 0, state: { terminated: { exitCode } } }],
});

test("the exit code is that of the program, unless the pod is gone, evicted or runs on", async () => {
  const metadata = { name: "run-1" };
  expect(await readExitCode(podWith({ metadata, status: ended(7) }))).toBe(7);
  const lost = { kind: "partial", code: "one-off-lost" };
  expect(await failure(readExitCode(podWith(undefined)))).toMatchObject(lost);
  const deleted = { ...metadata, deletionTimestamp: "now" };
  expect(await failure(readExitCode(podWith({ metadata: deleted, status: ended(0) })))).toMatchObject(lost);
  const error = await failure(readExitCode(podWith({ metadata, status: {} }), 0.1));
  expect(error).toMatchObject(lost);
  expect(error!.message).toContain("connection");
});

async function evaluate(program: string, args: string[] = []) {
  const child = Bun.spawn([process.execPath, "run", "-", ...args], {
    ...{ stdin: new Blob([program]), stdout: "pipe", stderr: "pipe" },
    env: { ...process.env, BUN_BE_BUN: "1" },
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, stdout, stderr };
}

test("a script is one program with its modules, packages, arguments and exit code", async () => {
  const local = { ...service, root, project: root };
  const file = join(root, "ci/slipway/test", `script-${process.pid}.ts`);
  writeFileSync(
    file,
    'import { parse } from "yaml";\nimport { sha256 } from "../core/hash.ts";\n' +
      'console.log(parse("a: 1").a, sha256("").slice(0, 4), process.argv.slice(2), import.meta.main);\nprocess.exit(9);\n',
  );
  try {
    const { code, stdout } = await evaluate(await bundleScript(local, file), ["x", "--flag"]);
    expect(stdout).toBe('1 e3b0 [ "x", "--flag" ] true\n');
    expect(code).toBe(9);
  } finally {
    rmSync(file);
  }
});

test.each([
  ["a module that is missing", 'import "./nowhere.ts";', "source-does-not-compile"],
  ["a syntax error", "const = 1;", "source-does-not-compile"],
  ["a file that is no code", 'import path from "./image.png";\nconsole.log(path);', "source-does-not-compile"],
])("a script with %s is a project error before anything is started", async (_, source, code) => {
  const place = mkdtempSync(join(tmpdir(), "slipway-script-"));
  writeFileSync(join(place, "image.png"), "x");
  writeFileSync(join(place, "a.ts"), source);
  const error = await failure(bundleScript(service, join(place, "a.ts")));
  expect(error).toMatchObject({ kind: "project", code });
  rmSync(place, { recursive: true });
});

test("an entry runs as the binary itself, without Bun's mode, and its end is passed on", async () => {
  const print = "console.log(process.env.BUN_BE_BUN, process.argv.slice(1)); process.exit(4)";
  const { code, stdout } = await evaluate(launchProgram(["-e", print, 'it\'s "x" $HOME']));
  expect({ code, stdout }).toEqual({ code: 4, stdout: 'undefined [ "it\'s \\"x\\" $HOME" ]\n' });
  expect((await evaluate(launchProgram(["-e", 'process.kill(process.pid, "SIGKILL")']))).code).toBe(137);
});

test.each([
  ["cd /usr\npwd\n", "/usr\n", 0],
  ["cd /usr\ncd -\npwd\n", `${root}\n`, 0],
  ["export GREETING='a b'\necho $GREETING\n", "a b\n", 0],
  ["false\nexit\n", "", 1],
  ["exit 7\n", "", 7],
  ["cd /no-such-directory\n", "", 1],
  ["no-such-command\n", "", 1],
])("the shell runs %p", async (input, expected, exit) => {
  const child = Bun.spawn([process.execPath, "-e", SHELL], {
    ...{ cwd: root, stdin: new Blob([input]), stdout: "pipe", stderr: "ignore" },
  });
  expect(await new Response(child.stdout).text()).toContain(expected);
  expect(await child.exited).toBe(exit);
});
