/**
 * Deploys to k3s over SSH: a real sshd on loopback, and behind it this machine's k3s. On this side there is Bun and ssh, and nothing
 * else. They run when E2E_CLUSTER=k3s allows it.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Copy } from "./copies.ts";
import { describeWith, sh, temporaryDirectory } from "./setup.ts";
import { Sshd, SSHD } from "./sshd.ts";

setDefaultTimeout(300_000);

const place = { namespace: "helloapp-e2e-hosts", port: 30983 };
const allowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const kubectl = (...args: string[]) => sh(["k3s", "kubectl", ...args]);
const remove = () => void kubectl("delete", "namespace", place.namespace, "--ignore-not-found");

describeWith(
  "k3s over SSH",
  ["ssh", "ssh-keygen", "ssh-keyscan"],
  () => {
    const directory = temporaryDirectory();
    let sshd: Sshd;
    let good: Copy;
    let path: string;
    let first: string;
    let second: string;

    beforeAll(async () => {
      remove();
      const there = join(directory, "there");
      const here = join(directory, "here");
      for (const bin of [there, here]) mkdirSync(bin);
      symlinkSync(Bun.which("k3s")!, join(there, "k3s"));
      sshd = await Sshd.start(join(directory, "sshd"), there);
      // What a laptop without any tools has.
      symlinkSync(process.execPath, join(here, "bun"));
      for (const tool of ["sh", "cat", "rm"]) symlinkSync(Bun.which(tool)!, join(here, tool));
      path = `${sshd.directory}/bin:${here}`;
      good = new Copy(directory, "good", place);
    });
    afterAll(async () => {
      remove();
      await sshd.stop();
    });

    async function pipeline(...args: string[]) {
      const child = Bun.spawn([process.execPath, "ci/pipeline.ts", ...args, "--host", sshd.host], {
        cwd: good.directory,
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
      ((await (await fetch(`http://127.0.0.1:${place.port}/version`)).json()) as { id: string }).id;
    /** What the step said that was sent. */
    const sent = (output: string) => /deliver .* ([\d.]+ [kM]B) sent/.exec(output)?.[1];

    test("a first deploy takes the whole, and serves", async () => {
      first = good.id();
      const { code, output } = await pipeline();
      expect(output).toContain(`helloapp:${first} serves at http://127.0.0.1:${place.port}/version`);
      expect(code).toBe(0);
      expect(await served()).toBe(first);
    });

    test("a second one of the same changes nothing", async () => {
      const { code, output } = await pipeline();
      expect(code).toBe(0);
      expect(output).toContain("nothing to deploy");
      expect(sent(output)).toBeUndefined();
    });

    test("an edit takes less than a megabyte of what it is made of", async () => {
      good.edit();
      second = good.id();
      const { output: plan } = await pipeline("plan");
      expect(plan).toContain(`helloapp:${second}`);
      const { code, output } = await pipeline();
      expect(output).not.toContain("the whole");
      expect(sent(output)).toMatch(/kB$/);
      expect(code).toBe(0);
      expect(await served()).toBe(second);
      expect((await pipeline("verify")).code).toBe(0);
    });

    test("a bad version is rolled back, its log shown, and the one before serves", async () => {
      good.state('if (process.env.PORT) throw new Error("not today");');
      const { code, output } = await pipeline();
      good.restore();
      expect(code).toBe(1);
      expect(output).toContain("not today");
      expect(output).toContain("Rolled back");
      expect(await served()).toBe(second);
    });

    test("an image that the node has lost is brought there, and nothing else is changed", async () => {
      const name = `docker.io/library/helloapp:${second}`;
      expect(sh(["k3s", "ctr", "-n", "k8s.io", "images", "rm", name]).code).toBe(0);
      const { output: status } = await pipeline("status");
      expect(status).toContain("without its image: ");
      const generation = () =>
        kubectl(
          "-n",
          place.namespace,
          "get",
          "deployment",
          "helloapp",
          "-o",
          "jsonpath={.metadata.generation}",
        ).stdout;
      const before = generation();
      const { code, output } = await pipeline();
      expect(code).toBe(0);
      expect(sent(output)).toBeDefined();
      expect(generation()).toBe(before);
      expect((await pipeline("status")).output).not.toContain("without its image");
    });

    test("rollback goes to the version before", async () => {
      const { code, output } = await pipeline("rollback");
      expect(output).toContain(`helloapp:${first} serves again, verified`);
      expect(code).toBe(0);
      expect(await served()).toBe(first);
    });
  },
  { name: "E2E_CLUSTER=k3s, and a k3s that answers", answers: allowed },
  { name: "openssh-server", answers: existsSync(SSHD) },
);
