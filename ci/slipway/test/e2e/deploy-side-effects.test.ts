/**
 * Guarantees of a deploy besides the rollout: Secrets are not disclosed, an autoscaler's replicas are kept,
 * pre-deploy Jobs run first, and a run after a kill succeeds.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import type { KubeObject, Pod } from "../../kubernetes/objects.ts";
import { sha256 } from "../../core/hash.ts";
import { TestService } from "./deployed-service.ts";
import { describeWith, eventually, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(900_000);

const isRunning = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const k3s = { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isRunning };
const kustomization = "k8s/base/kustomization.yaml";

/** Creates a test service for the tests of one block. */
function createTestService(name: string, port: number): () => TestService {
  const directory = temporaryDirectory();
  let testService: TestService;
  beforeAll(async () => {
    testService = new TestService(directory, name, { namespace: `helloapp-guarantees-${name}`, port });
    await testService.start();
    await testService.remove();
    await testService.createForeignObjects();
  });
  afterAll(async () => {
    testService.server.stop();
    await testService.remove();
  });
  return () => testService;
}

/** Runs the pipeline, and checks its exit code and that no client request failed. @returns its output */
async function run(testService: TestService, args: string[] = [], code = 0): Promise<string> {
  const ended = await testService.run(args, Object.values(testService.ids));
  expect(ended.code, ended.output).toBe(code);
  expect(ended.failed).toEqual([]);
  return ended.output;
}

async function list<T extends KubeObject>(testService: TestService, group: string, resources: string): Promise<T[]> {
  const path = `${group}/namespaces/${testService.place.namespace}/${resources}`;
  return (await testService.ask<{ items: T[] }>("GET", path)).items;
}

/** Adds an object to the manifests. */
function add(testService: TestService, name: string, object: object): void {
  writeFileSync(join(testService.copy.directory, "k8s/base", name), JSON.stringify(object));
  testService.copy.rewrite(kustomization, "resources:\n", `resources:\n  - ${name}\n`);
}

const podOf = (args: string[], env: object[] = []) => ({
  automountServiceAccountToken: false,
  securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: "RuntimeDefault" } },
  containers: [
    {
      name: "main",
      image: "helloapp",
      imagePullPolicy: "Never",
      args,
      env,
      securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
    },
  ],
});

describeWith(
  "Secrets",
  [],
  () => {
    const testService = createTestService("secrets", 30965);
    const values = [1, 2, 3].map((n) => ({
      fixed: `fixed-${n}-${crypto.randomUUID()}`,
      named: `named-${n}-${crypto.randomUUID()}`,
    }));
    /** All output and reports of the pipeline. */
    let printed = "";

    /** Returns the digests of the values that the pods see, from their logs. */
    async function seenByPods(): Promise<string[]> {
      const pods = await eventually(async () => {
        const found = await list<Pod>(testService(), "/api/v1", "pods");
        return found.some(({ metadata }) => metadata.deletionTimestamp) ? undefined : found;
      });
      const logs = await Promise.all(pods.map(({ metadata }) => testService().logOf(metadata.name)));
      return [...new Set(logs.map((log) => /^sees (.*)$/m.exec(log)?.[1] ?? log))];
    }
    const digestOf = (fixed: string, named: string) => `${sha256(fixed)} ${sha256(named)}`;

    /** Creates a version with other values. Its pods log digests of the values. */
    function version({ fixed, named }: { fixed: string; named: string }): void {
      const { copy } = testService();
      testService().version();
      const digest = (name: string) => `new Bun.CryptoHasher("sha256").update(process.env.${name}!).digest("hex")`;
      copy.state(`if (!Bun.argv[2]) console.log("sees", ${digest("FIXED")}, ${digest("NAMED")});`);
      const generators = `secretGenerator:
  - name: fixed
    literals: ["FIXED=${fixed}"]
    options: { disableNameSuffixHash: true }
  - name: named
    literals: ["NAMED=${named}"]
`;
      copy.rewrite(kustomization, "resources:\n", `${generators}resources:\n`);
      const env = "          envFrom:\n";
      const refs = ["fixed", "named"].map((name) => `            - secretRef: { name: ${name} }\n`);
      copy.rewrite("k8s/base/deployment.yaml", env, env + refs.join(""));
    }

    async function pipeline(...args: string[]): Promise<void> {
      const report = join(testService().copy.directory, "report.json");
      const id = testService().copy.id();
      const ended = await testService().run([...args, "--verbose", "--report", report], [id, ...ids]);
      ids.push(id);
      printed += ended.output + readFileSync(report, "utf8");
      expect(ended.code, ended.output).toBe(0);
      expect(ended.failed).toEqual([]);
    }
    const ids: string[] = [];

    /** Finds values outside the service's Secrets. */
    async function leaks(): Promise<string[]> {
      const objects = await testService().everything();
      const texts = Object.entries(objects).flatMap(([path, object]): [string, string][] => {
        const { type, data = {} } = object as { type?: string; data?: Record<string, string> };
        if (!path.includes("/secrets/")) return [[path, JSON.stringify(object)]];
        if (type !== "slipway/version") return [];
        const decoded = Object.values(data).map((text) => Buffer.from(text, "base64"));
        const manifests = gunzipSync(Buffer.from(data.manifests!, "base64")).toString();
        return [[path, JSON.stringify(object) + decoded.join("\n") + manifests]];
      });
      expect(texts.length).toBeGreaterThan(15);
      const all = values.flatMap(({ fixed, named }) => [fixed, named]);
      return [...texts, ["the output", printed] as const].flatMap(([path, text]) =>
        all.filter((value) => text.includes(value) || text.includes(btoa(value))).map((value) => `${value}: ${path}`),
      );
    }

    test("pods see the right values after three deploys and a rollback, and the values appear nowhere else", async () => {
      for (const value of values) {
        version(value);
        await pipeline("plan");
        await pipeline();
        expect(await seenByPods()).toEqual([digestOf(value.fixed, value.named)]);
        expect(await leaks()).toEqual([]);
      }
      expect(printed).toContain(" changed");
      await pipeline("rollback");
      // A Secret with a fixed name has its current value, a Secret named by its content that of the version.
      expect(await seenByPods()).toEqual([digestOf(values[2]!.fixed, values[1]!.named)]);
      expect(await leaks()).toEqual([]);
    });
  },
  k3s,
);

describeWith(
  "an autoscaler",
  [],
  () => {
    const testService = createTestService("autoscaler", 30966);
    const scaler = {
      apiVersion: "autoscaling/v2",
      kind: "HorizontalPodAutoscaler",
      metadata: { name: "helloapp" },
      spec: {
        scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "helloapp" },
        minReplicas: 2,
        maxReplicas: 6,
      },
    };

    test("ten deploys under load never reduce the ready pods, and a plan without changes is empty", async () => {
      const deployment = `/apis/apps/v1/namespaces/${testService().place.namespace}/deployments/helloapp`;
      interface State {
        spec: { replicas: number };
        status: { readyReplicas?: number };
      }
      const version = () => void testService().version();
      version();
      await run(testService());
      // By hand: a cluster of the tests may lack the metrics that the manifests of an autoscaler need.
      const scalers = `/apis/autoscaling/v2/namespaces/${testService().place.namespace}/horizontalpodautoscalers`;
      await testService().ask("POST", scalers, scaler);
      await testService().ask("PATCH", `${deployment}/scale`, { spec: { replicas: 4 } });
      const ready = async () => (await testService().ask<State>("GET", deployment)).status.readyReplicas ?? 0;
      await eventually(async () => (await ready()) === 4 || undefined);

      let least = Infinity;
      let over = false;
      const watching = (async () => {
        for (; !over; await Bun.sleep(50)) least = Math.min(least, await ready());
      })();
      try {
        for (let i = 0; i < 10; i += 1) {
          version();
          await run(testService());
        }
      } finally {
        over = true;
        await watching;
      }
      expect(least).toBe(4);
      expect((await testService().ask<State>("GET", deployment)).spec.replicas).toBe(4);
      expect(await run(testService(), ["plan"])).toContain("would change nothing");
    });
  },
  k3s,
);

describeWith(
  "other kinds",
  [],
  () => {
    const testService = createTestService("kinds", 30967);
    const labels = { "app.kubernetes.io/component": "store" };
    const store = {
      apiVersion: "apps/v1",
      kind: "StatefulSet",
      metadata: { name: "store" },
      spec: {
        replicas: 1,
        serviceName: "store",
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            ...podOf([], [{ name: "DRAIN_DELAY_SECONDS", value: "0" }]),
            terminationGracePeriodSeconds: 15,
          },
        },
      },
    };
    const migration = (args: string[]) => ({
      apiVersion: "batch/v1",
      kind: "Job",
      metadata: { name: "migration", annotations: { "slipway/pre-deploy": "true" } },
      spec: { backoffLimit: 0, template: { spec: { ...podOf(args), restartPolicy: "Never" } } },
    });
    const images = async (group: string, resources: string) =>
      (await list<KubeObject & { spec: { template: Pod } }>(testService(), group, resources)).map(
        ({ spec }) => spec.template.spec.containers[0]!.image,
      );

    test("a pre-deploy Job runs first, and the deploy waits for a StatefulSet with the image", async () => {
      for (const version of ["a", "b"] as const) {
        testService().version(version);
        add(testService(), "store.yaml", store);
        add(testService(), "migration.yaml", migration(["--version"]));
        const output = await run(testService());
        expect(output).toMatch(/^ *jobs .*Job\/migration-\S+ has completed/m);
        const image = `helloapp:${testService().ids[version]}`;
        expect(await images("/apis/apps/v1", "statefulsets")).toEqual([image]);
        expect(await images("/apis/batch/v1", "jobs")).toContain(image);
        const pods = await list<Pod>(testService(), "/api/v1", "pods");
        const own = pods.find(({ metadata }) => metadata.name === "store-0")!;
        expect(own.spec.containers[0]!.image).toBe(image);
      }
    });

    test("a failing pre-deploy Job stops the rollout, its log is shown, and nothing else changes", async () => {
      const before = await testService().objects();
      testService().version("a");
      add(testService(), "store.yaml", store);
      add(testService(), "migration.yaml", migration(["--no-such-migration"]));
      const output = await run(testService(), [], 1);
      expect(output).toMatch(/JobFailed, Job\/migration-\S+ failed/);
      // The end of its log.
      expect(output).toContain("last lines of migration-");
      expect(output).toContain("2 invalid arguments or configuration");
      expect(output).toContain(`Rolled back: helloapp:${testService().ids.b} serves, as before`);
      const after = await testService().objects();
      const isJob = (path: string) => path.includes("/jobs/");
      const others = (all: object) => Object.entries(all).filter(([path]) => !isJob(path));
      expect(others(after)).toEqual(others(before));
      expect(await testService().served()).toBe(testService().ids.b);
    });
  },
  k3s,
);

describeWith(
  "a pipeline that is killed",
  [],
  () => {
    const testService = createTestService("kills", 30968);
    const KILLS = 20;

    test(`at ${KILLS} points of a deploy: the next run succeeds, and no request fails`, async () => {
      testService().version();
      await run(testService());
      testService().version();
      const start = performance.now();
      await run(testService());
      const whole = performance.now() - start;
      let killed = 0;
      for (let i = 0; i < KILLS; i += 1) {
        const version = testService().version();
        const first = await testService().run([], Object.values(testService().ids), {
          killAfter: (whole * i) / KILLS,
        });
        if (first.code !== 0) killed += 1;
        expect(first.failed).toEqual([]);
        await run(testService());
        expect(await testService().served()).toBe(testService().ids[version]);
        const objects = Object.keys(await testService().objects());
        expect(objects.filter((path) => path.endsWith("/by-hand")).length).toBe(4);
      }
      expect(killed).toBeGreaterThan(KILLS / 2);
    });
  },
  k3s,
);
