/** The pinned install script, and finding this machine's k3s; a stand-in on PATH plays k3s. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { writeArchive } from "../image/archive-writer.ts";
import { ApiClient, CONNECT_TIMEOUT_SECONDS } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/connect.ts";
import { connectK3sTarget } from "../targets/k3s.ts";
import type { Target } from "../deploy/target.ts";
import { PipelineError } from "../core/errors.ts";
import { fetchInstallScript } from "../commands/install-k3s.ts";
import { service } from "./helloapp-fixture.ts";

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
    expect(Buffer.from(await fetchInstallScript(url, sha256(script))).toString()).toBe(script);
  });

  test("is refused when one character of the checksum differs, naming the pin", async () => {
    const wrong = sha256(script).replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
    const error = await failureOf(fetchInstallScript(url, wrong));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("pins.k3s.installScriptSha256");
    expect(error.message).toContain(sha256(script));
    expect(error.message).toContain("not run");
  });

  test("that cannot be fetched is said to be so", async () => {
    const error = await failureOf(fetchInstallScript(new URL("/gone", server.url).href, "x"));
    expect(error.message).toContain("404");
    expect((await failureOf(fetchInstallScript("http://127.0.0.1:1/", "x"))).message).toContain(
      "cannot fetch",
    );
  });
});

describe("this machine's k3s", () => {
  const path = process.env.PATH;
  const { signal } = new AbortController();
  let directory: string;
  let boot: string;
  const node = (name: string, bootID: string) => ({
    metadata: { name },
    status: {
      nodeInfo: { bootID, architecture: process.arch === "arm64" ? "arm64" : "amd64" },
      addresses: [{ type: "InternalIP", address: "192.0.2.7" }],
    },
  });

  /** What the API server answers, where the test does not ask through a real `kubectl proxy`. */
  let answer: () => Response;
  const api: typeof connectApi = async () => new ApiClient(service, async () => answer(), signal);

  /**
   * Puts a k3s on PATH whose kubectl and ctr do as they say; asked for its nodes, the cluster has these. In a directory
   * of its own each time: a script that still runs cannot be written over.
   */
  async function standIn({
    nodes = [node("me", boot)] as unknown[],
    kubectl = "exit 1",
    status = 200,
    ctr = "true",
  } = {}) {
    answer = () => Response.json(status === 200 ? { items: nodes } : nodes[0], { status });
    const bin = await mkdtemp(join(directory, "bin-"));
    const body = `case "$1" in kubectl) ${kubectl} ;; ctr) ${ctr} ;; esac`;
    await writeFile(join(bin, "k3s"), `#!/bin/sh\n${body}\n`);
    // For who is not root: a sudo without a password.
    await writeFile(join(bin, "sudo"), '#!/bin/sh\nshift\nexec "$@"\n');
    for (const name of ["k3s", "sudo"]) await chmod(join(bin, name), 0o755);
    process.env.PATH = `${bin}:${path}`;
    return bin;
  }

  /** A `k3s kubectl` whose proxy serves what the cluster answers. */
  async function standInProxy() {
    const bin = await standIn({ kubectl: `exec ${process.execPath} "\${0%/*}/proxy.ts" "$@"` });
    const proxy = `const unix = process.argv.at(-1).replace("--unix-socket=", "");
await Bun.write(import.meta.dir + "/args", process.argv.slice(2).join(" "));
Bun.serve({ unix, fetch: () => new Response(Bun.file(import.meta.dir + "/reply.json")) });
console.log("Starting to serve");`;
    await writeFile(join(bin, "proxy.ts"), proxy);
    await writeFile(join(bin, "reply.json"), await answer().text());
    return bin;
  }

  const opened: Target[] = [];
  /** Connects with a kubeconfig that is there. */
  const connect = async (options: Partial<Parameters<typeof connectK3sTarget>[0]> = {}) => {
    const kubeconfig = join(directory, "k3s.yaml");
    const target = await connectK3sTarget({ service, kubeconfig, signal, connect: api, ...options });
    opened.push(target);
    return target;
  };

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "helloapp-k3s-"));
    await writeFile(join(directory, "k3s.yaml"), "");
    boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  });
  afterEach(async () => {
    process.env.PATH = path;
    for (const target of opened.splice(0)) await target.api.close();
  });
  afterAll(() => rm(directory, { recursive: true }));

  const nodePort = {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name: "helloapp" },
    spec: { ports: [{ port: 80, nodePort: 30080 }] },
  };

  test("is found when its one node is this machine, and answers on the NodePort of its address", async () => {
    await standIn();
    expect((await connect()).endpoint([nodePort]).url).toBe("http://192.0.2.7:30080/version");
    expect(() => opened[0]!.endpoint([])).toThrow("no Service helloapp with a nodePort");
    expect((await connect({ url: "https://x.example" })).endpoint([]).url).toBe("https://x.example/version");
  });

  test.each(["https://x.example/base", "https://x.example/base/"])(
    "is asked below the path of --url: %s",
    async (url) => {
      await standIn();
      expect((await connect({ url })).endpoint([]).url).toBe("https://x.example/base/version");
    },
  );

  test("is asked with the kubeconfig and the context that were named", async () => {
    const bin = await standInProxy();
    await connect({ context: "other", connect: connectApi });
    const args = await Bun.file(join(bin, "args")).text();
    expect(args).toStartWith(
      `kubectl --kubeconfig=${directory}/k3s.yaml --context=other proxy --unix-socket=`,
    );
  });

  test("its proxy ends, and leaves nothing, when it is closed", async () => {
    const bin = await standInProxy();
    const target = await connect({ connect: connectApi });
    const socket = /--unix-socket=(.*)$/.exec(await Bun.file(join(bin, "args")).text())![1]!;
    expect(existsSync(socket)).toBe(true);
    await target.api.close();
    expect(existsSync(dirname(socket))).toBe(false);
  });

  test("the overlay of a deploy is rendered while the way is looked for, and anew for each question after the first", async () => {
    const rendered = join(directory, "rendered");
    await standIn({
      kubectl: `[ "$2" = kustomize ] && echo "$3" >> ${rendered} && cat ${directory}/overlay`,
      // The way is not found before it was.
      ctr: `while ! [ -e ${rendered} ]; do sleep 0.01; done`,
    });
    await writeFile(join(directory, "overlay"), "first");
    const { kustomize, overlay } = await connect({ isDeploy: true });
    expect((await kustomize!(overlay)).stdout).toBe("first");
    await writeFile(join(directory, "overlay"), "edited");
    expect((await kustomize!(overlay)).stdout).toBe("edited");
    const path = join(service.project, overlay);
    expect(await Bun.file(rendered).text()).toBe(`${path}\n${path}\n`);
  });

  const refusedWith = (code: number, message: string) => ({ status: code, nodes: [{ message }] });
  test.each<[string, Parameters<typeof standIn>[0] | (() => Parameters<typeof standIn>[0]), string, string]>([
    [
      "more than one node",
      () => ({ nodes: [node("a", boot), node("b", "x")] }),
      "2 nodes (a, b)",
      "--target registry",
    ],
    ["another machine", () => ({ nodes: [node("far", "0")] }), "far is not this machine", "--context"],
    ["no node yet", { nodes: [] }, "no node yet", "again"],
    ["API server down", refusedWith(502, "connection refused"), "connection refused", "systemctl status k3s"],
    ["rights missing", refusedWith(403, 'User "x" cannot list nodes'), "cannot list", "auth can-i"],
    ["credentials expired", refusedWith(401, "Unauthorized"), "Unauthorized", "expired"],
    ["no permission on containerd", { ctr: "echo 'permission denied' >&2; exit 1" }, "no permission", "root"],
    ["containerd down", { ctr: "echo 'dial unix: no such file' >&2; exit 1" }, "no such file", "systemctl"],
  ])("%s: exit 3, with the reason and the way out", async (_, how, reason, hint) => {
    await standIn(typeof how === "function" ? how() : how);
    const error = await failureOf(connect());
    expect(error.kind).toBe("environment");
    expect(error.message).toContain(reason);
    expect(error.hint).toContain(hint);
  });

  test("a wrong context: exit 3, in kubectl's words", async () => {
    await standIn({ kubectl: `echo 'error: context "x" does not exist' >&2; exit 1` });
    const error = await failureOf(connect({ connect: connectApi }));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain('context "x" does not exist');
    expect(error.hint).toContain("get-contexts");
  });

  test("a kubeconfig that is not there: exit 3, naming it", async () => {
    await standIn();
    const error = await failureOf(connect({ kubeconfig: "/nonexistent/k3s.yaml" }));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("/nonexistent/k3s.yaml");
  });

  test("a cluster that does not answer is given up within ten seconds", async () => {
    await standIn({ ctr: "exec sleep 60" });
    const error = await failureOf(connect({ timeoutSeconds: 0.1 }));
    // Of the two that are asked at once, a busy machine may give up on either first.
    expect(`${error.message} ${error.hint}`).toContain("does not answer");
    expect(CONNECT_TIMEOUT_SECONDS).toBeLessThan(10);
  });

  test("a containerd that has answered may take its time: what is done by then would be halfway", async () => {
    const asked = join(directory, "asked");
    const slow = `[ -e ${asked} ] && sleep ${CONNECT_TIMEOUT_SECONDS + 0.5}; : > ${asked}`;
    await standIn({ ctr: `${slow}; echo docker.io/library/helloapp:abc` });
    const target = await connect();
    await target.find("abc");
    expect(await target.find("abc")).toBe("helloapp:abc");
  }, 60_000);

  /** An archive of helloapp:abc, as far as its names and its architecture go. */
  const archiveFor = async (architecture = process.arch === "arm64" ? "arm64" : "amd64") => {
    const dist = await mkdtemp(join(directory, "dist-"));
    // Two empty ones would be the same layer, which no archive has twice.
    for (const layer of ["runtime", "app/x"]) await mkdir(join(dist, layer), { recursive: true });
    const output = join(dist, "x.tar");
    const platform = { os: "linux", architecture: architecture as "amd64" } as const;
    await writeArchive(output, { service, dist, names: ["helloapp:abc"], platform });
    return output;
  };

  test("an import is believed only when containerd has the name", async () => {
    const archive = await archiveFor();
    await standIn();
    const error = await failureOf((await connect()).deliver(archive, "abc"));
    expect(error.message).toContain("has no helloapp:abc");
    await standIn({ ctr: "echo docker.io/library/helloapp:abc" });
    expect(await (await connect()).deliver(archive, "abc")).toBe("helloapp:abc");
  });

  test("an archive that is none, another one, or for another architecture is not imported", async () => {
    await standIn({ ctr: 'case "$*" in *import*) echo imported >&2; exit 1 ;; esac' });
    const { deliver } = await connect();
    await writeFile(join(directory, "x.txt"), "no archive".repeat(100));
    const messages = [
      await failureOf(deliver(join(directory, "nothing"), "abc")),
      await failureOf(deliver(join(directory, "x.txt"), "abc")),
      await failureOf(deliver(await archiveFor(), "def")),
      await failureOf(deliver(await archiveFor("riscv64"), "abc")),
    ].map(({ kind, message }) => `${kind} ${message}`);
    expect(messages[0]).toMatch(/^environment .*nothing is not there; nothing was changed/);
    expect(messages[1]).toMatch(/^environment .*x\.txt is no docker-archive/);
    expect(messages[2]).toMatch(/^environment .*holds helloapp:abc, not helloapp:def/);
    expect(messages[3]).toMatch(/^environment .*is for riscv64, and the node is/);
  });

  test("a node without space is told from other refusals", async () => {
    await standIn({
      ctr: 'case "$*" in *import*) echo "write: no space left on device" >&2; exit 1 ;; esac',
    });
    const error = await failureOf((await connect()).deliver(await archiveFor(), "abc"));
    expect(error.message).toContain("disk is full");
  });

  test("a containerd that ends in the middle of an import is told from one that refuses it", async () => {
    const words =
      'ctr: failed to ingest "x.tar": failed to copy: failed to send write: error reading from server: EOF';
    await standIn({ ctr: `case "$*" in *import*) echo '${words}' >&2; exit 1 ;; esac` });
    const error = await failureOf((await connect()).deliver(await archiveFor(), "abc"));
    expect(error.message).toContain("containerd does not answer");
    expect(error.hint).toContain("systemctl status k3s");
  });

  test("images of versions that are not kept are removed, with containerd's second name for each", async () => {
    const list = `REF TYPE DIGEST
docker.io/library/helloapp:aaaaaaaaaaaa type sha256:1
docker.io/library/helloapp:bbbbbbbbbbbb type sha256:2
docker.io/library/helloapp:cccccccccccc type sha256:3
docker.io/library/helloapp:by-hand type sha256:3
docker.io/library/other:aaaaaaaaaaaa type sha256:1
sha256:22 type sha256:2
sha256:33 type sha256:3`;
    await writeFile(join(directory, "list"), list);
    await standIn({
      ctr: `case "$*" in *" rm "*) echo "$@" > ${directory}/removed ;; *) cat ${directory}/list ;; esac`,
    });
    const target = await connect();
    expect(await target.clean(async () => new Set(["helloapp:aaaaaaaaaaaa"]))).toHaveLength(2);
    const removed = await Bun.file(join(directory, "removed")).text();
    // What :by-hand shares with :cccccccccccc stays.
    expect(removed.trim()).toEndWith(
      "rm docker.io/library/helloapp:bbbbbbbbbbbb docker.io/library/helloapp:cccccccccccc sha256:22",
    );
  });

  test("not installed is said to be so", async () => {
    process.env.PATH = directory;
    const error = await failureOf(connect());
    expect(error.message).toContain("no k3s");
    expect(error.hint).toContain("--target none");
  });
});
