/** What a deploy promises beside the pods: Secrets that stay secret, an autoscaler's number, Jobs that come first, and a next run after a kill. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import type { KubeObject, Pod } from "../../kubernetes/objects.ts";
import { sha256 } from "../../core/hash.ts";
import { Lane } from "./test-service.ts";
import { describeWith, eventually, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(900_000);

const answers = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const surroundings = { name: "E2E_CLUSTER=k3s, and a k3s that answers", isMet: answers };
const kustomization = "k8s/base/kustomization.yaml";

/** A lane for the tests of one block. */
function laneFor(name: string, port: number): () => Lane {
  const directory = temporaryDirectory();
  let lane: Lane;
  beforeAll(async () => {
    lane = new Lane(directory, name, { namespace: `helloapp-campaign-${name}`, port });
    await lane.start();
    await lane.remove();
    await lane.plant();
  });
  afterAll(async () => {
    lane.server.stop();
    await lane.remove();
  });
  return () => lane;
}

/** Runs the pipeline, which has to end like that, and no request may fail. @returns its output */
async function run(lane: Lane, args: string[] = [], code = 0): Promise<string> {
  const ended = await lane.run(args, Object.values(lane.ids));
  expect(ended.code, ended.output).toBe(code);
  expect(ended.failed).toEqual([]);
  return ended.output;
}

async function list<T extends KubeObject>(lane: Lane, group: string, resources: string): Promise<T[]> {
  const path = `${group}/namespaces/${lane.place.namespace}/${resources}`;
  return (await lane.ask<{ items: T[] }>("GET", path)).items;
}

/** Adds an object to the manifests. */
function add(lane: Lane, name: string, object: object): void {
  writeFileSync(join(lane.copy.directory, "k8s/base", name), JSON.stringify(object));
  lane.copy.rewrite(kustomization, "resources:\n", `resources:\n  - ${name}\n`);
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
    const lane = laneFor("secrets", 30965);
    const values = [1, 2, 3].map((n) => ({
      fixed: `fixed-${n}-${crypto.randomUUID()}`,
      named: `named-${n}-${crypto.randomUUID()}`,
    }));
    /** All that the pipeline has printed or written. */
    let said = "";

    /** Which values the pods have, by what they say of them. */
    async function seen(): Promise<string[]> {
      const pods = await eventually(async () => {
        const found = await list<Pod>(lane(), "/api/v1", "pods");
        return found.some(({ metadata }) => metadata.deletionTimestamp) ? undefined : found;
      });
      const logs = await Promise.all(pods.map(({ metadata }) => lane().logOf(metadata.name)));
      return [...new Set(logs.map((log) => /^sees (.*)$/m.exec(log)?.[1] ?? log))];
    }
    const digestOf = (fixed: string, named: string) => `${sha256(fixed)} ${sha256(named)}`;

    /** A version with other values, whose pods say the digests of what they see. */
    function version({ fixed, named }: { fixed: string; named: string }): void {
      const { copy } = lane();
      lane().version();
      const digest = (name: string) =>
        `new Bun.CryptoHasher("sha256").update(process.env.${name}!).digest("hex")`;
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
      const report = join(lane().copy.directory, "report.json");
      const id = lane().copy.id();
      const ended = await lane().run([...args, "--verbose", "--report", report], [id, ...ids]);
      ids.push(id);
      said += ended.output + readFileSync(report, "utf8");
      expect(ended.code, ended.output).toBe(0);
      expect(ended.failed).toEqual([]);
    }
    const ids: string[] = [];

    /** Where a value stands that is in no Secret of the service's own. */
    async function leaks(): Promise<string[]> {
      const objects = await lane().everything();
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
      return [...texts, ["the output", said] as const].flatMap(([path, text]) =>
        all
          .filter((value) => text.includes(value) || text.includes(btoa(value)))
          .map((value) => `${value}: ${path}`),
      );
    }

    test("three values, three deploys, a rollback: pods see the right ones, and nobody reads them elsewhere", async () => {
      for (const value of values) {
        version(value);
        await pipeline("plan");
        await pipeline();
        expect(await seen()).toEqual([digestOf(value.fixed, value.named)]);
        expect(await leaks()).toEqual([]);
      }
      expect(said).toContain("is another");
      await pipeline("rollback");
      // Of a fixed name: what it is now; named by its content: that of the version.
      expect(await seen()).toEqual([digestOf(values[2]!.fixed, values[1]!.named)]);
      expect(await leaks()).toEqual([]);
    });
  },
  surroundings,
);

describeWith(
  "an autoscaler",
  [],
  () => {
    const lane = laneFor("autoscaler", 30966);
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

    test("ten deploys under load: never fewer ready than it has chosen, and a plan of nothing is empty", async () => {
      const deployment = `/apis/apps/v1/namespaces/${lane().place.namespace}/deployments/helloapp`;
      interface State {
        spec: { replicas: number };
        status: { readyReplicas?: number };
      }
      const version = () => {
        lane().version();
        add(lane(), "autoscaler.yaml", scaler);
      };
      version();
      await run(lane());
      await lane().ask("PATCH", `${deployment}/scale`, { spec: { replicas: 4 } });
      const ready = async () => (await lane().ask<State>("GET", deployment)).status.readyReplicas ?? 0;
      await eventually(async () => (await ready()) === 4 || undefined);

      let least = Infinity;
      let over = false;
      const watching = (async () => {
        for (; !over; await Bun.sleep(50)) least = Math.min(least, await ready());
      })();
      try {
        for (let i = 0; i < 10; i += 1) {
          version();
          await run(lane());
        }
      } finally {
        over = true;
        await watching;
      }
      expect(least).toBe(4);
      expect((await lane().ask<State>("GET", deployment)).spec.replicas).toBe(4);
      expect(await run(lane(), ["plan"])).toContain("would change nothing");
    });
  },
  surroundings,
);

describeWith(
  "other kinds",
  [],
  () => {
    const lane = laneFor("kinds", 30967);
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
      metadata: { name: "migration", annotations: { "slipway/first": "true" } },
      spec: { backoffLimit: 0, template: { spec: { ...podOf(args), restartPolicy: "Never" } } },
    });
    const images = async (group: string, resources: string) =>
      (await list<KubeObject & { spec: { template: Pod } }>(lane(), group, resources)).map(
        ({ spec }) => spec.template.spec.containers[0]!.image,
      );

    test("a Job that comes first runs before, and a StatefulSet of the image is waited for", async () => {
      for (const version of ["a", "b"] as const) {
        lane().version(version);
        add(lane(), "store.yaml", store);
        add(lane(), "migration.yaml", migration(["--version"]));
        const output = await run(lane());
        expect(output).toMatch(/Job\/migration-\S+ has run/);
        const image = `helloapp:${lane().ids[version]}`;
        expect(await images("/apis/apps/v1", "statefulsets")).toEqual([image]);
        expect(await images("/apis/batch/v1", "jobs")).toContain(image);
        const pods = await list<Pod>(lane(), "/api/v1", "pods");
        const own = pods.find(({ metadata }) => metadata.name === "store-0")!;
        expect(own.spec.containers[0]!.image).toBe(image);
      }
    });

    test("a Job that fails stops the rollout, and its log is shown: nothing else is another", async () => {
      const before = await lane().objects();
      lane().version("a");
      add(lane(), "store.yaml", store);
      add(lane(), "migration.yaml", migration(["--no-such-migration"]));
      const output = await run(lane(), [], 1);
      expect(output).toMatch(/JobFailed, Job\/migration-\S+ failed/);
      // The end of what it said.
      expect(output).toContain("last lines of migration-");
      expect(output).toContain("2 wrong arguments or configuration");
      expect(output).toContain(`Rolled back: helloapp:${lane().ids.b} serves, as before`);
      const after = await lane().objects();
      const isJob = (path: string) => path.includes("/jobs/");
      const others = (all: object) => Object.entries(all).filter(([path]) => !isJob(path));
      expect(others(after)).toEqual(others(before));
      expect(await lane().served()).toBe(lane().ids.b);
    });
  },
  surroundings,
);

describeWith(
  "a pipeline that is killed",
  [],
  () => {
    const lane = laneFor("kills", 30968);
    const KILLS = 20;

    test(`at ${KILLS} moments of a deploy: the same command again ends well, and no request fails`, async () => {
      lane().version();
      await run(lane());
      lane().version();
      const start = performance.now();
      await run(lane());
      const whole = performance.now() - start;
      let killed = 0;
      for (let i = 0; i < KILLS; i += 1) {
        const version = lane().version();
        const first = await lane().run([], Object.values(lane().ids), { killAfter: (whole * i) / KILLS });
        if (first.code !== 0) killed += 1;
        expect(first.failed).toEqual([]);
        await run(lane());
        expect(await lane().served()).toBe(lane().ids[version]);
        const objects = Object.keys(await lane().objects());
        expect(objects.filter((path) => path.endsWith("/by-hand")).length).toBe(4);
      }
      expect(killed).toBeGreaterThan(KILLS / 2);
    });
  },
  surroundings,
);
