/**
 * Secrets on this machine's k3s: set, changed and rotated under load, undone, unset, and rolled back over. Then a search for the
 * values in all output, command lines, objects, stored versions and files.
 *
 * The tests run if E2E_CLUSTER=k3s is set.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { sha256 } from "../../core/hash.ts";
import { TestService } from "./deployed-service.ts";
import { describeWith, eventually, must, sh, temporaryDirectory } from "./setup.ts";
import { Sshd } from "./sshd.ts";

setDefaultTimeout(900_000);

const place = { namespace: "sec-e2e", port: 31_200 };
const allowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const names = ["SECRET_1", "SECRET_2", "SECRET_3", "SECRET_4", "SECRET_5"];
/** The service logs a digest of its values, and refuses some. */
const source = `const secrets = ${JSON.stringify(names)}.map((name) => process.env[name] ?? "").join("|");
console.log("digest " + new Bun.CryptoHasher("sha256").update(secrets).digest("hex"));
if (secrets.startsWith("broken")) throw new Error("SECRET_1 is not usable");
`;

/** All values that were ever set. */
const used = new Set<string>();
const value = (prefix = "v") => remember(`${prefix}${crypto.randomUUID().replaceAll("-", "")}`);
function remember(text: string): string {
  used.add(text);
  return text;
}

/** Returns the texts that reveal a value: itself, as JSON, and as base64 at each of three positions. */
function formsOf(secret: string): string[] {
  const [first] = secret.split("\n");
  const base64 = [0, 1, 2].map((shift) => btoa(`${" ".repeat(shift)}${first}`).slice(shift === 0 ? 0 : 4, -4));
  return [first!, ...base64];
}

/** Collects the command lines of all processes until it is stopped. */
function watchProcesses(): () => Set<string> {
  const seen = new Set<string>();
  const timer = setInterval(() => {
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      try {
        seen.add(readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " "));
      } catch {
        // It has ended.
      }
    }
  }, 20);
  return () => {
    clearInterval(timer);
    return seen;
  };
}

describeWith(
  "secrets on k3s",
  [],
  () => {
    const directory = temporaryDirectory();
    const outputs: string[] = [];
    const values: Record<string, string> = {};
    let service: TestService;
    let ids: { a: string; b: string };
    let stopWatching: () => Set<string>;
    const kubectl = (...args: string[]) => must(["k3s", "kubectl", "-n", place.namespace, ...args]);

    beforeAll(async () => {
      sh(["k3s", "kubectl", "delete", "namespace", place.namespace, "--ignore-not-found"]);
      service = new TestService(directory, "secrets", place);
      await service.start();
      const { copy } = service;
      copy.restore();
      const setting = `attach: false,\n  secrets: ${JSON.stringify(names)},\n  env: { PLAIN: "$(HOSTNAME)" },`;
      copy.rewrite("ci/pipeline.ts", "attach: false,", setting);
      copy.rewrite("src/main.ts", "// edit\n", `${source}// edit\n`);
      copy.keepChanges();
      const idOf = (version: "a" | "b") => {
        service.version(version);
        return copy.id();
      };
      ids = { a: idOf("a"), b: idOf("b") };
      stopWatching = watchProcesses();
    });
    afterAll(async () => {
      stopWatching();
      await service.server.stop();
      sh(["k3s", "ctr", "-n", "k8s.io", "images", "rm", ...Object.values(ids).map(imageOf)]);
      sh(["k3s", "kubectl", "delete", "namespace", place.namespace, "--ignore-not-found", "--wait=false"]);
    });

    /** Runs a command without clients. @param input standard input */
    async function run(args: string[], input = "", env: Record<string, string> = {}) {
      const child = Bun.spawn([process.execPath, "ci/pipeline.ts", ...args], {
        cwd: service.copy.directory,
        env: { ...process.env, GITHUB_STEP_SUMMARY: undefined, ...env },
        stdio: [Buffer.from(input), "pipe", "pipe"],
      });
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      outputs.push(stdout, stderr);
      return { code: await child.exited, stdout, output: stdout + stderr };
    }

    /**
     * Runs a command while clients send requests from an address of their own. The clients of slipway itself have the same one in each
     * run, and the kernel may still route one of its ports to a pod of the previous run.
     */
    async function runUnderLoad(args: string[]) {
      const result = await service.run([...args, "--report", "report.json"], [ids.a, ids.b]);
      outputs.push(result.output);
      console.log(`${args.slice(0, 2).join(" ")}: ${result.failed.length} of ${result.sent} requests failed`);
      expect(result.failed).toEqual([]);
      return result;
    }

    /** Writes values to a file outside of the project, and imports it. */
    async function importUnderLoad(changed: Record<string, string>) {
      const file = join(directory, "values.env");
      writeFileSync(
        file,
        Object.entries(changed)
          .map(([name, text]) => `${name}='${text}'\n`)
          .join(""),
      );
      return runUnderLoad(["secrets", "import", file]);
    }

    const digestOf = (current: Record<string, string>) =>
      `digest ${sha256(names.map((name) => current[name] ?? "").join("|"))}`;
    /** Returns the digests that the current pods have logged. */
    function digests(): string[] {
      const logs = kubectl("logs", "-l", "app.kubernetes.io/name=helloapp", "-c", "helloapp", "--tail=-1");
      return [...new Set(logs.match(/^digest \w+$/gm) ?? [])];
    }
    const imageOf = (id: string) => `docker.io/library/helloapp:${id}`;
    const list = async () =>
      JSON.parse((await run(["secrets", "list", "--json"])).stdout) as { name: string; digest: string; time: string }[];

    test("a deploy without values is refused before anything is delivered", async () => {
      service.version("a");
      const { code, output } = await run([]);
      expect(code, output).toBe(3);
      expect(output).toContain("no value is stored in sec-e2e for the secrets SECRET_1, SECRET_2");
      expect(output).toContain("secrets set SECRET_1");
      expect(sh(["k3s", "kubectl", "get", "namespace", place.namespace]).code).not.toBe(0);
      expect(output).not.toContain("deliver");
    });

    test("5 values: from standard input, a .env file and a terminal", async () => {
      Object.assign(values, {
        SECRET_1: value(),
        SECRET_2: value(),
        SECRET_3: remember(`${value("line-1-")}\nline 2`),
        SECRET_4: remember(crypto.randomUUID().repeat(1820)),
        SECRET_5: value(),
      });
      expect(values.SECRET_4!.length).toBeGreaterThan(65_000);
      const first = await run(["secrets", "set", "SECRET_1"], `${values.SECRET_1}\n`);
      expect(first.code, first.output).toBe(0);
      expect(first.output).toContain("created Namespace/sec-e2e");
      const lines = ["SECRET_2", "SECRET_3", "SECRET_4"].map((name) => `${name}="${values[name]}"\n`);
      const imported = await run(["secrets", "import", "-"], lines.join(""));
      expect(imported.code, imported.output).toBe(0);
      const command = `${process.execPath} ci/pipeline.ts secrets set SECRET_5`;
      const terminal = Bun.spawn(["script", "-qefc", command, "/dev/null"], {
        cwd: service.copy.directory,
        stdio: ["pipe", "pipe", "pipe"],
      });
      let shown = "";
      for await (const chunk of terminal.stdout) {
        shown += new TextDecoder().decode(chunk);
        if (!shown.includes("(not shown): ") || shown.includes("typed")) continue;
        shown += "\n(typed)\n";
        terminal.stdin.write(`${values.SECRET_5}x\u007F\r`);
        await terminal.stdin.flush();
      }
      outputs.push(shown);
      expect(await terminal.exited, shown).toBe(0);
      expect(shown).toContain("SECRET_5 stored");
      const found = await list();
      expect(found.map(({ name }) => name)).toEqual(names);
      for (const { digest, time } of found) {
        expect(digest).toMatch(/^[0-9a-f]{12}$/);
        expect(Date.now() - Date.parse(time)).toBeLessThan(600_000);
      }
    });

    test("the pods get the values, and a plain value is literal", async () => {
      for (const version of ["a", "b"] as const) {
        service.version(version);
        const { code, output } = await run([]);
        expect(code, output).toBe(0);
        expect(digests()).toEqual([digestOf(values)]);
        // On a full disk, the kubelet would delete the image of the version that does not run.
        must([
          "k3s",
          "ctr",
          "-n",
          "k8s.io",
          "images",
          "label",
          imageOf(ids[version]),
          "io.cri-containerd.pinned=pinned",
        ]);
      }
      const env = JSON.parse(kubectl("get", "deployment", "helloapp", "-o", "json")).spec.template.spec.containers[0]
        .env;
      expect(env).toContainEqual({ name: "PLAIN", value: "$$(HOSTNAME)" });
      expect((await run([])).output).toContain("nothing to deploy");
    });

    test("a change rolls the pods without a failed request, four times", async () => {
      for (let i = 0; i < 4; i += 1) {
        const changed = i === 0 ? { SECRET_1: value(), SECRET_2: value() } : { [names[i]!]: value() };
        const { code, output } = await importUnderLoad(changed);
        expect(code, output).toBe(0);
        Object.assign(values, changed);
        expect(digests()).toEqual([digestOf(values)]);
      }
      expect((await run([])).output).toContain("nothing to deploy");
    });

    test("a value with which the service does not start is undone without a failed request", async () => {
      const before = await list();
      const { code, output } = await importUnderLoad({ SECRET_1: value("broken"), SECRET_2: value() });
      expect(code, output).toBe(1);
      expect(output).toContain(`Rolled back: helloapp:${ids.b} serves, as before`);
      expect(output).toContain("SECRET_1 is not usable");
      // The pods that failed may terminate in their own time.
      await eventually(async () => digests().length === 1 || undefined);
      expect(digests()).toEqual([digestOf(values)]);
      expect(await list()).toEqual(before);
    });

    test("two people at once: both win", async () => {
      const changed = { SECRET_2: value(), SECRET_4: value() };
      const results = await Promise.all(
        Object.entries(changed).map(([name, text]) => run(["secrets", "set", name], text)),
      );
      for (const { code, output } of results) expect(code, output).toBe(0);
      expect(results.map(({ output }) => output).join()).toContain("waiting: another deploy is under way");
      Object.assign(values, changed);
      expect(digests()).toEqual([digestOf(values)]);
    });

    test("a killed change: the next one takes over the lock, and the pods have its values", async () => {
      const changed = { SECRET_3: value() };
      const child = Bun.spawn([process.execPath, "ci/pipeline.ts", "secrets", "set", "SECRET_3"], {
        cwd: service.copy.directory,
        stdio: [Buffer.from(value()), "pipe", "pipe"],
      });
      await Bun.sleep(3000);
      child.kill("SIGKILL");
      const { code, output } = await run(["secrets", "set", "SECRET_3"], changed.SECRET_3);
      expect(code, output).toBe(0);
      Object.assign(values, changed);
      expect(digests()).toEqual([digestOf(values)]);
    });

    test("a rollback over changed values keeps them", async () => {
      const { code, output } = await runUnderLoad(["rollback"]);
      expect(code, output).toBe(0);
      expect(await service.served()).toBe(ids.a);
      expect(digests()).toEqual([digestOf(values)]);
    });

    test("unset: refused for a used name, possible after a deploy without it, and a rollback needs it again", async () => {
      const refused = await run(["secrets", "unset", "SECRET_5"]);
      expect(refused.code, refused.output).toBe(1);
      expect(refused.output).toContain("the running version uses SECRET_5. Nothing was changed");
      service.version("b");
      service.copy.rewrite("ci/pipeline.ts", ',"SECRET_5"', "");
      const deployed = await run([]);
      expect(deployed.code, deployed.output).toBe(0);
      const { code, output } = await run(["secrets", "unset", "SECRET_5"]);
      expect(code, output).toBe(0);
      expect(output).toContain(`a rollback to ${ids.a} needs SECRET_5`);
      expect((await list()).map(({ name }) => name)).toEqual(names.slice(0, 4));
      const back = await run(["rollback", ids.a]);
      expect(back.code, back.output).toBe(3);
      expect(back.output).toContain("secrets set SECRET_5");
      values.SECRET_5 = value();
      expect((await run(["secrets", "set", "SECRET_5"], values.SECRET_5)).code).toBe(0);
      expect((await runUnderLoad(["rollback", ids.a])).code).toBe(0);
      expect(digests()).toEqual([digestOf(values)]);
    });

    test("over SSH and with a context, through the same code", async () => {
      const bin = join(directory, "remote-bin");
      mkdirSync(bin);
      symlinkSync(Bun.which("k3s")!, join(bin, "k3s"));
      const sshd = await Sshd.start(join(directory, "sshd"), bin);
      const kubeconfig = join(directory, "kubeconfig");
      writeFileSync(kubeconfig, must(["k3s", "kubectl", "config", "view", "--raw", "--flatten"]));
      const registry = ["--target", "registry", "--registry", "127.0.0.1:5000/helloapp"];
      const targets = [
        ["--host", sshd.host],
        [...registry, "--context", "default", "--kubeconfig", kubeconfig],
      ];
      for (const options of targets) {
        const env = { PATH: `${sshd.directory}/bin:${process.env.PATH}` };
        const changed = value();
        const set = await run(["secrets", "set", "SECRET_1", ...options], changed, env);
        expect(set.code, set.output).toBe(0);
        expect(set.output).toContain(`SECRET_1 stored, and ${ids.a} serves with them, verified`);
        values.SECRET_1 = changed;
        expect(digests()).toEqual([digestOf(values)]);
        expect((await run(["secrets", "list", ...options], "", env)).stdout).toContain("SECRET_1");
      }
      await sshd.stop();
    });

    test("a command's output is stored by a deploy, and only if it changed", async () => {
      const file = join(directory, "manager");
      service.version("b");
      const command = `{ SECRET_5: ["cat", ${JSON.stringify(file)}] }`;
      service.copy.rewrite("ci/pipeline.ts", '"SECRET_5"', command);
      for (let i = 0; i < 2; i += 1) {
        values.SECRET_5 = value();
        writeFileSync(file, `${values.SECRET_5}\n`);
        const plan = await run(["plan"]);
        expect(plan.output).toContain("Secret/helloapp-slipway-secrets data.SECRET_5 changed");
        const { code, output } = await run([]);
        expect(code, output).toBe(0);
        expect(digests()).toEqual([digestOf(values)]);
      }
      expect((await run([])).output).toContain("nothing to deploy");
      writeFileSync(file, "");
      const failed = await run([]);
      expect(failed.code, failed.output).toBe(3);
      expect(failed.output).toContain("cat, the command of the secret SECRET_5, has printed a value that is empty");
    });

    test("no value is in any output, command line, object, stored version or file", async () => {
      const forms = [...new Set([...used].flatMap(formsOf))];
      expect(forms.length).toBeGreaterThan(60);
      const objects = await service.everything();
      const secret = Object.keys(objects).filter((path) => path.endsWith("/secrets/helloapp-slipway-secrets"));
      expect(secret).toHaveLength(1);
      // The search can find: the one Secret has all current values.
      const text = JSON.stringify(objects[secret[0]!]);
      for (const current of Object.values(values)) expect(text).toContain(btoa(current));
      const stored = Object.entries(objects).flatMap(([path, object]) => {
        const { data = {} } = object as { data?: Record<string, string> };
        return data.manifests ? [[path, gunzipSync(Buffer.from(data.manifests, "base64")).toString()]] : [];
      });
      expect(stored.length).toBeGreaterThan(1);
      const places = [
        ...outputs.map((output, i): [string, string] => [`output ${i}`, output]),
        ...[...stopWatching()].map((line): [string, string] => ["a command line", line]),
        ...stored.map(([path, manifests]): [string, string] => [`${path} (decompressed)`, manifests!]),
        ...Object.entries(objects)
          .filter(([path]) => path !== secret[0])
          .map(([path, object]): [string, string] => [path, JSON.stringify(object)]),
      ];
      const found = places.filter(([, content]) => forms.some((form) => content.includes(form)));
      expect(found.map(([name]) => name)).toEqual([]);
      const patterns = join(directory, "patterns");
      writeFileSync(patterns, `${forms.join("\n")}\n`);
      const { directory: project } = service.copy;
      writeFileSync(join(directory, "sample"), forms[0]!);
      const search = (...paths: string[]) => sh(["grep", "-rlaF", "-f", patterns, ...paths]).stdout.trim();
      expect(search(join(directory, "sample"))).toBe(join(directory, "sample"));
      expect(search(project, join(project, "node_modules/.cache/"))).toBe("");
      expect(readFileSync(join(project, "report.json"), "utf8")).toContain("steps");
      console.log(`searched ${forms.length} forms of ${used.size} values in ${places.length} places`);
    });
  },
  { name: "E2E_CLUSTER=k3s and a running k3s", isMet: allowed },
  { name: "script", isMet: Bun.which("script") !== null },
  { name: "ssh and sshd", isMet: Bun.which("ssh") !== null && sh(["test", "-x", "/usr/sbin/sshd"]).code === 0 },
);
