/** One-off pods and the other commands of operation, on a real k3s. They run if E2E_CLUSTER=k3s is set. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Copy } from "./project-versions.ts";
import { Sshd } from "./sshd.ts";
import { describeWith, eventually, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

const place = { namespace: "ops-e2e", port: 31251 };
const isRunning = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const kubectl = (...args: string[]) => sh(["k3s", "kubectl", "-n", place.namespace, ...args]);
const KILLS = Number(process.env.E2E_KILLS ?? 20);

describeWith(
  "operations",
  ["ssh", "ssh-keygen", "ssh-keyscan", "script"],
  () => {
    const directory = temporaryDirectory();
    let copy: Copy;
    const remove = () => void sh(["k3s", "kubectl", "delete", "namespace", place.namespace, "--ignore-not-found"]);

    interface StartOptions {
      env?: Record<string, string>;
    }
    function start(first: StartOptions | string, ...rest: string[]) {
      const args = typeof first === "string" ? [first, ...rest] : rest;
      const env = typeof first === "string" ? {} : first.env;
      return Bun.spawn([process.execPath, "ci/pipeline.ts", ...args], {
        cwd: copy.directory,
        env: { ...process.env, ...env, GITHUB_STEP_SUMMARY: undefined, DAGGER_SESSION_PORT: undefined },
        stdio: ["ignore", "pipe", "pipe"],
      });
    }
    /** Starts a long program, and waits until it runs. @returns its process and its pod */
    async function startLong() {
      const child = start("run", "scripts/long.ts");
      for await (const chunk of child.stdout) if (new TextDecoder().decode(chunk).includes("began")) break;
      return { child, pod: /pod\/\S+/.exec(oneOffs())![0] };
    }
    async function run(...args: Parameters<typeof start>) {
      const child = start(...args);
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      return { code: await child.exited, stdout, stderr };
    }
    const oneOffs = () =>
      kubectl("get", "pods,jobs", "-l", "app.kubernetes.io/component=run", "-o", "name").stdout.trim();
    const isClean = async () => oneOffs() === "" || undefined;

    beforeAll(async () => {
      remove();
      copy = new Copy(directory, "copy", place);
      for (const script of ["check", "test", "test:unit"])
        copy.rewrite("package.json", `"${script}":`, `"no-${script}":`);
      copy.rewrite("ci/pipeline.ts", "attach: false,", 'attach: false,\n  entries: { sum: "scripts/sum.ts" },');
      const secret = { name: "API_KEY", valueFrom: { secretKeyRef: { name: "shop", key: "key" } } };
      copy.patch([{ op: "add", path: "/spec/template/spec/containers/0/env/-", value: secret }]);
      const scripts = join(copy.directory, "scripts");
      mkdirSync(scripts);
      const files = {
        "sum.ts": "console.log(process.argv.slice(2), process.env.BUN_BE_BUN);\nprocess.exit(5);\n",
        "one.ts": "export const one: number = 1;\n",
        "two.ts": 'import { one } from "./one.ts";\nexport const two = one + 1;\n',
        "report.ts": `import { parse } from "yaml";
import { one } from "./one.ts";
import { two } from "./two.ts";
console.log(one, two, parse("a: 3").a, process.env.API_KEY, process.argv.slice(2));
console.error("a warning");
process.exit(7);
`,
        "big.ts": 'for (let i = 0; i < 50_000; i += 1) process.stdout.write(`${"x".repeat(99)}\\n`);\n',
        "long.ts": 'console.log("began");\nsetInterval(() => console.log(Date.now()), 200);\n',
      };
      for (const [name, text] of Object.entries(files)) writeFileSync(join(scripts, name), text);
      kubectl("create", "namespace", place.namespace);
      kubectl("create", "secret", "generic", "shop", "--from-literal=key=s3cret");
      const { code, stdout, stderr } = await run({});
      expect(code, stdout + stderr).toBe(0);
    });
    afterAll(remove);

    test("a script with modules and a package reads a secret, and passes on output and exit code", async () => {
      const found = await run("run", "scripts/report.ts", "x", "--", "--flag");
      expect(found.stdout).toBe('1 2 3 s3cret [ "x", "--flag" ]\n');
      expect(found.stderr).toContain("a warning\n");
      expect(found.code).toBe(7);
      await eventually(isClean, 30);
    });

    test("an entry and a large output are complete", async () => {
      expect(await run("run", "sum", "1", "2")).toMatchObject({ code: 5, stdout: '[ "1", "2" ] undefined\n' });
      const { code, stdout } = await run("run", "scripts/big.ts");
      expect({ code, length: stdout.length }).toEqual({ code: 0, length: 5_000_000 });
    });

    test("neither the Service nor a workload takes the pod", async () => {
      const { child, pod } = await startLong();
      const ip = kubectl("get", pod, "-o", "jsonpath={.status.podIP}").output;
      expect(
        kubectl("get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].addresses[*]}").output,
      ).not.toContain(ip);
      expect(kubectl("get", "deployment", "helloapp", "-o", "jsonpath={.status.replicas}").output).toBe("2");
      child.kill("SIGINT");
      expect(await child.exited).toBe(130);
      await eventually(isClean, 30);
    });

    test("a program ends at its deadline, and a deleted pod is a partial failure", async () => {
      const late = await run("run", "scripts/long.ts", "--deadline", "8s");
      expect(late.code, late.stderr).toBe(4);
      expect(late.stderr).toContain("--deadline");
      const { child, pod } = await startLong();
      kubectl("delete", pod, "--grace-period=1");
      expect(await child.exited).toBe(4);
      await eventually(isClean, 30);
    });

    test("a client that is killed at any moment leaves no pod after a minute", async () => {
      let left = KILLS;
      const kill = async () => {
        for (; left > 0; left -= 1) {
          const child = start("run", "scripts/long.ts");
          await Bun.sleep(300 + Math.random() * 7000);
          child.kill("SIGKILL");
          await child.exited;
        }
      };
      await Promise.all(Array.from({ length: 3 }, kill));
      await Bun.sleep(60_000);
      expect(oneOffs()).toBe("");
    });

    test("over SSH with two sessions: a script, a console, a port, and a client that is killed", async () => {
      const bin = join(directory, "remote-bin");
      mkdirSync(bin);
      symlinkSync(Bun.which("k3s")!, join(bin, "k3s"));
      const sshd = await Sshd.start(join(directory, "sshd"), bin);
      const env = { PATH: `${sshd.directory}/bin:${process.env.PATH}` };
      try {
        await sshd.restart("host", bin, ["MaxSessions 2"]);
        const host = ["--host", sshd.host];
        const found = await run({ env }, "run", ...host, "scripts/report.ts", "x");
        expect(found.stdout).toBe('1 2 3 s3cret [ "x" ]\n');
        expect(found.code, found.stderr).toBe(7);

        const command = [process.execPath, "ci/pipeline.ts", "console", ...host].join(" ");
        const console = Bun.spawn(["script", "-qec", command, "/dev/null"], {
          ...{ cwd: copy.directory, env: { ...process.env, ...env } },
          ...{ stdin: "pipe", stdout: "pipe", stderr: "ignore" },
        });
        let screen = "";
        for await (const chunk of console.stdout) {
          const before = screen;
          screen += new TextDecoder().decode(chunk);
          const isNew = (text: string) => screen.includes(text) && !before.includes(text);
          if (isNew("Welcome to Bun")) console.stdin.write("'4' + '2'\r");
          if (isNew("42")) console.stdin.write(".exit\r");
          await console.stdin.flush();
        }
        expect(screen).toContain("42");
        expect(await console.exited).toBe(0);

        const proxy = start({ env }, "proxy", ...host, "31252:80");
        for await (const chunk of proxy.stdout) if (new TextDecoder().decode(chunk).includes("leads to")) break;
        expect((await fetch("http://127.0.0.1:31252/version")).status).toBe(200);
        proxy.kill("SIGINT");
        expect(await proxy.exited).toBe(0);

        const killed = start({ env }, "run", ...host, "scripts/long.ts");
        for await (const chunk of killed.stdout) if (new TextDecoder().decode(chunk).includes("began")) break;
        killed.kill("SIGKILL");
        await eventually(isClean, 60);
      } finally {
        await sshd.stop();
      }
    });

    test("a Secret that is gone is named, and nothing stays", async () => {
      kubectl("delete", "secret", "shop");
      const { code, stderr } = await run("run", "scripts/report.ts");
      expect({ code, isNamed: stderr.includes('secret "shop" not found') }).toEqual({ code: 3, isNamed: true });
      await eventually(isClean, 30);
      kubectl("create", "secret", "generic", "shop", "--from-literal=key=s3cret");
    });

    test("destroy and deploy again: a claim and what others made survive", async () => {
      const claim = {
        apiVersion: "v1",
        kind: "PersistentVolumeClaim",
        metadata: { name: "data", labels: { "app.kubernetes.io/name": "helloapp" } },
        spec: { accessModes: ["ReadWriteOnce"], storageClassName: "", resources: { requests: { storage: "1Mi" } } },
      };
      const file = join(directory, "claim.json");
      writeFileSync(file, JSON.stringify(claim));
      kubectl("apply", "-f", file);
      const uids = () => kubectl("get", "pvc/data", "secret/shop", "-o", "jsonpath={.items[*].metadata.uid}").stdout;
      const before = uids();
      for (let round = 0; round < 2; round += 1) {
        expect((await run("destroy")).code).toBe(2);
        const interrupted = start("destroy", "--yes", "helloapp");
        await Bun.sleep(3000 + 2000 * round);
        interrupted.kill("SIGINT");
        await interrupted.exited;
        const { code, stdout, stderr } = await run("destroy", "--yes", "helloapp");
        expect(code, stdout + stderr).toBe(0);
        const left = kubectl("get", "all,secrets,configmaps,pvc,leases", "-o", "name").stdout.trim().split("\n");
        expect(left.toSorted()).toEqual(["configmap/kube-root-ca.crt", "persistentvolumeclaim/data", "secret/shop"]);
        const again = await run({});
        expect(again.code, again.stderr).toBe(0);
        expect(uids()).toBe(before);
      }
    });
  },
  { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isRunning },
);
