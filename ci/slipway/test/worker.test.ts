/** Services that open no port: detection, generated manifests, and verification by pods that stay up. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { findPortProblems } from "../deploy/port-checks.ts";
import { explainContainerFailure } from "../deploy/failure-hints.ts";
import { assertServing } from "../deploy/status.ts";
import type { DeployContext } from "../deploy/plan.ts";
import { verifyStaysUp } from "../deploy/stay-up.ts";
import { verifyVersion } from "../deploy/verify-from-outside.ts";
import { describeChoices } from "../init/describe-choices.ts";
import { generatedFiles } from "../init/files.ts";
import { assertComponentsFitWorker } from "../init/kustomize-components.ts";
import { findFacts } from "../init/project-facts.ts";
import type { Deployment, KubeObject } from "../kubernetes/objects.ts";
import { applyInOrder } from "../kubernetes/apply.ts";
import { prepareForApply } from "../kubernetes/prepare-for-apply.ts";
import { isWorker } from "../kubernetes/service-port.ts";
import type { WorkloadState } from "../kubernetes/workload-state.ts";
import { proxyEndpoint } from "../targets/service-endpoint.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

const directory = mkdtempSync(join(tmpdir(), "slipway-worker-"));
afterAll(() => rmSync(directory, { recursive: true }));
const { signal } = new AbortController();

async function factsOf(files: Record<string, string>, dependencies: Record<string, string> = {}) {
  const project = mkdtempSync(join(directory, "at-"));
  const all = { "package.json": JSON.stringify({ name: "mailer", dependencies }), ...files };
  for (const [path, text] of Object.entries(all)) {
    mkdirSync(dirname(join(project, path)), { recursive: true });
    writeFileSync(join(project, path), text);
  }
  return findFacts(resolveService(project, { identity: "mailer" }), signal);
}

const timer = "setInterval(() => console.log('tick'), 1000);\n";

type Row = [string, Record<string, string>, Record<string, string>?];
/** Completes the rows: the test would take a missing argument as a callback. */
const withDependencies = (rows: Row[]) =>
  rows.map(([name, files, dependencies = {}]): Required<Row> => [name, files, dependencies]);

describe("init", () => {
  test.each(
    withDependencies([
      ["a timer", { "src/main.ts": timer }],
      [
        "a queue worker",
        {
          "src/main.ts":
            'import { Worker } from "bullmq";\nnew Worker("mail", send, { connection: { port: 6379 } });\n',
        },
        { bullmq: "^5.0.0" },
      ],
      [
        "a loop in a module",
        { "src/main.ts": 'import "./loop";\n', "src/loop.ts": "while (true) await Bun.sleep(1);\n" },
      ],
      ["Bun.cron", { "src/main.ts": 'Bun.cron("mail", "* * * * *", () => send());\n' }],
      [
        "a consumer with a TCP connection",
        { "src/main.ts": 'import { connect } from "node:net";\nconnect({ host: "mq", port: 5672 });\n' },
      ],
      [
        "a bot that polls",
        { "src/main.ts": 'for (;;) await fetch("https://api.example.com/getUpdates?timeout=30");\n' },
      ],
      [
        "a schedule of croner",
        { "src/main.ts": 'import { Cron } from "croner";\nnew Cron("* * * * * *", () => send());\n' },
        { croner: "^9.0.0" },
      ],
      ["a server in a comment", { "src/main.ts": `// Bun.serve({ port: 3000 })\n${timer}` }],
      ["a server in another process", { "src/main.ts": timer, "src/web.ts": "Bun.serve({ fetch });\n" }],
    ]),
  )("recognises %s as a service without a port", async (_, files, dependencies) => {
    expect((await factsOf(files, dependencies)).isWorker).toBe(true);
  });

  test.each(
    withDependencies([
      ["Bun.serve", { "src/main.ts": "Bun.serve({ fetch });\n" }],
      ["a server of metrics", { "src/main.ts": `Bun.serve({ port: 9090, fetch: metrics });\n${timer}` }],
      ["listen in an imported module", { "src/main.ts": 'import "./web";\n', "src/web.ts": "app.listen(3000);\n" }],
      ["a default export", { "src/main.ts": "const app = create();\nexport default app;\n" }],
      ["a default export with fetch", { "src/main.ts": "export default { fetch: () => new Response() };\n" }],
      ["a framework", { "src/main.ts": 'import { start } from "fastify";\nstart();\n' }, { fastify: "^5.0.0" }],
      [
        "a member of the workspace",
        { "src/main.ts": 'import { start } from "@acme/web";\nstart();\n' },
        { "@acme/web": "workspace:*" },
      ],
      ["a path alias", { "src/main.ts": 'import { start } from "@/web";\nstart();\n' }],
      ["PORT", { "src/main.ts": "start(process.env.PORT);\n" }],
      ["an empty entry", { "src/main.ts": "" }],
      ["manifests with a Service", { "src/main.ts": timer, "k8s/base/service.yaml": "kind: Service\n" }],
    ]),
  )("keeps the port for %s", async (_, files, dependencies) => {
    expect((await factsOf(files, dependencies)).isWorker).toBe(false);
  });

  test("writes no ports, probes and Service, and says so", async () => {
    const facts = await factsOf({ "src/main.ts": timer });
    const files = generatedFiles(facts);
    expect([...files.keys()]).not.toContain("k8s/base/service.yaml");
    const read = (path: string) => Bun.YAML.parse(files.get(path)!) as any;
    expect(read("k8s/base/kustomization.yaml").resources).not.toContain("service.yaml");
    expect(read("k8s/base/networkpolicy.yaml").spec.ingress).toBeUndefined();
    expect(files.get("k8s/overlays/k3s/kustomization.yaml")).not.toMatch(/nodePort|kind: Service/);
    const worker = read("k8s/base/deployment.yaml");
    const http = Bun.YAML.parse(generatedFiles({ ...facts, isWorker: false }).get("k8s/base/deployment.yaml")!) as any;
    // The templates differ in nothing else.
    const container = http.spec.template.spec.containers[0];
    for (const key of ["ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"]) delete container[key];
    http.spec.template.spec.terminationGracePeriodSeconds = 30;
    Object.assign(http.spec, { replicas: 1, minReadySeconds: 5 });
    expect(worker).toEqual(http);
    expect(isWorker(facts.service, [worker])).toBe(true);
    expect(describeChoices(facts, []).join("\n")).toContain("port     none  src/main.ts starts no server");
    expect(describeChoices({ ...facts, isWorker: false }, []).join("\n")).toContain("port     8080");
  });

  test("takes no port of another service, and believes the setting `port`", async () => {
    const source = `const redis = { host: "cache", port: 6379 };\nconnect(redis);\n${timer}`;
    const facts = await factsOf({ "src/main.ts": source });
    expect(facts).toMatchObject({ isWorker: true, port: undefined });
    const project = facts.service.project;
    const set = await findFacts(resolveService(project, { identity: "mailer", port: 3000 }), signal);
    expect(set.isWorker).toBe(false);
  });

  test.each([
    ["ingress", "k8s/base/service.yaml", "kind: Service\n"],
    ["monitoring", "k8s/base/deployment.yaml", "ports: [{ name: http, containerPort: 9090 }]\n"],
  ])("refuses the component %s for a worker until its port exists", async (name, path, text) => {
    const { service } = await factsOf({ "src/main.ts": timer });
    expect(() => assertComponentsFitWorker(service, [name])).toThrow(`the component ${name} needs`);
    expect(() => assertComponentsFitWorker(service, ["autoscaler", "egress"])).not.toThrow();
    mkdirSync(dirname(join(service.project, path)), { recursive: true });
    writeFileSync(join(service.project, path), text);
    expect(() => assertComponentsFitWorker(service, [name])).not.toThrow();
  });

  test("scales a worker from one pod", async () => {
    const facts = await factsOf({ "src/main.ts": timer });
    const path = "k8s/components/autoscaler/horizontalpodautoscaler.yaml";
    const read = (isWorker: boolean) =>
      Bun.YAML.parse(generatedFiles({ ...facts, isWorker }, ["autoscaler"]).get(path)!) as any;
    const [worker, server] = [read(true), read(false)];
    expect(worker.spec.minReplicas).toBe(1);
    expect({ ...worker, spec: { ...worker.spec, minReplicas: 2 } }).toEqual(server);
  });
});

/** A workload of the service, with fields of its container. */
function workload(container: object = {}, kind = "Deployment"): KubeObject {
  return {
    apiVersion: "apps/v1",
    kind,
    metadata: { name: "helloapp", namespace: service.namespace },
    spec: {
      replicas: 2,
      selector: { matchLabels: { "app.kubernetes.io/name": "helloapp" } },
      template: {
        metadata: { labels: { "app.kubernetes.io/name": "helloapp", "app.kubernetes.io/version": "a" } },
        spec: { containers: [{ name: "helloapp", image: "helloapp:a", ...container }] },
      },
    },
  } as KubeObject;
}

test("a workload is a worker only if no Service, container port, probe, variable and setting names its port", () => {
  const selecting = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "x" },
    spec: { selector: { "app.kubernetes.io/name": "helloapp" }, ports: [{ port: 80 }] },
  } as unknown as KubeObject;
  const exec = { readinessProbe: { exec: { command: ["/ready"] } } };
  expect(isWorker(service, [workload()])).toBe(true);
  expect(isWorker(service, [workload({}, "StatefulSet")])).toBe(true);
  expect(isWorker(service, [workload({ ...exec, env: [{ name: "REDIS_PORT", value: "1" }] })])).toBe(true);
  expect(isWorker(service, [workload(), selecting])).toBe(false);
  expect(isWorker(service, [workload({ ports: [{ containerPort: 8080 }] })])).toBe(false);
  expect(isWorker(service, [workload({ livenessProbe: { httpGet: { path: "/", port: 8080 } } })])).toBe(false);
  expect(isWorker({ ...service, isPortSet: true }, [workload()])).toBe(false);
  // Metrics have a port of their own.
  const metrics = { ports: [{ name: "metrics", containerPort: 9090 }] };
  expect(isWorker(service, [workload(metrics)])).toBe(true);
  expect(isWorker(service, [workload({ livenessProbe: { httpGet: { path: "/", port: 9090 } } })])).toBe(true);
  expect(findPortProblems({ service, manifests: [workload(metrics)], wasVerified: false } as never)).toEqual([]);
  expect(isWorker(service, [workload({ env: [{ name: "PORT", value: "80" }] })])).toBe(false);
  expect(isWorker(service, [])).toBe(false);
});

describe("a version without a port", () => {
  async function deployed(seconds = 5) {
    const cluster = new FakeCluster();
    const api = cluster.api();
    const manifest = workload() as Deployment;
    manifest.spec.minReadySeconds = seconds;
    const path = `/apis/apps/v1/namespaces/${service.namespace}/deployments/helloapp`;
    cluster.objects.set(`/api/v1/namespaces/${service.namespace}`, {} as KubeObject);
    await applyInOrder(api, await prepareForApply(api, [manifest]));
    expect(cluster.get(path)).toBeDefined();
    return { cluster, endpoint: proxyEndpoint(api, service, [manifest]) };
  }
  const pods = ({ objects }: FakeCluster) => [...objects].filter(([path]) => path.includes("/pods/"));
  const containerOf = (pod: KubeObject) => (pod as any).status.containerStatuses[0];

  test("is verified by pods that stay up, and gets no request", async () => {
    const { endpoint } = await deployed();
    expect(endpoint.url).toBe("Deployment/helloapp");
    expect(endpoint.open).toBeUndefined();
    const start = performance.now();
    expect(await verifyVersion(endpoint, "a", { signal })).toMatchObject({ ok: true });
    expect(performance.now() - start).toBeGreaterThan(900);
    expect(await verifyVersion(endpoint, "b", { deadlineSeconds: 0, signal })).toMatchObject({
      ok: false,
      last: "the pods run a",
    });
  });

  test.each([0, 7])("fails at once if a container ends with %d", async (exitCode) => {
    const { cluster, endpoint } = await deployed(0);
    const [, pod] = pods(cluster)[0]!;
    setTimeout(() => {
      Object.assign(containerOf(pod), { restartCount: 1, lastState: { terminated: { exitCode } } });
    }, 400);
    const start = performance.now();
    const { ok, failure } = await verifyVersion(endpoint, "a", { signal });
    expect(ok).toBe(false);
    expect(failure!.pod).toBe(pod.metadata.name);
    expect(failure!.message).toContain(`${exitCode}`);
    expect(performance.now() - start).toBeLessThan(4000);
  });

  test("is not verified while a pod is missing", async () => {
    const { cluster, endpoint } = await deployed();
    cluster.objects.delete(pods(cluster)[0]![0]);
    const { observe } = endpoint;
    expect(await verifyStaysUp(observe!, "a", { deadlineSeconds: 0, signal })).toEqual({
      ok: false,
      last: "1 of 2 pods of helloapp are ready",
    });
    const nothing = { ...endpoint, observe: async (): Promise<WorkloadState[]> => [] };
    expect(await verifyVersion(nothing, "a", { deadlineSeconds: 0, signal })).toMatchObject({
      last: "it is not deployed",
    });
  });

  test("is named in the message of a failed verification", async () => {
    const { endpoint } = await deployed();
    const failing = assertServing({ signal } as DeployContext, endpoint, "b");
    await expect(failing).rejects.toThrow("Deployment/helloapp does not run b steadily: the pods run a");
  }, 15_000);
});

test.each([
  ["CrashLoopBackOff, helloapp exits with 0", true],
  ["helloapp exited with 0 after it had been ready", true],
  ["the container ended with exit code 0 within 3 s", true],
  ["CrashLoopBackOff, helloapp exits with 3", false],
  ["after SIGTERM the container ended with exit code 0", false],
])("a container of which is said `%s` gets a hint about its end: %p", (reason, isHinted) => {
  const hint = explainContainerFailure({ service, manifests: [], output: "done", reason });
  expect(hint?.includes("CronJob") ?? false).toBe(isHinted);
});
