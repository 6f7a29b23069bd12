/** Tests the pinned install script and the k3s target, with a fake k3s on PATH. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import { ApiClient, CONNECT_TIMEOUT_SECONDS } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { connectApi } from "../kubernetes/kubectl-proxy.ts";
import { connectK3sTarget } from "../targets/k3s.ts";
import type { Target } from "../deploy/target.ts";
import { PipelineError } from "../core/errors.ts";
import { fetchInstallScript } from "../commands/install-k3s.ts";
import { service } from "./helloapp-service.ts";

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

  test("is returned if its checksum matches", async () => {
    expect(Buffer.from(await fetchInstallScript(url, sha256(script))).toString()).toBe(script);
  });

  test("is rejected with the name of the pin if one character of the checksum differs", async () => {
    const wrong = sha256(script).replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
    const error = await failureOf(fetchInstallScript(url, wrong));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("pins.k3s.installScriptSha256");
    expect(error.message).toContain(sha256(script));
    expect(error.message).toContain("not run");
  });

  test("a failed download is reported", async () => {
    const error = await failureOf(fetchInstallScript(new URL("/gone", server.url).href, "x"));
    expect(error.message).toContain("404");
    expect((await failureOf(fetchInstallScript("http://127.0.0.1:1/", "x"))).message).toContain("cannot fetch");
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

  /** Creates the API server's response in tests without `kubectl proxy`. */
  let respond: () => Response;
  const api: typeof connectApi = async () => new ApiClient(service, async () => respond(), signal);

  /**
   * Puts a fake k3s with these nodes and these scripts for kubectl and ctr on PATH. Each has a new directory, because a running
   * script cannot be overwritten.
   */
  async function fakeK3s({
    nodes = [node("me", boot)] as unknown[],
    kubectl = "exit 1",
    status = 200,
    ctr = "true",
  } = {}) {
    respond = () => Response.json(status === 200 ? { items: nodes } : nodes[0], { status });
    const bin = await mkdtemp(join(directory, "bin-"));
    const body = `case "$1" in kubectl) ${kubectl} ;; ctr) ${ctr} ;; esac`;
    await writeFile(join(bin, "k3s"), `#!/bin/sh\n${body}\n`);
    // A sudo without a password, for users other than root.
    await writeFile(join(bin, "sudo"), '#!/bin/sh\nshift\nexec "$@"\n');
    for (const name of ["k3s", "sudo"]) await chmod(join(bin, name), 0o755);
    process.env.PATH = `${bin}:${path}`;
    return bin;
  }

  /** Puts a fake k3s on PATH whose `kubectl proxy` serves the cluster's response. */
  async function fakeProxy() {
    const bin = await fakeK3s({ kubectl: `exec ${process.execPath} "\${0%/*}/proxy.ts" "$@"` });
    const proxy = `const unix = process.argv.at(-1).replace("--unix-socket=", "");
await Bun.write(import.meta.dir + "/args", process.argv.slice(2).join(" "));
Bun.serve({ unix, fetch: () => new Response(Bun.file(import.meta.dir + "/reply.json")) });
console.log("Starting to serve");`;
    await writeFile(join(bin, "proxy.ts"), proxy);
    await writeFile(join(bin, "reply.json"), await respond().text());
    return bin;
  }

  const opened: Target[] = [];
  /** Connects with an existing kubeconfig. */
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
  } as KubeObject;

  test("is found if its only node is this machine, and serves at the NodePort of its address", async () => {
    await fakeK3s();
    expect((await connect()).endpoint([nodePort]).url).toBe("http://192.0.2.7:30080/version");
    // Without a node port, the API server's proxy leads to the Service, or to the pods.
    expect(opened[0]!.endpoint([{ ...nodePort, spec: { ports: [{ port: 80 }] } } as KubeObject]).url).toBe(
      "the API server's /api/v1/namespaces/helloapp/services/helloapp:80/proxy/version",
    );
    expect(opened[0]!.endpoint([]).url).toBe("the API server's /api/v1/namespaces/helloapp/pods/*:8080/proxy/version");
    expect((await connect({ url: "https://x.example" })).endpoint([]).url).toBe("https://x.example/version");
  });

  test.each(["https://x.example/base", "https://x.example/base/"])(
    "serves below the path of --url: %s",
    async (url) => {
      await fakeK3s();
      expect((await connect({ url })).endpoint([]).url).toBe("https://x.example/base/version");
    },
  );

  test("uses the given kubeconfig and context", async () => {
    const bin = await fakeProxy();
    await connect({ context: "other", connect: connectApi });
    const args = await Bun.file(join(bin, "args")).text();
    expect(args).toStartWith(`kubectl --kubeconfig=${directory}/k3s.yaml --context=other proxy --unix-socket=`);
  });

  test("close() stops the proxy and removes its files", async () => {
    const bin = await fakeProxy();
    const target = await connect({ connect: connectApi });
    const socket = /--unix-socket=(.*)$/.exec(await Bun.file(join(bin, "args")).text())![1]!;
    expect(existsSync(socket)).toBe(true);
    await target.api.close();
    expect(existsSync(dirname(socket))).toBe(false);
  });

  test("the overlay is rendered while connecting, and again for each later call", async () => {
    const rendered = join(directory, "rendered");
    await fakeK3s({
      kubectl: `[ "$2" = kustomize ] && echo "$3" >> ${rendered} && cat ${directory}/overlay`,
      // Connecting only succeeds after the overlay was rendered.
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

  const apiError = (code: number, message: string) => ({ status: code, nodes: [{ message }] });
  test.each<[string, Parameters<typeof fakeK3s>[0] | (() => Parameters<typeof fakeK3s>[0]), string, string]>([
    ["more than one node", () => ({ nodes: [node("a", boot), node("b", "x")] }), "2 nodes (a, b)", "--target registry"],
    ["another machine", () => ({ nodes: [node("far", "0")] }), "far is not this machine", "--context"],
    ["no node yet", { nodes: [] }, "no node yet", "again"],
    ["API server down", apiError(502, "connection refused"), "connection refused", "systemctl status k3s"],
    ["rights missing", apiError(403, 'User "x" cannot list nodes'), "cannot list", "auth can-i"],
    ["credentials expired", apiError(401, "Unauthorized"), "Unauthorized", "expired"],
    ["no permission on containerd", { ctr: "echo 'permission denied' >&2; exit 1" }, "no permission", "root"],
    ["containerd down", { ctr: "echo 'dial unix: no such file' >&2; exit 1" }, "no such file", "systemctl"],
  ])("%s: exit 3 with the reason and a hint", async (_, how, reason, hint) => {
    await fakeK3s(typeof how === "function" ? how() : how);
    const error = await failureOf(connect());
    expect(error.kind).toBe("environment");
    expect(error.message).toContain(reason);
    expect(error.hint).toContain(hint);
  });

  test("a wrong context: exit 3 with kubectl's message", async () => {
    await fakeK3s({ kubectl: `echo 'error: context "x" does not exist' >&2; exit 1` });
    const error = await failureOf(connect({ connect: connectApi }));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain('context "x" does not exist');
    expect(error.hint).toContain("get-contexts");
  });

  test("a missing kubeconfig: exit 3 with its path", async () => {
    await fakeK3s();
    const error = await failureOf(connect({ kubeconfig: "/nonexistent/k3s.yaml" }));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("/nonexistent/k3s.yaml");
  });

  test("a cluster that does not respond is an error within ten seconds", async () => {
    await fakeK3s({ ctr: "exec sleep 60" });
    const error = await failureOf(connect({ timeoutSeconds: 0.1 }));
    // The API server and containerd are queried at the same time, and either may time out first.
    expect(`${error.message} ${error.hint}`).toMatch(/does not (respond|answer)/);
    expect(CONNECT_TIMEOUT_SECONDS).toBeLessThan(10);
  });

  test("after the connection check, a slow containerd is tolerated, because an error would leave a deploy incomplete", async () => {
    const queried = join(directory, "queried");
    const slow = `[ -e ${queried} ] && sleep ${CONNECT_TIMEOUT_SECONDS + 0.5}; : > ${queried}`;
    await fakeK3s({ ctr: `${slow}; echo docker.io/library/helloapp:abc` });
    const target = await connect();
    await target.find("abc");
    expect(await target.find("abc")).toBe("helloapp:abc");
  }, 60_000);

  /** Writes an archive with the name helloapp:abc and almost no content. */
  const archiveFor = async (architecture = process.arch === "arm64" ? "arm64" : "amd64") => {
    const dist = await mkdtemp(join(directory, "dist-"));
    // Two empty layers would be identical, and an archive stores each layer once.
    for (const layer of ["runtime", "app/x"]) await mkdir(join(dist, layer), { recursive: true });
    const output = join(dist, "x.tar");
    const platform = { os: "linux", architecture: architecture as "amd64" } as const;
    await writeDockerArchive(output, { service, dist, names: ["helloapp:abc"], platform });
    return output;
  };

  test("an import only succeeds if containerd lists the image", async () => {
    const archive = await archiveFor();
    await fakeK3s();
    const error = await failureOf((await connect()).deliver(archive, "abc"));
    expect(error.message).toContain("has no helloapp:abc");
    await fakeK3s({ ctr: "echo docker.io/library/helloapp:abc" });
    expect(await (await connect()).deliver(archive, "abc")).toBe("helloapp:abc");
  });

  test.each([
    ["names the image, so nothing is listed", "unpacking docker.io/library/helloapp:abc (sha256:1)...done", 0],
    ["does not name it, so the images are listed", "unpacking docker.io/library/helloapp:abcd (sha256:1)...done", 1],
  ])("the output of an import %s", async (_, output, listings) => {
    const calls = join(directory, "calls");
    const list = `echo list >> ${calls}; echo docker.io/library/helloapp:abc`;
    await fakeK3s({ ctr: `case "$*" in *import*) echo "${output}" ;; *) ${list} ;; esac` });
    const target = await connect();
    await writeFile(calls, "");
    expect(await target.deliver(await archiveFor(), "abc")).toBe("helloapp:abc");
    expect((await readFile(calls, "utf8")).split("\n").filter(Boolean)).toHaveLength(listings);
  });

  test("a missing or invalid archive, or one with another name or architecture, is not imported", async () => {
    await fakeK3s({ ctr: 'case "$*" in *import*) echo imported >&2; exit 1 ;; esac' });
    const { deliver } = await connect();
    await writeFile(join(directory, "x.txt"), "no archive".repeat(100));
    const messages = [
      await failureOf(deliver(join(directory, "nothing"), "abc")),
      await failureOf(deliver(join(directory, "x.txt"), "abc")),
      await failureOf(deliver(await archiveFor(), "def")),
      await failureOf(deliver(await archiveFor("riscv64"), "abc")),
    ].map(({ kind, message }) => `${kind} ${message}`);
    expect(messages[0]).toMatch(/^environment .*nothing not found\. Nothing was changed/);
    expect(messages[1]).toMatch(/^environment .*x\.txt is not a docker-archive/);
    expect(messages[2]).toMatch(/^environment .*contains helloapp:abc, not helloapp:def/);
    expect(messages[3]).toMatch(/^environment .*is for riscv64, but the node is/);
  });

  test("a full disk is reported as such", async () => {
    await fakeK3s({
      ctr: 'case "$*" in *import*) echo "write: no space left on device" >&2; exit 1 ;; esac',
    });
    const error = await failureOf((await connect()).deliver(await archiveFor(), "abc"));
    expect(error.message).toContain("disk is full");
  });

  test("a containerd that stops during an import is reported as not responding", async () => {
    const output =
      'ctr: failed to ingest "x.tar": failed to copy: failed to send write: error reading from server: EOF';
    await fakeK3s({ ctr: `case "$*" in *import*) echo '${output}' >&2; exit 1 ;; esac` });
    const error = await failureOf((await connect()).deliver(await archiveFor(), "abc"));
    expect(error.message).toContain("containerd does not respond");
    expect(error.hint).toContain("systemctl status k3s");
  });

  test("unreferenced images are removed, together with containerd's second name for each", async () => {
    const list = `REF TYPE DIGEST
docker.io/library/helloapp:aaaaaaaaaaaa type sha256:1
docker.io/library/helloapp:bbbbbbbbbbbb type sha256:2
docker.io/library/helloapp:cccccccccccc type sha256:3
docker.io/library/helloapp:by-hand type sha256:3
docker.io/library/other:aaaaaaaaaaaa type sha256:1
sha256:22 type sha256:2
sha256:33 type sha256:3`;
    await writeFile(join(directory, "list"), list);
    await fakeK3s({
      ctr: `case "$*" in *" rm "*) echo "$@" > ${directory}/removed ;; *) cat ${directory}/list ;; esac`,
    });
    const target = await connect();
    expect(await target.clean(async () => new Set(["helloapp:aaaaaaaaaaaa"]))).toHaveLength(2);
    const removed = await Bun.file(join(directory, "removed")).text();
    // The alias that :by-hand shares with :cccccccccccc is kept.
    expect(removed.trim()).toEndWith(
      "rm docker.io/library/helloapp:bbbbbbbbbbbb docker.io/library/helloapp:cccccccccccc sha256:22",
    );
  });

  test("a missing k3s is reported", async () => {
    process.env.PATH = directory;
    const error = await failureOf(connect());
    expect(error.message).toContain("k3s not found");
    expect(error.hint).toContain("--target none");
  });
});
