/** Deltas, what is remembered for them, and the words of a host: all that a line needs without one. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BLOCK_BYTES,
  CHUNK_BYTES,
  computeDelta,
  blockHashes,
  unknownChunks,
  type DeltaBase,
  type DeltaOp,
} from "../ssh/delta.ts";
import { writeArchive } from "../image/archive-writer.ts";
import { findSharedLibraries } from "../image/image-config.ts";
import { bootstrapScript } from "../ssh/connection.ts";
import { RemoteContainerd } from "../ssh/containerd.ts";
import type { SshSession } from "../ssh/session.ts";
import { ImageUpload } from "../ssh/image-upload.ts";
import { parseHost } from "../ssh/host.ts";
import { kustomizationFiles } from "../ssh/kustomize.ts";
import { loadCachedLayer, saveCachedLayer } from "../ssh/layer-cache.ts";
import { formatTransferProgress } from "../targets/ssh.ts";
import { schedulableNodes } from "../targets/nodes.ts";
import type { KubeObject, Node } from "../kubernetes/objects.ts";
import { root, service } from "./helloapp-fixture.ts";

// Hashes of megabytes take a second, on a busy machine many.
setDefaultTimeout(120_000);

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-test-"))));
afterAll(() => rmSync(directory, { recursive: true }));

/** Numbers that are the same in each run: what fails once can be looked into. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // The lower bits of such a generator hardly change.
    yield (state >>> 8) / (1 << 24);
  }
}

const knows = (bytes: Uint8Array, what: "bytes" | "blocks" | "hashes"): DeltaBase => {
  const chunk = (i: number) => bytes.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES);
  return {
    size: bytes.length,
    hashes: blockHashes(bytes, CHUNK_BYTES),
    content: (i) => (what === "bytes" ? chunk(i) : undefined),
    blocks: (i) => (what === "blocks" ? blockHashes(chunk(i), BLOCK_BYTES) : undefined),
  };
};

/** What orders make of a base: what the remote end does with head(1). */
function apply(orders: DeltaOp[], base: Uint8Array): Uint8Array {
  let at = 0;
  return Buffer.concat(
    orders.map((order) => {
      if ("put" in order) return order.put;
      const length = "keep" in order ? order.keep : order.skip;
      const bytes = base.subarray(at, (at += length));
      return "keep" in order ? bytes : new Uint8Array();
    }),
  );
}

const sent = (orders: ReturnType<typeof computeDelta>) =>
  orders.reduce((sum, order) => sum + ("put" in order ? order.put.length : 0), 0);

describe("a delta", () => {
  const next = numbers(7);
  const below = (limit: number) => Math.floor(next.next().value * limit);
  const random = (length: number) => Uint8Array.from({ length }, () => below(256));
  // Of a chunk and more only every so often: they are what takes the time.
  const noise = random(3 * CHUNK_BYTES + 12345);

  /** A file, and one that edits have made of it. */
  function pair(i: number): [Uint8Array, Uint8Array] {
    const size = i % 25 === 0 ? CHUNK_BYTES + below(2 * CHUNK_BYTES) : below(40_000);
    const start = below(noise.length - size);
    const base = noise.subarray(start, start + size);
    let target = Buffer.from(base);
    for (let edits = below(6); edits > 0; edits -= 1) {
      const at = below(target.length + 1);
      const cut = below(3) === 0 ? below(Math.min(5000, target.length - at + 1)) : 0;
      const added = below(2) === 0 ? random(below(700)) : target.subarray(0, below(3000));
      target = Buffer.concat([target.subarray(0, at), added, target.subarray(at + cut)]);
    }
    if (i % 40 === 1) target = Buffer.alloc(0);
    if (i % 40 === 2) target = Buffer.from(random(below(2000)));
    return [base, target];
  }

  test("of 1,000 random pairs makes one of the other, whatever is known of it", () => {
    for (let i = 0; i < 1000; i += 1) {
      const [base, target] = pair(i);
      const what = (["bytes", "blocks", "hashes"] as const)[i % 3]!;
      const orders = computeDelta(target, knows(base, what));
      if (Buffer.compare(apply(orders, base), target) !== 0) throw new Error(`pair ${i} by ${what}`);
    }
  });

  const edited = (bytes: Uint8Array, at: number, added: string) =>
    Buffer.concat([bytes.subarray(0, at), Buffer.from(added), bytes.subarray(at)]);

  test("of what is known by its bytes is little more than what was added, also behind what moved", () => {
    const target = edited(
      edited(noise, 2 * CHUNK_BYTES + 100, "a line\n"),
      CHUNK_BYTES - 3,
      "another line\n",
    );
    const orders = computeDelta(target, knows(noise, "bytes"));
    expect(sent(orders)).toBeLessThan(1000);
    expect(apply(orders, noise)).toEqual(target);
  });

  test("of what is known by its blocks' hashes is the blocks that changed", () => {
    const target = Buffer.from(noise);
    for (const at of [5, CHUNK_BYTES + 7, noise.length - 1]) target[at]! ^= 1;
    expect(unknownChunks(blockHashes(target, CHUNK_BYTES), knows(noise, "hashes"))).toEqual([0, 1, 3]);
    const orders = computeDelta(target, knows(noise, "blocks"));
    expect(sent(orders)).toBe(2 * BLOCK_BYTES + (noise.length % BLOCK_BYTES));
    expect(apply(orders, noise)).toEqual(target);
  });

  test("of one file with itself is one order, and nothing is sent", () => {
    expect(computeDelta(noise, knows(noise, "hashes"))).toEqual([{ keep: noise.length }]);
  });

  test("has no more orders than processes can be started for in a moment", () => {
    const target = Buffer.from(noise);
    for (let at = 0; at < target.length; at += 400) target[at]! ^= 1;
    const orders = computeDelta(target, knows(noise, "bytes"));
    expect(orders.length).toBeLessThan(1000);
    expect(apply(orders, noise)).toEqual(target);
  });

  test("is made of what was remembered of the version before, and of nothing that is broken", async () => {
    const memory = join(directory, "memory");
    const first = Buffer.from(noise);
    first[CHUNK_BYTES + 5]! ^= 1;
    const name = (n: number) => n.toString(16).padStart(64, "0");
    await saveCachedLayer(
      memory,
      name(1),
      first,
      blockHashes(first, CHUNK_BYTES),
      blockHashes(noise, CHUNK_BYTES),
    );
    const remembered = (await loadCachedLayer(memory, name(1)))!;
    const base: DeltaBase = { size: first.length, blocks: () => undefined, ...remembered };
    const target = edited(first.subarray(0, 2 * CHUNK_BYTES), CHUNK_BYTES + 900, "more");
    // Only the chunk that differed was kept; the one behind it is sent.
    const orders = computeDelta(target, base);
    expect(apply(orders, first)).toEqual(target);
    expect(sent(orders)).toBeLessThan(1000);
    const path = join(memory, name(1));
    const bytes = await Bun.file(path).bytes();
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path, bytes);
    expect(await loadCachedLayer(memory, name(1))).toBeUndefined();
    for (let i = 2; i < 20; i += 1)
      await saveCachedLayer(memory, name(i), first.subarray(0, i), [String(i)], []);
    expect(readdirSync(memory).length).toBe(8);
  });
});

describe("a host", () => {
  test.each([
    "shop",
    "deploy@shop.example",
    "root@10.0.0.1",
    "shop_1",
    "ssh://deploy@shop:2222",
    "[fe80::1%eth0]",
    "a.b+c@x",
  ])("%p is one", (host) => expect(parseHost(host)).toBe(host));
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
  ])("%p is none", (host) => expect(() => parseHost(host)).toThrow("is no host"));
});

test("kustomize there gets every file that the overlay names, and none beside", () => {
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

test("a node takes pods that neither a taint nor a nodeSelector keeps away", () => {
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
  // Somebody else's image is pulled from where it is.
  expect(names(workload({}, "docker.io/library/redis:8"))).toEqual([]);
});

test("the documented sudoers lines allow exactly the commands that run as root on the host", async () => {
  const scripts = [bootstrapScript("01234567")];
  const layers = ["a", "b"].map((digit, i) => ({
    digest: `sha256:${digit.repeat(64)}`,
    size: i + 1,
    mediaType: "tar",
  }));
  const line = {
    host: "shop",
    there: async () => ({ boot: "", directory: "/tmp/slipway-1.x", sudo: "sudo -n ", api: undefined }),
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
  await writeArchive(archive, { service, platform, dist: join(directory, "dist"), names: ["helloapp:x"] });
  const depot = new RemoteContainerd(line, join(directory, "none"));
  expect(
    (await depot.deliver(await ImageUpload.open(archive), `sha256:${"c".repeat(64)}`, () => {})).whole,
  ).toBeUndefined();
  await depot.deliver(await ImageUpload.open(archive), undefined, () => {});
  await depot.ctr(["images", "ls"]);
  await depot.ctr(["images", "rm", "docker.io/library/helloapp:0123456789ab", "sha256:abc"]);
  const asRoot = scripts
    .flatMap((script) =>
      [...script.matchAll(/(?:sudo -n |\$\{sudo\})([^|;)\n&<>]*)/g)].map(([, command]) => command!),
    )
    .map((command) => command.replaceAll(/["']/g, "").replaceAll("$1", "0".repeat(64)).trim())
    // Not where the word is laid down.
    .filter(Boolean);
  const page = readFileSync(join(root, "ci/slipway/docs/how-to/ssh-without-root.md"), "utf8");
  const entry = /^deploy ALL=\(root\) NOPASSWD: ([^]*?)\n```/m.exec(page)![1]!;
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
  const refused = [...new Set(asRoot)].filter(
    (command) => !allowed.some((pattern) => allows(pattern, command)),
  );
  expect(refused).toEqual([]);
  const unused = allowed.filter((pattern) => !asRoot.some((command) => allows(pattern, command)));
  expect(unused).toEqual([]);
});

test("what is sent is told in bytes, a rate and the time left", () => {
  expect(formatTransferProgress(5_000_000, 115_000_000, 4)).toBe("5.0 MB of 115.0 MB, 1.3 MB/s, 88 s left");
  expect(formatTransferProgress(0, 18_000, 0)).toBe("0 kB of 18 kB, 0 kB/s");
});
