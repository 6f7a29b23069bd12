/** Tests of hosts and remote commands that need no SSH connection. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import { findSharedLibraries } from "../image/image-spec.ts";
import { bootstrapScript } from "../ssh/host-connection.ts";
import { RemoteContainerd } from "../ssh/containerd.ts";
import type { SshSession } from "../ssh/shared-session.ts";
import { ImageUpload } from "../ssh/image-upload.ts";
import { parseHost } from "../ssh/host.ts";
import { commonDirectory, kustomizationFiles } from "../ssh/render-on-host.ts";
import { formatTransferProgress } from "../targets/ssh.ts";
import { schedulableNodes } from "../targets/schedulable-nodes.ts";
import type { KubeObject, Node } from "../kubernetes/objects.ts";
import { root, service } from "./helloapp-service.ts";

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-test-"))));
afterAll(() => rmSync(directory, { recursive: true }));

describe("parseHost", () => {
  test.each([
    "shop",
    "deploy@shop.example",
    "root@10.0.0.1",
    "shop_1",
    "ssh://deploy@shop:2222",
    "[fe80::1%eth0]",
    "a.b+c@x",
  ])("accepts %p", (host) => expect(parseHost(host)).toBe(host));
  test.each([
    "",
    "-oProxyCommand=x",
    "a b",
    "a\nb",
    "a;b",
    "$(x)",
    "@shop",
    "-l@x",
    "a@-x",
    "a@b@c",
    "a'b",
    "x".repeat(300),
  ])("rejects %p", (host) => expect(() => parseHost(host)).toThrow("invalid host"));
});

test("remote kustomize gets exactly the files that the overlay refers to", () => {
  const root = join(directory, "manifests");
  const write = (path: string, text: string) => {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  write("base/kustomization.yaml", "resources: [deployment.yaml]\n");
  write("base/deployment.yaml", "kind: Deployment\n");
  write("base/notes.md", "no manifest");
  write("parts/tls/kustomization.yml", "kind: Component\npatches: [{ path: a patch.yaml }]\n");
  write("parts/tls/a patch.yaml", "kind: Ingress\n");
  write(
    "overlay/kustomization.yaml",
    "resources: [../base]\ncomponents: [../parts/tls]\nconfigMapGenerator: [{ name: c, files: [x=conf.ini, it's], literals: [a=b] }]\n",
  );
  write("overlay/conf.ini", "1");
  write("overlay/it's", "2");
  const found = kustomizationFiles(join(root, "overlay")).map((path) => path.slice(root.length + 1));
  expect(found.sort()).toEqual([
    "base/deployment.yaml",
    "base/kustomization.yaml",
    "overlay/conf.ini",
    "overlay/it's",
    "overlay/kustomization.yaml",
    "parts/tls/a patch.yaml",
    "parts/tls/kustomization.yml",
  ]);
});

test("taints and nodeSelectors decide which nodes can run the pods", () => {
  const node = (name: string, labels = {}, taints: object[] = []) =>
    ({ metadata: { name, labels }, spec: { taints }, status: {} }) as unknown as Node;
  const noSchedule = (key: string, value?: string) => ({ key, value, effect: "NoSchedule" });
  const nodes = [
    node("plain"),
    node("fast", { disk: "ssd" }),
    node("own", { disk: "ssd" }, [noSchedule("own", "shop")]),
    node("away", { disk: "ssd" }, [noSchedule("node.kubernetes.io/unreachable")]),
    node("rather-not", {}, [{ key: "x", effect: "PreferNoSchedule" }]),
  ];
  const workload = (spec: object, image = service.name) =>
    ({
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "x" },
      spec: { template: { spec: { containers: [{ name: "x", image }], ...spec } } },
    }) as unknown as KubeObject;
  const names = (...manifests: KubeObject[]) =>
    schedulableNodes(service, manifests, nodes).map(({ metadata }) => metadata.name);
  expect(names(workload({}))).toEqual(["plain", "fast", "rather-not"]);
  expect(names(workload({ nodeSelector: { disk: "ssd" } }))).toEqual(["fast"]);
  const tolerations = [{ key: "own", operator: "Equal", value: "shop", effect: "NoSchedule" }];
  expect(names(workload({ tolerations, nodeSelector: { disk: "ssd" } }))).toEqual(["fast", "own"]);
  expect(names(workload({ tolerations: [{ operator: "Exists" }] }))).toHaveLength(5);
  // Only pods with the service's image count.
  expect(names(workload({}, "docker.io/library/redis:8"))).toEqual([]);
});

test("the sudoers lines of the SSH page allow exactly the commands that run as root on the host", async () => {
  const scripts = [bootstrapScript("01234567")];
  const digests = ["a", "b"].map((digit) => digit.repeat(64));
  const reply = (stdout: string) => ({ code: 0, stdout, stderr: "" });
  const session = {
    host: "shop",
    hostInfo: async () => ({
      bootId: "",
      directory: "/tmp/slipway-1.x",
      sudo: "sudo -n ",
      apiSocket: undefined,
    }),
    async run(script: string) {
      scripts.push(script);
      const table = digests.findIndex((digest) => script.includes(`base64`) && script.includes(digest));
      if (table >= 0) return reply(Buffer.from(upload.layers[table]!.content).toString("base64"));
      if (!/content' 'get/.test(script)) return reply("0\n");
      const layers = upload.layers.map(({ content }, i) => ({ digest: `sha256:${digests[i]}`, size: content.length }));
      return reply(JSON.stringify({ layers }));
    },
  } as unknown as SshSession;
  const archive = join(directory, "small.tar");
  for (const tree of ["runtime", "app"]) mkdirSync(join(directory, "dist", tree), { recursive: true });
  writeFileSync(join(directory, "dist/app/x"), "x");
  const { platform } = findSharedLibraries();
  await writeDockerArchive(archive, { service, platform, dist: join(directory, "dist"), names: ["helloapp:x"] });
  const upload = await ImageUpload.open(archive);
  const containerd = new RemoteContainerd(session);
  const delivered = await containerd.deliver(upload, `sha256:${"c".repeat(64)}`, () => {});
  expect(delivered.fallbackReason).toBeUndefined();
  await containerd.deliver(upload, undefined, () => {});
  await containerd.ctr(["images", "ls"]);
  await containerd.ctr(["images", "rm", "docker.io/library/helloapp:0123456789ab", "sha256:abc"]);
  const asRoot = scripts
    .flatMap((script) => [...script.matchAll(/(?:sudo -n |\$\{sudo\})([^|;)\n&<>]*)/g)].map(([, command]) => command!))
    .map((command) => command.replaceAll(/["']/g, "").replaceAll("$1", "0".repeat(64)).trim())
    // Drops the assignment of the variable itself.
    .filter(Boolean);
  const readme = readFileSync(join(root, "ci/slipway/docs/how-to/ssh-without-root.md"), "utf8");
  const entry = /^deploy ALL=\(root\) NOPASSWD: ([^]*?)\n```/m.exec(readme)![1]!;
  const allowed = entry.split(/,\s*\\?\s*/).map((command) => command.replaceAll("\\:", ":").trim());
  const allows = (pattern: string, command: string) => {
    const [program, ...words] = command.split(" ");
    const [path = "", ...patterns] = pattern.split(" ");
    // sudo's * is any text, spaces too. https://www.sudo.ws/docs/man/sudoers.man/#Wildcards
    const form = patterns
      .join(" ")
      .replace(/[.+?^${}()|[\]\\]/g, "\\$&")
      .replaceAll("*", ".*");
    return path.endsWith(`/${program}`) && new RegExp(`^${form}$`).test(words.join(" "));
  };
  const refused = [...new Set(asRoot)].filter((command) => !allowed.some((pattern) => allows(pattern, command)));
  expect(refused).toEqual([]);
  const unused = allowed.filter((pattern) => !asRoot.some((command) => allows(pattern, command)));
  expect(unused).toEqual([]);
});

test("the transfer progress shows bytes, the rate and the time left", () => {
  expect(formatTransferProgress(5_000_000, 115_000_000, 4)).toBe("5.0 MB of 115.0 MB, 1.3 MB/s, 88 s left");
  expect(formatTransferProgress(0, 18_000, 0)).toBe("0 kB of 18 kB, 0 kB/s");
});

test("a base above the service's directory is sent too: the common directory is the root", () => {
  expect(commonDirectory(["/a/b/svc/k8s/k3s", "/a/b/svc/k8s/base", "/a/b/shared"])).toBe("/a/b");
  expect(commonDirectory(["/a/svc/k8s"])).toBe("/a/svc/k8s");
  expect(commonDirectory(["/a/x", "/b/y"])).toBe("/");
});
