/** The pinned install script, and finding this machine's k3s; a stand-in on PATH plays k3s. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectK3s, PATIENCE_SECONDS } from "../../ci/deploy/k3s.ts";
import { PipelineError } from "../../ci/errors.ts";
import { fetchScript, renewPin } from "../../ci/k3s.ts";
import { pins } from "../../ci/pins.ts";

const sha256 = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

describe("install script", () => {
  const script = "#!/bin/sh\necho k3s\n";
  const server = Bun.serve({
    port: 0,
    routes: { "/install.sh": () => new Response(script) },
    fetch: () => new Response("no", { status: 404 }),
  });
  const url = new URL("/install.sh", server.url).href;
  afterAll(() => server.stop(true));

  test("is handed out when its checksum matches", async () => {
    expect(Buffer.from(await fetchScript(url, sha256(script))).toString()).toBe(script);
  });

  test("is refused when one character of the checksum differs, naming the pin", async () => {
    const wrong = sha256(script).replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
    const error = await failureOf(fetchScript(url, wrong));
    expect(error.fault).toBe("surroundings");
    expect(error.message).toContain("pins.k3s.installScriptSha256");
    expect(error.message).toContain(sha256(script));
    expect(error.message).toContain("not run");
  });

  test("that cannot be fetched is said to be so", async () => {
    const error = await failureOf(fetchScript(new URL("/gone", server.url).href, "x"));
    expect(error.message).toContain("404");
    expect((await failureOf(fetchScript("http://127.0.0.1:1/", "x"))).message).toContain("cannot fetch");
  });

  test("its pin is renewed in place, and nothing else in the file", async () => {
    const source = await readFile(join(import.meta.dir, "../../ci/pins.ts"), "utf8");
    const renewed = renewPin(source, { version: "v9+k3s1", url: "https://x/install.sh", sha256: "abc" });
    const { version, installScript, installScriptSha256 } = pins.k3s;
    const back = renewPin(renewed, { version, url: installScript, sha256: installScriptSha256 });
    expect(back).toBe(source);
    expect(renewed).toContain('version: "v9+k3s1"');
    expect(renewed).toContain('"https://x/install.sh"');
    expect(renewed).toContain('installScriptSha256: "abc"');
    expect(() => renewPin("k3s: {", { version: "", url: "", sha256: "" })).toThrow("no version");
  });
});

describe("this machine's k3s", () => {
  const path = process.env.PATH;
  const { signal } = new AbortController();
  let directory: string;
  let boot: string;
  const node = (name: string, bootID: string) => ({
    metadata: { name },
    status: { nodeInfo: { bootID }, addresses: [{ type: "InternalIP", address: "192.0.2.7" }] },
  });

  /**
   * Puts a k3s on PATH whose kubectl answers with these nodes, and whose ctr does as `ctr` says. In a directory of its
   * own each time: a script that still runs cannot be written over.
   */
  async function standIn({ nodes = [node("me", boot)] as unknown[], kubectl = "", ctr = "" } = {}) {
    const bin = await mkdtemp(join(directory, "bin-"));
    await writeFile(join(bin, "nodes.json"), JSON.stringify({ items: nodes }));
    const body = `case "$1" in kubectl) ${kubectl || `cat ${bin}/nodes.json`} ;; ctr) ${ctr || "true"} ;; esac`;
    await writeFile(join(bin, "k3s"), `#!/bin/sh\n${body}\n`);
    // For who is not root: a sudo without a password.
    await writeFile(join(bin, "sudo"), '#!/bin/sh\nshift\nexec "$@"\n');
    for (const name of ["k3s", "sudo"]) await chmod(join(bin, name), 0o755);
    process.env.PATH = `${bin}:${path}`;
  }

  /** Connects with a kubeconfig that is there. */
  const connect = (options: Partial<Parameters<typeof connectK3s>[0]> = {}) =>
    connectK3s({ kubeconfig: join(directory, "k3s.yaml"), signal, ...options });

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "helloapp-k3s-"));
    await writeFile(join(directory, "k3s.yaml"), "");
    boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  });
  afterEach(() => void (process.env.PATH = path));
  afterAll(() => rm(directory, { recursive: true }));

  test("is found when its one node is this machine", async () => {
    await standIn();
    expect(await connect()).toMatchObject({ node: "me", address: "192.0.2.7" });
  });

  test("is asked with the kubeconfig and the context that were named", async () => {
    await standIn({ kubectl: `echo "$@" > ${directory}/args; cat "\${0%/*}/nodes.json"` });
    await connect({ context: "other" });
    const args = await Bun.file(join(directory, "args")).text();
    expect(args).toContain(`--kubeconfig=${directory}/k3s.yaml --context=other get nodes`);
  });

  test.each<[string, Parameters<typeof standIn>[0] | (() => Parameters<typeof standIn>[0]), string, string]>([
    [
      "more than one node",
      () => ({ nodes: [node("a", boot), node("b", "x")] }),
      "2 nodes (a, b)",
      "registry",
    ],
    ["another machine", () => ({ nodes: [node("far", "0")] }), "far is not this machine", "--context"],
    ["no node yet", { nodes: [] }, "no node yet", "again"],
    [
      "API server down",
      { kubectl: "echo 'connection refused' >&2; exit 1" },
      "connection refused",
      "systemctl status k3s",
    ],
    ["rights missing", { kubectl: "echo 'nodes is forbidden' >&2; exit 1" }, "forbidden", "rights"],
    ["no permission on containerd", { ctr: "echo 'permission denied' >&2; exit 1" }, "no permission", "root"],
    ["containerd down", { ctr: "echo 'dial unix: no such file' >&2; exit 1" }, "no such file", "systemctl"],
  ])("%s: exit 3, with the reason and the way out", async (_, how, reason, hint) => {
    await standIn(typeof how === "function" ? how() : how);
    const error = await failureOf(connect());
    expect(error.fault).toBe("surroundings");
    expect(error.message).toContain(reason);
    expect(error.hint).toContain(hint);
  });

  test("a kubeconfig that is not there: exit 3, naming it", async () => {
    await standIn();
    const error = await failureOf(connect({ kubeconfig: "/nonexistent/k3s.yaml" }));
    expect(error.fault).toBe("surroundings");
    expect(error.message).toContain("/nonexistent/k3s.yaml");
  });

  test("a cluster that does not answer is given up within ten seconds", async () => {
    await standIn({ kubectl: "exec sleep 60" });
    const error = await failureOf(connect({ patienceSeconds: 0.1 }));
    // Of the two that are asked at once, a busy machine may give up on either first.
    expect(`${error.message} ${error.hint}`).toContain("does not answer");
    expect(PATIENCE_SECONDS).toBeLessThan(10);
  });

  test("an import is believed only when containerd has the name", async () => {
    await standIn();
    const error = await failureOf((await connect()).import("x.tar", "helloapp:abc"));
    expect(error.message).toContain("has no helloapp:abc");
    await standIn({ ctr: "echo docker.io/library/helloapp:abc" });
    await (await connect()).import("x.tar", "helloapp:abc");
  });

  test("a node without space is told from other refusals", async () => {
    await standIn({
      ctr: 'case "$*" in *import*) echo "write: no space left on device" >&2; exit 1 ;; esac',
    });
    const error = await failureOf((await connect()).import("x.tar", "helloapp:abc"));
    expect(error.message).toContain("disk is full");
  });

  test("not installed is said to be so", async () => {
    process.env.PATH = directory;
    const error = await failureOf(connect());
    expect(error.message).toContain("no k3s");
    expect(error.hint).toContain("--target none");
  });
});
