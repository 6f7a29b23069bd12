/**
 * Deploys to this machine's k3s, in separate namespaces and on separate ports. They run only with E2E_CLUSTER=k3s,
 * because a test should not change a cluster without permission.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Copy } from "./project-versions.ts";
import {
  daggerEngine,
  describeWith,
  eventually,
  must,
  root,
  sh,
  startRegistry,
  stopRegistries,
  temporaryDirectory,
} from "./setup.ts";

setDefaultTimeout(300_000);

const place = { namespace: "helloapp-e2e", port: 30980 };
const url = `http://127.0.0.1:${place.port}/version`;
const isAllowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const k3s = { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isAllowed };
const dagger = daggerEngine();

const remove = (namespace: string) =>
  void sh(["k3s", "kubectl", "delete", "namespace", namespace, "--ignore-not-found"]);

/** Starts the pipeline in a copy of the project. */
function start(directory: string, args: string[], engine = "host") {
  const runner = engine === "dagger" ? ["dagger", "--progress=plain", "run", process.execPath] : [process.execPath];
  return Bun.spawn([...runner, "ci/pipeline.ts", ...args], {
    cwd: directory,
    env: { ...process.env, GITHUB_STEP_SUMMARY: undefined },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Runs the pipeline in a copy of the project, and waits for its end. */
async function pipeline(directory: string, args: string[] = [], engine = "host") {
  const child = start(directory, args, engine);
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, output: stdout + stderr };
}

/** Reads a stream until it holds `text`. */
async function until(stream: ReadableStream<Uint8Array>, text: string): Promise<string> {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let seen = "";
  while (!seen.includes(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`ended without "${text}":\n${seen}`);
    seen += decoder.decode(value, { stream: true });
  }
  reader.releaseLock();
  return seen;
}

async function servedId(): Promise<string> {
  const init = { keepalive: false, headers: { Connection: "close" } };
  return ((await (await fetch(url, init)).json()) as { id: string }).id;
}

/** Runs `work` while three clients request the version. @returns how often each response came */
async function withClients<T>(work: () => Promise<T>): Promise<{ value: T; replies: Record<string, number> }> {
  const replies: Record<string, number> = {};
  let done = false;
  const client = async (keepalive: boolean) => {
    while (!done) {
      const init = { keepalive, ...(!keepalive && { headers: { Connection: "close" } }) };
      const response = await fetch(url, init)
        .then((reply) => reply.json() as Promise<{ id: string }>)
        .then(
          ({ id }) => id,
          (error: Error) => `failed: ${error.message}`,
        );
      replies[response] = (replies[response] ?? 0) + 1;
    }
  };
  const clients = [client(true), client(true), client(false)];
  const value = await work().finally(() => (done = true));
  await Promise.all(clients);
  return { value, replies };
}

describeWith(
  "deploy to k3s",
  [],
  () => {
    const directory = temporaryDirectory();
    const project = new Copy(directory, "project", place);
    const { directory: cwd } = project;
    const kubectl = (...args: string[]) => must(["k3s", "kubectl", "-n", place.namespace, ...args]);
    const generation = () => kubectl("get", "deployment", "helloapp", "-o", "jsonpath={.metadata.generation}");
    const images = () => must(["k3s", "ctr", "-n", "k8s.io", "images", "ls", "-q"]).split("\n");

    beforeAll(() => remove(place.namespace));
    afterAll(() => remove(place.namespace));

    describe.each(["host", ...(dagger.isMet ? ["dagger"] : [])])("%s engine", (engine) => {
      let id: string;

      test("builds, imports, rolls out and verifies a version", async () => {
        project.edit();
        const { code, output } = await pipeline(cwd, [], engine);
        expect(code, output).toBe(0);
        id = await servedId();
        expect(output).toContain(`helloapp:${id} serves at`);
      });

      test("deploys nothing without changes, and reports it", async () => {
        const before = generation();
        const { code, output } = await pipeline(cwd, [], engine);
        expect(code, output).toBe(0);
        expect(output).toContain(`nothing to deploy: helloapp:${id} runs already`);
        expect(output).not.toContain("apply ");
        expect(generation()).toBe(before);
      });

      test("deploys an edit without a failed request, and waits for the old pods to terminate", async () => {
        project.edit();
        const { value, replies } = await withClients(() => pipeline(cwd, [], engine));
        expect(value.code, value.output).toBe(0);
        expect(value.output).toMatch(/\b0 of \d+ requests failed during the rollout/);
        const after = await servedId();
        expect(after).not.toBe(id);
        expect(Object.keys(replies).sort()).toEqual([id, after].sort());
        expect(kubectl("get", "pods", "-o", "name").trim().split("\n")).toHaveLength(2);
        id = after;
      });

      test("rolls back a version that exits at start, shows its log, and serves the old version throughout", async () => {
        project.state(`if (process.env.NOTHING === undefined) throw new Error("cannot start like this (${engine})");`);
        const { value, replies } = await withClients(() => pipeline(cwd, [], engine));
        project.restore();
        expect(value.code, value.output).toBe(1);
        expect(value.output).toContain(`cannot start like this (${engine})`);
        expect(value.output).toContain("CrashLoopBackOff");
        expect(value.output).toContain(`Rolled back: helloapp:${id} serves, as before`);
        expect(Object.keys(replies)).toEqual([id]);
      });
    });

    test("plan lists the changes with their path, and changes nothing", async () => {
      const before = generation();
      project.edit();
      project.rewrite("k8s/base/deployment.yaml", "memory: 64Mi", "memory: 65Mi");
      const { code, output } = await pipeline(cwd, ["plan"]);
      project.restore();
      expect(code, output).toBe(0);
      expect(output).toContain('spec.template.spec.containers.0.resources.requests.memory: "64Mi" -> "65Mi"');
      expect(output).toContain(`helloapp:${project.id()}`);
      expect(generation()).toBe(before);
    });

    test("an overlay that the server rejects: exit 1, nothing changed", async () => {
      const before = generation();
      project.rewrite("k8s/base/deployment.yaml", "replicas: 2", "replicas: -2");
      const { code, output } = await pipeline(cwd);
      project.restore();
      expect(code, output).toBe(1);
      expect(output).toContain("must be greater than or equal to 0");
      expect(generation()).toBe(before);
    });

    test("an interruption: exit 130, reports the state, releases the lock, and the next run continues", async () => {
      project.edit();
      const child = start(cwd, []);
      await until(child.stdout, "new pods ready");
      child.kill("SIGINT");
      expect(await child.exited).toBe(130);
      expect(await new Response(child.stderr).text()).toContain("continues in the cluster");
      expect(kubectl("get", "leases", "-o", "name").trim()).toBe("");
      const { code, output: next } = await pipeline(cwd);
      expect(code, next).toBe(0);
      expect(await servedId()).toBe(project.id());
    });

    test("a kill: the next run takes over the lock, and no process of the killed run remains", async () => {
      // Proxies of other pipelines are ignored.
      const proxies = () => sh(["pgrep", "-f", "kubectl .*proxy --unix-socket"]).stdout.split("\n");
      const before = proxies();
      project.edit();
      const child = start(cwd, []);
      await until(child.stdout, "new pods ready");
      child.kill("SIGKILL");
      await child.exited;
      expect(kubectl("get", "leases", "-o", "name").trim()).not.toBe("");
      const { code, output } = await pipeline(cwd);
      expect(code, output).toBe(0);
      expect(output).toContain("has ended without releasing it");
      expect(await servedId()).toBe(project.id());
      expect(kubectl("get", "leases", "-o", "name").trim()).toBe("");
      await eventually(async () => proxies().every((proxy) => before.includes(proxy)) || undefined);
    });

    test("a concurrent deploy is refused and names the first, and status shows the first", async () => {
      project.edit();
      const first = start(cwd, []);
      await until(first.stdout, "apply ");
      const rival = await pipeline(cwd, ["rollback"]);
      const during = await pipeline(cwd, ["status"]);
      expect(await first.exited).toBe(0);
      expect(rival.code, rival.output).toBe(3);
      expect(rival.output).toContain(`(deploy of helloapp:${project.id()}) holds the lock`);
      expect(during.output).toContain(`a deploy is under way: `);
      expect(await servedId()).toBe(project.id());
    });

    test("status, verify, rollback to the previous version, and rollback to an id", async () => {
      const before = await servedId();
      expect((await pipeline(cwd, ["verify"])).code).toBe(0);
      const shown = await pipeline(cwd, ["status"]);
      expect(shown.output).toContain(`helloapp:${before} is rolled out, verified 20`);
      expect(shown.output).toContain("2 of 2 pods ready, 0 restarts");
      const stored = [...shown.output.matchAll(/^ +([0-9a-f]{12}) {2}20/gm)].map(([, id]) => id!);
      expect(stored[0]).toBe(before);
      expect(stored.length).toBeGreaterThan(2);
      // The node has the images of the stored versions.
      for (const id of stored) expect(images()).toContain(`docker.io/library/helloapp:${id}`);

      const { code, output } = await pipeline(cwd, ["rollback"]);
      expect(code, output).toBe(0);
      expect(await servedId()).toBe(stored[1]!);
      expect(output).toContain(`helloapp:${stored[1]} serves again`);
      expect((await pipeline(cwd, ["verify"])).code).toBe(1);
      const byId = await pipeline(cwd, ["rollback", stored[2]!]);
      expect(byId.code, byId.output).toBe(0);
      expect(await servedId()).toBe(stored[2]!);
      expect((await pipeline(cwd, ["rollback", "0123456789ab"])).code).toBe(3);
    });

    test("with room for one new pod only, pods are replaced one after the other", async () => {
      project.edit();
      kubectl("create", "quota", "pods", "--hard=pods=3");
      await eventually(
        async () => kubectl("get", "resourcequota", "pods", "-o", "jsonpath={.status.used.pods}") === "2" || undefined,
      );
      const { code, output } = await pipeline(cwd);
      kubectl("delete", "resourcequota", "pods");
      expect(code, output).toBe(0);
      expect(await servedId()).toBe(project.id());
    });

    test("watch deploys a change, but not if a test fails", async () => {
      const child = start(cwd, ["watch"]);
      await until(child.stdout, " after ");
      project.edit();
      const line = await until(child.stdout, " serves at ");
      expect(line).toMatch(/^\d\d:\d\d:\d\d after \d+\.\d s: helloapp:/m);
      const good = await servedId();
      expect(good).toBe(project.id());
      const red = join(cwd, "test/src/red.test.ts");
      const statements = ['import { expect, test } from "bun:test";', 'test("red", () => expect(1).toBe(2));'];
      writeFileSync(red, `${statements.join("\n\n")}\n`);
      project.edit();
      expect(await until(child.stdout, "failed")).toContain("bun run test:unit failed");
      expect(await servedId()).toBe(good);
      await Bun.file(red).delete();
      await until(child.stdout, " serves at ");
      expect(await servedId()).toBe(project.id());
      child.kill("SIGINT");
      expect(await child.exited).toBe(130);
    });

    test("a missing kubeconfig or context: exit 3", async () => {
      const missing = await pipeline(cwd, ["--kubeconfig", "/nonexistent"]);
      expect(missing.code).toBe(3);
      expect(missing.output).toContain("/nonexistent");
      const wrong = await pipeline(cwd, ["--context", "nowhere"]);
      expect(wrong.code).toBe(3);
      expect(wrong.output).toContain('context "nowhere" does not exist');
    });

    test("missing rights or unknown credentials: exit 3, nothing changed", async () => {
      const before = generation();
      kubectl("create", "serviceaccount", "limited");
      kubectl(
        "create",
        "clusterrolebinding",
        "helloapp-e2e-limited",
        "--clusterrole=view",
        `--serviceaccount=${place.namespace}:limited`,
      );
      const config = JSON.parse(must(["k3s", "kubectl", "config", "view", "--raw", "--flatten", "-o", "json"]));
      const kubeconfig = join(directory, "limited.yaml");
      const as = (token: string) => {
        config.users[0].user = { token };
        writeFileSync(kubeconfig, JSON.stringify(config));
        return pipeline(cwd, ["--kubeconfig", kubeconfig]);
      };
      const limited = await as(kubectl("create", "token", "limited").trim());
      const unknown = await as("nonsense");
      kubectl("delete", "clusterrolebinding", "helloapp-e2e-limited");
      expect(limited.code, limited.output).toBe(3);
      expect(limited.output).toMatch(/^error: .*cannot (list|patch|get).*auth can-i/m);
      expect(unknown.code, unknown.output).toBe(3);
      expect(unknown.output).toMatch(/^error: .*Unauthorized.*expired/m);
      expect(generation()).toBe(before);
    });

    test("the namespace enforces pod security, and the pods comply", async () => {
      const pods = kubectl("get", "pods", "-o", "jsonpath={..phase}");
      expect(new Set(pods.split(" "))).toEqual(new Set(["Running"]));
      const labels = kubectl("get", "namespace", place.namespace, "-o", "jsonpath={.metadata.labels}");
      expect(JSON.parse(labels)["pod-security.kubernetes.io/enforce"]).toBe("restricted");
      await eventually(
        async () => kubectl("get", "pdb", "helloapp", "-o", "jsonpath={.status.currentHealthy}") === "2" || undefined,
      );
    });
  },
  k3s,
);

interface Rule {
  apiGroups: string[];
  resources: string[];
  resourceNames?: string[];
  verbs: string[];
}

describeWith(
  "deploy through a registry",
  ["docker-registry"],
  () => {
    const namespace = "helloapp-e2e-registry";
    const directory = temporaryDirectory();
    const project = new Copy(directory, "project", { namespace, port: 30983 });
    let args: string[];
    const image = () => {
      const jsonpath = "jsonpath={.spec.template.spec.containers[0].image}";
      return must(["k3s", "kubectl", "-n", namespace, "get", "deployment", "helloapp", "-o", jsonpath]);
    };

    beforeAll(async () => {
      remove(namespace);
      const host = await startRegistry(join(directory, "registry"));
      const kubeconfig = join(directory, "kubeconfig");
      writeFileSync(kubeconfig, must(["k3s", "kubectl", "config", "view", "--raw", "--flatten"]));
      const context = must(["k3s", "kubectl", "config", "current-context"]).trim();
      args = ["--target", "registry", "--registry", `${host}/team/helloapp`, "--context", context];
      args.push("--kubeconfig", kubeconfig);
    });
    afterAll(async () => {
      await stopRegistries();
      remove(namespace);
    });

    test("pushes a version, deploys it by digest, and verifies it through the API server", async () => {
      const { code, output } = await pipeline(project.directory, args);
      expect(code, output).toBe(0);
      expect(image()).toMatch(/^127\.0\.0\.1:\d+\/team\/helloapp@sha256:[0-9a-f]{64}$/);
      expect(output).toContain(`helloapp:${project.id()} serves at`);
    });

    test("pushes and applies nothing without changes", async () => {
      const { code, output } = await pipeline(project.directory, args);
      expect(code, output).toBe(0);
      expect(output).toContain("nothing to deploy");
    });

    test("rolls back a failing version, deploys the next good one, and `rollback` restores the first", async () => {
      const first = image();
      project.state('if (process.env.NOTHING === undefined) throw new Error("cannot start like this");');
      const bad = await pipeline(project.directory, args);
      expect(bad.code, bad.output).toBe(1);
      expect(bad.output).toContain("cannot start like this");
      expect(image()).toBe(first);
      project.edit();
      const good = await pipeline(project.directory, args);
      expect(good.code, good.output).toBe(0);
      expect(good.output).toMatch(/\b0 of \d+ requests failed during the rollout/);
      expect(image()).not.toBe(first);
      const back = await pipeline(project.directory, ["rollback", ...args]);
      expect(back.code, back.output).toBe(0);
      expect(image()).toBe(first);
    });

    test("needs no other permissions than k8s/rbac/deployer.yaml, which an administrator applies", async () => {
      // SECURITY.md: the namespace first, then the file, then a token for the kubeconfig.
      const objects = readFileSync(join(root, "k8s/rbac/deployer.yaml"), "utf8");
      const file = join(directory, "deployer.yaml");
      writeFileSync(file, objects.replaceAll("namespace: helloapp", `namespace: ${namespace}`));
      must(["k3s", "kubectl", "apply", "-f", file]);
      const token = must(["k3s", "kubectl", "-n", namespace, "create", "token", "helloapp-deployer"]).trim();
      const config = JSON.parse(must(["k3s", "kubectl", "config", "view", "--raw", "--flatten", "-o", "json"]));
      config.users[0].user = { token };
      const kubeconfig = join(directory, "deployer.json");
      writeFileSync(kubeconfig, JSON.stringify(config));
      const asDeployer = [...args.slice(0, -1), kubeconfig];
      project.edit();
      for (const command of [[], ["status"], ["rollback"]]) {
        const { code, output } = await pipeline(project.directory, [...command, ...asDeployer]);
        expect(code, output).toBe(0);
      }
      project.state('if (process.env.NOTHING === undefined) throw new Error("cannot start like this");');
      const bad = await pipeline(project.directory, asDeployer);
      expect(bad.code, bad.output).toBe(1);
      expect(bad.output).toContain("Rolled back");
      expect(bad.output).toContain("cannot start like this");
    });

    test("names each permission that is taken away before it writes anything", async () => {
      const file = join(directory, "deployer.yaml");
      const asDeployer = [...args.slice(0, -1), join(directory, "deployer.json")];
      const objects = Bun.YAML.parse(readFileSync(file, "utf8")) as { kind: string; rules: Rule[] }[];
      const role = objects.find(({ kind }) => kind === "Role")!;
      const apply = (rules: Rule[]) => {
        writeFileSync(join(directory, "role.json"), JSON.stringify({ ...role, rules }));
        must(["k3s", "kubectl", "apply", "-f", join(directory, "role.json")]);
      };
      project.edit();
      const before = image();
      const unnamed: string[] = [];
      for (const [i, rule] of role.rules.entries()) {
        for (const resource of rule.resources) {
          for (const verb of rule.verbs) {
            const others = rule.resources.filter((other) => other !== resource);
            const rest = [
              { ...rule, resources: others },
              { ...rule, resources: [resource], verbs: rule.verbs.filter((other) => other !== verb) },
            ].filter(({ resources, verbs }) => resources.length > 0 && verbs.length > 0);
            apply(role.rules.toSpliced(i, 1, ...rest));
            const { code, output } = await pipeline(project.directory, ["plan", ...asDeployer]);
            const isNamed = code === 3 && output.includes(resource) && new RegExp(`\\b${verb}\\b`).test(output);
            if (!isNamed) unnamed.push(`${verb} ${resource}: exit ${code}`);
          }
        }
      }
      apply(role.rules);
      expect(unnamed).toEqual([]);
      expect(image()).toBe(before);
      expect((await pipeline(project.directory, ["plan", ...asDeployer])).code).toBe(0);
    });
  },
  k3s,
  { name: "kubectl", isMet: Bun.which("kubectl") !== null },
);
