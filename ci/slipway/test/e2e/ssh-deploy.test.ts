/**
 * Deploys to k3s over SSH, with a real sshd on loopback and this machine's k3s. The client only has Bun and ssh.
 *
 * The tests run if E2E_CLUSTER=k3s is set.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Copy } from "./project-versions.ts";
import { describeWith, sh, temporaryDirectory } from "./setup.ts";
import { Sshd, SSHD } from "./sshd.ts";

setDefaultTimeout(300_000);

const deployment = { namespace: "helloapp-e2e-hosts", port: 30983 };
const allowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const kubectl = (...args: string[]) => sh(["k3s", "kubectl", ...args]);
const deleteNamespace = () => void kubectl("delete", "namespace", deployment.namespace, "--ignore-not-found");

describeWith(
  "k3s over SSH",
  ["ssh", "ssh-keygen", "ssh-keyscan"],
  () => {
    const directory = temporaryDirectory();
    let sshd: Sshd;
    let copy: Copy;
    let path: string;
    let first: string;
    let second: string;

    beforeAll(async () => {
      deleteNamespace();
      const remoteBin = join(directory, "remote-bin");
      const localBin = join(directory, "local-bin");
      for (const bin of [remoteBin, localBin]) mkdirSync(bin);
      symlinkSync(Bun.which("k3s")!, join(remoteBin, "k3s"));
      sshd = await Sshd.start(join(directory, "sshd"), remoteBin);
      // A client without any other tools.
      symlinkSync(process.execPath, join(localBin, "bun"));
      for (const tool of ["sh", "cat", "rm"]) symlinkSync(Bun.which(tool)!, join(localBin, tool));
      path = `${sshd.directory}/bin:${localBin}`;
      copy = new Copy(directory, "copy", deployment);
    });
    afterAll(async () => {
      deleteNamespace();
      await sshd.stop();
    });

    async function pipeline(command?: string, ...args: string[]) {
      const words = [...(command ? [command] : []), "--host", sshd.host, ...args];
      const child = Bun.spawn([process.execPath, "ci/pipeline.ts", ...words], {
        cwd: copy.directory,
        env: { ...process.env, PATH: path, GITHUB_STEP_SUMMARY: undefined, DAGGER_SESSION_PORT: undefined },
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
    const served = async () =>
      ((await (await fetch(`http://127.0.0.1:${deployment.port}/version`)).json()) as { id: string }).id;
    /** Returns the number of bytes that the step reports. */
    const sentBytes = (output: string) => /deliver .* ([\d.]+ [kM]B) sent/.exec(output)?.[1];

    test("the first deploy sends the full image and serves", async () => {
      first = copy.id();
      const { code, output } = await pipeline();
      expect(output).toContain(`helloapp:${first} serves at http://127.0.0.1:${deployment.port}/version`);
      expect(code).toBe(0);
      expect(await served()).toBe(first);
    });

    test("a second deploy without changes does nothing", async () => {
      const { code, output } = await pipeline();
      expect(code).toBe(0);
      expect(output).toContain("nothing to deploy");
      expect(sentBytes(output)).toBeUndefined();
    });

    test("an edit sends less than a megabyte", async () => {
      copy.edit();
      second = copy.id();
      const { output: plan } = await pipeline("plan");
      expect(plan).toContain(`helloapp:${second}`);
      const { code, output } = await pipeline();
      expect(output).not.toContain("full image");
      expect(sentBytes(output)).toMatch(/kB$/);
      expect(code).toBe(0);
      expect(await served()).toBe(second);
      expect((await pipeline("verify")).code).toBe(0);
    });

    test("logs and kubectl need only ssh here, and two sessions there", async () => {
      await sshd.restart("host", join(directory, "remote-bin"), ["MaxSessions 2"]);
      const { code, output } = await pipeline("logs", "--json", "-n", "all");
      expect(code).toBe(0);
      const lines = output
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as { version: string; line: string });
      expect(new Set(lines.map(({ version }) => version))).toEqual(new Set([second]));
      expect(lines.map(({ line }) => line).join()).toContain('"event":"ready"');
      const found = await pipeline(
        "kubectl",
        "--",
        "get",
        "pods",
        "-o",
        'jsonpath={.items[*].status.phase} it\'s $HOME "x"',
      );
      expect(found).toEqual({ code: 0, output: 'Running Running it\'s $HOME "x"' });
      expect((await pipeline("kubectl", "--", "get", "secrets", "no-such-secret")).code).toBe(1);
      await sshd.restart("host", join(directory, "remote-bin"));
    });

    test("a failing version is rolled back, its log is shown, and the previous version serves", async () => {
      copy.state('if (process.env.PORT) throw new Error("not today");');
      const { code, output } = await pipeline();
      copy.restore();
      expect(code).toBe(1);
      expect(output).toContain("not today");
      expect(output).toContain("Rolled back");
      expect(await served()).toBe(second);
    });

    test("an image that is missing on the node is imported, and nothing else changes", async () => {
      const name = `docker.io/library/helloapp:${second}`;
      expect(sh(["k3s", "ctr", "-n", "k8s.io", "images", "rm", name]).code).toBe(0);
      const { output: status } = await pipeline("status");
      expect(status).toContain("without its image: ");
      const generation = () =>
        kubectl("-n", deployment.namespace, "get", "deployment", "helloapp", "-o", "jsonpath={.metadata.generation}")
          .stdout;
      const before = generation();
      const { code, output } = await pipeline();
      expect(code).toBe(0);
      expect(sentBytes(output)).toBeDefined();
      expect(generation()).toBe(before);
      expect((await pipeline("status")).output).not.toContain("without its image");
    });

    test("rollback restores the previous version", async () => {
      const { code, output } = await pipeline("rollback");
      expect(output).toContain(`helloapp:${first} serves again, verified`);
      expect(code).toBe(0);
      expect(await served()).toBe(first);
    });
  },
  { name: "E2E_CLUSTER=k3s, and a running k3s", isMet: allowed },
  { name: "openssh-server", isMet: existsSync(SSHD) },
);
