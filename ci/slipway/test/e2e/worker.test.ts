/** Services that are workers, from `init` to a smoke test in the sandbox and to a real k3s. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { PipelineError } from "../../core/errors.ts";
import { resolveService } from "../../core/resolve-service.ts";
import { writeDockerArchive } from "../../image/docker-archive-writer.ts";
import { generatedFiles } from "../../init/files.ts";
import { findFacts } from "../../init/project-facts.ts";
import { runSmokeTest } from "../../smoke-test/smoke-test.ts";
import { build } from "../built-service.ts";
import { describeWith, hasNamespaces, must, root, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

const directory = temporaryDirectory();
// The container's user needs access.
chmodSync(directory, 0o755);
const { signal } = new AbortController();
const timer = "setInterval(() => console.log('tick'), 500);\n";

function write(project: string, files: Iterable<[string, string]>): void {
  for (const [path, text] of files) {
    mkdirSync(dirname(join(project, path)), { recursive: true });
    writeFileSync(join(project, path), text);
  }
}

/** Creates a project with this source, as `init` completes it. */
async function createWorker(name: string, source: string, change = (_: Map<string, string>) => {}): Promise<string> {
  const project = join(directory, name);
  write(project, [
    ["package.json", JSON.stringify({ name, version: "1.0.0", private: true })],
    ["bun.lock", JSON.stringify({ lockfileVersion: 1, workspaces: { "": { name } }, packages: {} })],
    ["src/main.ts", source],
  ]);
  const facts = await findFacts(resolveService(project, { identity: name }), signal);
  expect(facts.isWorker).toBe(true);
  const files = generatedFiles({ ...facts, writtenIdentity: name });
  change(files);
  write(project, files);
  symlinkSync(join(root, "node_modules"), join(project, "node_modules"));
  return project;
}

describeWith(
  "smoke test of a worker",
  [],
  () => {
    /** @returns the detail of a success, or message and hint of a failure */
    async function smokeTest(name: string, source: string, change?: (files: Map<string, string>) => void) {
      const project = await createWorker(name, source, change);
      const service = resolveService(project, { identity: name });
      const { id, platform } = await build(project, { identity: name });
      const archive = join(project, "image.tar");
      await writeDockerArchive(archive, { service, dist: join(project, "dist"), names: [`${name}:${id}`], platform });
      try {
        return (await runSmokeTest(service, { archive, id })).detail;
      } catch (error) {
        if (!(error instanceof PipelineError)) throw error;
        return `${error.message}. ${error.hint ?? ""} ${error.output}`;
      }
    }

    test.each([
      ["timer", timer],
      ["handler", `${timer}process.on("SIGTERM", () => setTimeout(() => process.exit(0), 300));\n`],
      ["bun-cron", 'Bun.cron("* * * * *", () => console.log("mail"));\nsetInterval(() => {}, 1000);\n'],
      [
        "consumer",
        `import { connect } from "node:net";
const attempt = () => connect(5672, "127.0.0.1").on("error", ({ code }) => console.log(code, setTimeout(attempt, 200)));
attempt();
`,
      ],
      [
        "poll",
        "for (;;) await fetch('https://api.invalid/getUpdates').catch(({ code }) => Bun.sleep(300, console.log(code)));\n",
      ],
    ])("passes for %s, which stays up and ends at SIGTERM", async (name, source) => {
      expect(await smokeTest(name, source)).toMatch(/, worker, up for 3 s, end after SIGTERM(;|$)/);
    });

    test("names a port that a worker opens", async () => {
      // init does not see the server.
      const source = `${timer}Bun["ser" + "ve"]({ port: 9090, fetch: () => new Response("jobs 1") });\n`;
      expect(await smokeTest("metrics", source)).toMatch(/up for 3 s and listening on \S+:9090, end after SIGTERM/);
    });

    test.each([
      [
        "crash",
        "console.error('no QUEUE_URL'); process.exit(3);\n",
        "ended with exit code 3 within 3 s",
        "no QUEUE_URL",
      ],
      ["task", "console.log('done');\n", "ended with exit code 0 within 3 s", "use a Job or a CronJob"],
      [
        "failing",
        `${timer}process.on("SIGTERM", () => process.exit(7));\n`,
        "after SIGTERM the container ended with exit code 7",
        "tick",
      ],
    ])("fails for a %s", async (name, source, message, output) => {
      const failure = await smokeTest(name, source);
      expect(failure).toContain(message);
      expect(failure).toContain(output);
    });

    test("fails for a worker that ignores SIGTERM", async () => {
      const shorten = (files: Map<string, string>) => {
        const path = "k8s/base/deployment.yaml";
        files.set(path, files.get(path)!.replace("GracePeriodSeconds: 30", "GracePeriodSeconds: 2"));
      };
      const failure = await smokeTest("deaf", `${timer}process.on("SIGTERM", () => {});\n`, shorten);
      expect(failure).toContain("still runs 2 s after SIGTERM");
    });
  },
  { name: "namespaces", isMet: hasNamespaces },
);

const isRunning = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;

describeWith(
  "deploy of a worker",
  [],
  () => {
    const namespaces: string[] = [];
    afterAll(() => {
      for (const name of namespaces) sh(["k3s", "kubectl", "delete", "namespace", name, "--wait=false"]);
    });
    async function create(name: string, source: string, change?: (files: Map<string, string>) => void) {
      namespaces.push(name);
      const project = await createWorker(name, source, change);
      must(["git", "init", "--quiet"], { cwd: project });
      const run = (...args: string[]) => sh([process.execPath, "ci/pipeline.ts", ...args], { cwd: project });
      const edit = (text: string) => writeFileSync(join(project, "src/main.ts"), text);
      return { run, edit };
    }

    describe("a timer", () => {
      const name = "worker-e2e-timer";
      test("is deployed, rolled back and verified", async () => {
        const { run, edit } = await create(name, timer);
        const first = run();
        expect(first.code, first.output).toBe(0);
        expect(first.output).toContain(`runs as the worker Deployment/${name}`);
        expect(run("status").output).toContain(`Deployment/${name} is a worker: its pods run this version`);
        expect(run("verify").output).toContain(`Deployment/${name} is a worker and runs ${name}:`);

        edit("console.error('no QUEUE_URL'); process.exit(3);\n");
        const crash = run();
        expect(crash.code, crash.output).toBe(1);
        for (const part of ["Rolled back", "no QUEUE_URL", "with 3"]) expect(crash.output).toContain(part);

        edit("console.log('started'); await Bun.sleep(3000); console.log('queue is empty');\n");
        const end = run();
        expect(end.code, end.output).toBe(1);
        for (const part of ["Rolled back", "queue is empty", "with 0", "CronJob"]) expect(end.output).toContain(part);

        edit(timer.replace("tick", "tock"));
        const next = run();
        expect(next.code, next.output).toBe(0);
        const back = run("rollback");
        expect(back.code, back.output).toBe(0);
        expect(run("verify").code).toBe(1);
        expect(run("status").output).toContain("1 of 1 pods ready");
      });
    });

    test("a worker with a port for metrics and no Service is deployed", async () => {
      const source = `${timer}Bun["ser" + "ve"]({ port: 9090, fetch: () => new Response("jobs 1") });\n`;
      const { run } = await create("worker-e2e-metrics", source, (files) => {
        const path = "k8s/base/deployment.yaml";
        const ports = "          ports: [{ name: metrics, containerPort: 9090 }]\n          readinessProbe:\n";
        const probe = "            tcpSocket: { port: metrics }\n            periodSeconds: 1\n";
        files.set(path, files.get(path)!.replace("          resources:\n", `${ports}${probe}          resources:\n`));
      });
      const { code, output } = run();
      expect(code, output).toBe(0);
      expect(output).toContain("runs as the worker Deployment/worker-e2e-metrics");
    });
  },
  { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isRunning },
);
