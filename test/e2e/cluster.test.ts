/**
 * Real deploys to this machine's k3s, in a namespace and on a port of their own. They run when E2E_CLUSTER=k3s allows
 * it: a test should not touch a cluster because it found one.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  copyProject,
  daggerEngine,
  describeWith,
  eventually,
  must,
  sh,
  temporaryDirectory,
} from "./setup.ts";

setDefaultTimeout(300_000);

const namespace = "helloapp-e2e";
const url = "http://127.0.0.1:30980/version";
const allowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const dagger = daggerEngine();

describeWith(
  "deploy to k3s",
  [],
  () => {
    const project = copyProject(join(temporaryDirectory(), "project"));
    const rewrite = (path: string, change: (text: string) => string) => {
      const file = join(project, path);
      const before = readFileSync(file, "utf8");
      const after = change(before);
      expect(after).not.toBe(before);
      writeFileSync(file, after);
    };
    /** Another version of the service: `statement` before its main part. */
    const edit = (statement: string) =>
      rewrite("src/main.ts", (text) =>
        text.replace(
          /(?:\/\/ edit\n.*\n)?const \[argument, \.\.\.more\]/,
          () => `// edit\n${statement}\nconst [argument, ...more]`,
        ),
      );
    const kubectl = (...args: string[]) => must(["k3s", "kubectl", "-n", namespace, ...args]);
    const generation = () =>
      kubectl("get", "deployment", "helloapp", "-o", "jsonpath={.metadata.generation}");
    const served = async () => ((await (await fetch(url, { keepalive: false })).json()) as { id: string }).id;

    /** Pods of the version before serve their clients to the end; this waits for that end. */
    const alone = () =>
      eventually(
        async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length === 2 || undefined,
      );

    /** Runs `work` while asking for the version all the time; gives the replies and how often each came. */
    async function whileAsked<T>(
      work: () => Promise<T>,
    ): Promise<{ value: T; replies: Record<string, number> }> {
      const replies: Record<string, number> = {};
      let done = false;
      const client = async (keepalive: boolean) => {
        while (!done) {
          const init = { keepalive, ...(!keepalive && { headers: { Connection: "close" } }) };
          const answer = await fetch(url, init)
            .then((reply) => reply.json() as Promise<{ id: string }>)
            .then(
              ({ id }) => id,
              (error: Error) => `failed: ${error.message}`,
            );
          replies[answer] = (replies[answer] ?? 0) + 1;
        }
      };
      const clients = [client(true), client(true), client(false)];
      const value = await work().finally(() => (done = true));
      await Promise.all(clients);
      return { value, replies };
    }

    async function pipeline(engine: string, ...args: string[]) {
      const start =
        engine === "dagger" ? ["dagger", "--progress=plain", "run", process.execPath] : [process.execPath];
      const child = Bun.spawn([...start, "ci/pipeline.ts", ...args], {
        cwd: project,
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
      });
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      return { code: await child.exited, output: stdout + stderr };
    }

    beforeAll(() => {
      sh(["k3s", "kubectl", "delete", "namespace", namespace, "--ignore-not-found"]);
      rewrite("ci/app.ts", (text) => text.replace('namespace: "helloapp"', `namespace: "${namespace}"`));
      rewrite("k8s/base/kustomization.yaml", (text) =>
        text.replace("namespace: helloapp", `namespace: ${namespace}`),
      );
      rewrite("k8s/base/namespace.yaml", (text) => text.replace("name: helloapp", `name: ${namespace}`));
      rewrite("k8s/overlays/k3s/kustomization.yaml", (text) => text.replace("30080", "30980"));
    });
    afterAll(() => void sh(["k3s", "kubectl", "delete", "namespace", namespace, "--ignore-not-found"]));

    describe.each(["host", ...(dagger.answers ? ["dagger"] : [])])("%s engine", (engine) => {
      let id: string;

      test("a version is built, imported, rolled out, verified", async () => {
        edit(`if (process.env.ENGINE === "${engine}") console.log("here");`);
        const { code, output } = await pipeline(engine);
        expect(code, output).toBe(0);
        id = await served();
        expect(output).toContain(`helloapp:${id} serves at`);
      });

      test("nothing changed: nothing is deployed, and it says so", async () => {
        const before = generation();
        const { code, output } = await pipeline(engine);
        expect(code, output).toBe(0);
        expect(output).toContain(`nothing to deploy: helloapp:${id} runs already`);
        expect(output).not.toContain("import ");
        expect(generation()).toBe(before);
      });

      test("an edit is served, and no request fails meanwhile", async () => {
        edit(`if (process.env.ENGINE === "${engine}") console.log("there");`);
        await alone();
        const { value, replies } = await whileAsked(() => pipeline(engine));
        expect(value.code, value.output).toBe(0);
        const after = await served();
        expect(after).not.toBe(id);
        expect(Object.keys(replies).sort()).toEqual([id, after].sort());
        id = after;
      });

      test("a version that exits at start is rolled back, its log on the screen, the old one served throughout", async () => {
        edit(`if (process.env.NOTHING === undefined) throw new Error("cannot start like this (${engine})");`);
        await alone();
        const { value, replies } = await whileAsked(() => pipeline(engine));
        expect(value.code, value.output).toBe(1);
        expect(value.output).toContain(`cannot start like this (${engine})`);
        expect(value.output).toContain("CrashLoopBackOff");
        expect(value.output).toContain(`Rolled back: helloapp:${id} serves, as before`);
        expect(Object.keys(replies)).toEqual([id]);
      });
    });

    test("an overlay that the server refuses: exit 1, nothing changed", async () => {
      const before = generation();
      edit("if (process.env.NOTHING) throw new Error();");
      rewrite("k8s/base/deployment.yaml", (text) => text.replace("replicas: 2", "replicas: -2"));
      const { code, output } = await pipeline("host");
      rewrite("k8s/base/deployment.yaml", (text) => text.replace("replicas: -2", "replicas: 2"));
      expect(code, output).toBe(1);
      expect(output).toContain("must be greater than or equal to 0");
      expect(generation()).toBe(before);
    });

    test("interrupted in the middle: exit 130, says what goes on, and the next run picks it up", async () => {
      const child = Bun.spawn([process.execPath, "ci/pipeline.ts"], {
        cwd: project,
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
      });
      let output = "";
      for await (const chunk of child.stdout) {
        output += new TextDecoder().decode(chunk);
        if (output.includes("new pods ready")) break;
      }
      child.kill("SIGINT");
      expect(await child.exited).toBe(130);
      expect(await new Response(child.stderr).text()).toContain("goes on in the cluster");
      const { code, output: next } = await pipeline("host");
      expect(code, next).toBe(0);
      expect(next).toContain(await served());
    });

    test("verify and rollback", async () => {
      const before = await served();
      expect((await pipeline("host", "verify")).code).toBe(0);
      const { code, output } = await pipeline("host", "rollback");
      expect(code, output).toBe(0);
      const after = await served();
      expect(after).not.toBe(before);
      expect(output).toContain(`helloapp:${after} serves again`);
      expect((await pipeline("host", "verify")).code).toBe(1);
    });

    test("a kubeconfig that is not there: exit 3", async () => {
      const { code, output } = await pipeline("host", "--kubeconfig", "/nonexistent");
      expect(code).toBe(3);
      expect(output).toContain("/nonexistent");
    });

    test("the namespace enforces pod security, the pods meet it", async () => {
      const pods = kubectl("get", "pods", "-o", "jsonpath={..phase}");
      expect(new Set(pods.split(" "))).toEqual(new Set(["Running"]));
      const labels = kubectl("get", "namespace", namespace, "-o", "jsonpath={.metadata.labels}");
      expect(JSON.parse(labels)["pod-security.kubernetes.io/enforce"]).toBe("restricted");
      await eventually(
        async () =>
          kubectl("get", "pdb", "helloapp", "-o", "jsonpath={.status.currentHealthy}") === "2" || undefined,
      );
    });
  },
  { name: "E2E_CLUSTER=k3s, and a k3s that answers", answers: allowed },
);
