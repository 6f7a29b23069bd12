/** Tests of delta transfers, the layer cache, hosts and remote commands that need no SSH connection. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BLOCK_BYTES,
  CHUNK_BYTES,
  computeDelta,
  shortHashes,
  chunksWithoutKnownContent,
  type DeltaBase,
  type DeltaOp,
} from "../ssh/binary-delta.ts";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import { findSharedLibraries } from "../image/image-spec.ts";
import { bootstrapScript } from "../ssh/host-connection.ts";
import { RemoteContainerd } from "../ssh/containerd.ts";
import type { SshSession } from "../ssh/shared-session.ts";
import { ImageUpload } from "../ssh/image-upload.ts";
import { parseHost } from "../ssh/host.ts";
import { commonDirectory, kustomizationFiles } from "../ssh/render-on-host.ts";
import { loadCachedLayer, saveCachedLayer } from "../ssh/transferred-layers.ts";
import { formatTransferProgress } from "../targets/ssh.ts";
import { schedulableNodes } from "../targets/schedulable-nodes.ts";
import type { KubeObject, Node } from "../kubernetes/objects.ts";
import { root, service } from "./helloapp-service.ts";

// Hashes of megabytes take a second, on a busy machine many.
setDefaultTimeout(120_000);

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-test-"))));
afterAll(() => rmSync(directory, { recursive: true }));

/** Generates the same numbers in each run, so that a failure can be reproduced. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // The lower bits of a linear congruential generator hardly change.
    yield (state >>> 8) / (1 << 24);
  }
}

/** @param known the most detailed known facts about the base */
const baseWith = (bytes: Uint8Array, known: "bytes" | "blocks" | "hashes"): DeltaBase => {
  const chunk = (i: number) => bytes.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES);
  return {
    size: bytes.length,
    hashes: shortHashes(bytes, CHUNK_BYTES),
    content: (i) => (known === "bytes" ? chunk(i) : undefined),
    blockHashes: (i) => (known === "blocks" ? shortHashes(chunk(i), BLOCK_BYTES) : undefined),
  };
};

/** Applies operations to a base, as the host does with head(1). */
function apply(operations: DeltaOp[], base: Uint8Array): Uint8Array {
  let position = 0;
  return Buffer.concat(
    operations.map((operation) => {
      if ("insert" in operation) return operation.insert;
      const length = "copy" in operation ? operation.copy : operation.skip;
      const bytes = base.subarray(position, (position += length));
      return "copy" in operation ? bytes : new Uint8Array();
    }),
  );
}

const insertedBytes = (operations: DeltaOp[]) =>
  operations.reduce((sum, operation) => sum + ("insert" in operation ? operation.insert.length : 0), 0);

describe("a delta", () => {
  const next = numbers(7);
  const randomBelow = (limit: number) => Math.floor(next.next().value * limit);
  const random = (length: number) => Uint8Array.from({ length }, () => randomBelow(256));
  const noise = random(3 * CHUNK_BYTES + 12345);

  /** Creates a random file and an edited copy. */
  function pair(i: number): [Uint8Array, Uint8Array] {
    // Only some files exceed a chunk, because these take most of the time.
    const size = i % 25 === 0 ? CHUNK_BYTES + randomBelow(2 * CHUNK_BYTES) : randomBelow(40_000);
    const start = randomBelow(noise.length - size);
    const base = noise.subarray(start, start + size);
    let target = Buffer.from(base);
    for (let edits = randomBelow(6); edits > 0; edits -= 1) {
      const at = randomBelow(target.length + 1);
      const cut = randomBelow(3) === 0 ? randomBelow(Math.min(5000, target.length - at + 1)) : 0;
      const added = randomBelow(2) === 0 ? random(randomBelow(700)) : target.subarray(0, randomBelow(3000));
      target = Buffer.concat([target.subarray(0, at), added, target.subarray(at + cut)]);
    }
    if (i % 40 === 1) target = Buffer.alloc(0);
    if (i % 40 === 2) target = Buffer.from(random(randomBelow(2000)));
    return [base, target];
  }

  test("turns the base into the target for 1,000 random pairs, with any known facts", () => {
    for (let i = 0; i < 1000; i += 1) {
      const [base, target] = pair(i);
      const known = (["bytes", "blocks", "hashes"] as const)[i % 3]!;
      const operations = computeDelta(target, baseWith(base, known));
      if (Buffer.compare(apply(operations, base), target) !== 0) throw new Error(`pair ${i} with ${known}`);
    }
  });

  const edited = (bytes: Uint8Array, at: number, added: string) =>
    Buffer.concat([bytes.subarray(0, at), Buffer.from(added), bytes.subarray(at)]);

  test("is little larger than the added bytes if the base content is cached, even if content moved", () => {
    const target = edited(edited(noise, 2 * CHUNK_BYTES + 100, "a line\n"), CHUNK_BYTES - 3, "another line\n");
    const operations = computeDelta(target, baseWith(noise, "bytes"));
    expect(insertedBytes(operations)).toBeLessThan(1000);
    expect(apply(operations, noise)).toEqual(target);
  });

  test("contains the changed blocks if only block hashes are known", () => {
    const target = Buffer.from(noise);
    for (const at of [5, CHUNK_BYTES + 7, noise.length - 1]) target[at]! ^= 1;
    expect(chunksWithoutKnownContent(shortHashes(target, CHUNK_BYTES), baseWith(noise, "hashes"))).toEqual([0, 1, 3]);
    const operations = computeDelta(target, baseWith(noise, "blocks"));
    expect(insertedBytes(operations)).toBe(2 * BLOCK_BYTES + (noise.length % BLOCK_BYTES));
    expect(apply(operations, noise)).toEqual(target);
  });

  test("of identical files is a single copy operation", () => {
    expect(computeDelta(noise, baseWith(noise, "hashes"))).toEqual([{ copy: noise.length }]);
  });

  test("has a bounded number of operations", () => {
    const target = Buffer.from(noise);
    for (let at = 0; at < target.length; at += 400) target[at]! ^= 1;
    const operations = computeDelta(target, baseWith(noise, "bytes"));
    expect(operations.length).toBeLessThan(1000);
    expect(apply(operations, noise)).toEqual(target);
  });

  test("uses cached chunks of the previous version, and ignores a damaged cache", async () => {
    const cache = join(directory, "cache");
    const first = Buffer.from(noise);
    first[CHUNK_BYTES + 5]! ^= 1;
    const name = (n: number) => n.toString(16).padStart(64, "0");
    await saveCachedLayer(cache, name(1), first, shortHashes(first, CHUNK_BYTES), shortHashes(noise, CHUNK_BYTES));
    const cached = (await loadCachedLayer(cache, name(1)))!;
    const base: DeltaBase = { size: first.length, blockHashes: () => undefined, ...cached };
    const target = edited(first.subarray(0, 2 * CHUNK_BYTES), CHUNK_BYTES + 900, "more");
    // Only the changed chunk is cached.
    const operations = computeDelta(target, base);
    expect(apply(operations, first)).toEqual(target);
    expect(insertedBytes(operations)).toBeLessThan(1000);
    const path = join(cache, name(1));
    const bytes = await Bun.file(path).bytes();
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path, bytes);
    expect(await loadCachedLayer(cache, name(1))).toBeUndefined();
    for (let i = 2; i < 20; i += 1) await saveCachedLayer(cache, name(i), first.subarray(0, i), [String(i)], []);
    expect(readdirSync(cache).length).toBe(8);
  });
});

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
  const layers = ["a", "b"].map((digit, i) => ({
    digest: `sha256:${digit.repeat(64)}`,
    size: i + 1,
    mediaType: "tar",
  }));
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
      const stdout = /content' 'get/.test(script) ? JSON.stringify({ layers }) : "0\n";
      return { code: 0, stdout, stderr: "" };
    },
  } as unknown as SshSession;
  const archive = join(directory, "small.tar");
  for (const tree of ["runtime", "app"]) mkdirSync(join(directory, "dist", tree), { recursive: true });
  writeFileSync(join(directory, "dist/app/x"), "x");
  const { platform } = findSharedLibraries();
  await writeDockerArchive(archive, { service, platform, dist: join(directory, "dist"), names: ["helloapp:x"] });
  const containerd = new RemoteContainerd(session, join(directory, "none"));
  expect(
    (await containerd.deliver(await ImageUpload.open(archive), `sha256:${"c".repeat(64)}`, () => {})).fallbackReason,
  ).toBeUndefined();
  await containerd.deliver(await ImageUpload.open(archive), undefined, () => {});
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
