/**
 * Alters archives at random. If the reader accepts an archive, it must be the same image for skopeo and containerd, and
 * reading must be fast and use little memory. MUTATIONS sets the number of archives, MUTATIONS_SEED the seed.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join as joinPath } from "node:path";
import { gzipSync } from "node:zlib";
import { sha256 } from "../../core/hash.ts";
import { FrameCache } from "../../image/frame-cache.ts";
import { compressLayer, type LayerPart } from "../../image/layer-frames.ts";
import { mutate, randomOf } from "../mutate-archive.ts";
import { image, join, layout, part, split, type Part } from "../edit-tar.ts";
import { describeWith, eventually, must, sh, temporaryDirectory } from "./setup.ts";
import type { Verdict } from "./compare-archives.ts";

setDefaultTimeout(1_200_000);

const COUNT = Number(process.env.MUTATIONS ?? 200);
const SEED = Number(process.env.MUTATIONS_SEED ?? 20261124);
/** Every n-th refused archive is also read by the tools, to log how strict the reader is. */
const SAMPLE = 20;
const MAX_MILLISECONDS = 2_000;
const MAX_MEMORY_BYTES = 200e6;

describeWith("altered archives", ["containerd", "ctr", "skopeo"], () => {
  const directory = temporaryDirectory();
  const socket = joinPath(directory, "containerd.sock");
  const at = (name: string) => joinPath(directory, name);
  let daemon: Bun.Subprocess;

  beforeAll(async () => {
    const config = at("config.toml");
    writeFileSync(
      config,
      `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${socket}"
`,
    );
    daemon = Bun.spawn(["containerd", "--config", config], { stdout: "ignore", stderr: Bun.file(at("log")) });
    await eventually(async () => sh(["ctr", "--address", socket, "version"]).code === 0 || undefined);
  });
  afterAll(async () => {
    daemon.kill();
    await daemon.exited;
  });

  const binary = (text: string) => [[part("lib/libc", "libc")], [part("helloapp", text.repeat(500))]];
  const [good, evil] = [binary("good"), binary("evil")];
  const reference = at("good.tar");
  const diffIds = () => {
    const parts = image(good);
    return JSON.parse(parts.at(-2)!.content.toString()).rootfs.diff_ids as string[];
  };

  /** Returns the archives to alter, each with another image in the same format. */
  async function originals(): Promise<[Part[], Part[]][]> {
    const bySkopeo = (layers: Part[][], name: string) => {
      writeFileSync(at("plain.tar"), join(image(layers)));
      const target = `docker-archive:${at(name)}:helloapp:0123456789ab`;
      must(["skopeo", "copy", "--quiet", "--insecure-policy", `docker-archive:${at("plain.tar")}`, target]);
      return split(readFileSync(at(name)));
    };
    const zstd = { store: (tar: Uint8Array) => Bun.zstdCompressSync(tar) };
    const gzip = { store: (tar: Uint8Array) => gzipSync(tar) };
    const framed = async (layers: Part[][]) => {
      const stored = new Map<string, Uint8Array>();
      for (const tar of layers.map(join)) {
        // The end of a part can lie anywhere.
        const parts = [tar.subarray(0, 700), tar.subarray(700)].map((bytes, i) => ({
          bytes,
          cut: i === 0 ? "fixed" : "fine",
        }));
        stored.set(
          sha256(tar),
          Buffer.concat(await compressLayer(parts as LayerPart[], new FrameCache(9, at("frames")))),
        );
      }
      return image(layers, { store: (tar) => stored.get(sha256(tar))! });
    };
    return [
      [image(good), image(evil)],
      [image(good, zstd), image(evil, zstd)],
      [image(good, gzip), image(evil, gzip)],
      [layout(image(good)), layout(image(evil))],
      [bySkopeo(good, "skopeo-good.tar"), bySkopeo(evil, "skopeo-evil.tar")],
      [await framed(good), await framed(evil)],
    ];
  }

  interface Image {
    config: string;
    layers: string[];
  }

  /** Reads the image with skopeo, which unpacks layers, so that they have their diffIDs. @returns a text if refused */
  function bySkopeo(file: string): Image | string {
    const target = at("skopeo");
    rmSync(target, { recursive: true, force: true });
    const { code, output } = sh([
      "skopeo",
      "copy",
      "--quiet",
      "--insecure-policy",
      `docker-archive:${file}`,
      `dir:${target}`,
    ]);
    if (code !== 0) return output.trim();
    const { config, layers } = JSON.parse(readFileSync(joinPath(target, "manifest.json"), "utf8"));
    return { config: config.digest, layers: layers.map((layer: { digest: string }) => layer.digest) };
  }

  /** Reads the image with containerd, which compares unpacked layers with the config's diffIDs. */
  function byContainerd(file: string, namespace: string): Image | string {
    const ctr = (...args: string[]) => sh(["ctr", "--address", socket, "--namespace", namespace, ...args]);
    const { code, output } = ctr("images", "import", file);
    if (code !== 0) return output.trim();
    const digests = ctr("images", "ls").stdout.match(/sha256:[0-9a-f]{64}/g) ?? [];
    if (new Set(digests).size !== 1) return `${digests.length} images`;
    const { config } = JSON.parse(ctr("content", "get", digests[0]!).stdout);
    const { rootfs } = JSON.parse(ctr("content", "get", config.digest).stdout);
    return { config: config.digest, layers: rootfs.diff_ids };
  }

  test(`${COUNT} with the seed ${SEED}`, async () => {
    writeFileSync(reference, join(image(good)));
    const verdictOf = async (file: string): Promise<Verdict> => {
      const child = Bun.spawn([process.execPath, joinPath(import.meta.dir, "compare-archives.ts"), reference, file], {
        stdout: "pipe",
        stderr: "pipe",
        timeout: 30_000,
        killSignal: "SIGKILL",
      });
      const text = await new Response(child.stdout).text();
      await child.exited;
      const message = async () => `exit ${child.exitCode}: ${await new Response(child.stderr).text()}`;
      return text
        ? JSON.parse(text)
        : { genuine: false, why: await message(), milliseconds: Infinity, memory: Infinity };
    };

    const pairs = await originals();
    for (const [i, [parts]] of pairs.entries()) {
      writeFileSync(at("original.tar"), join(parts));
      expect(await verdictOf(at("original.tar")), `original ${i}`).toMatchObject({ genuine: true, why: "" });
    }

    const random = randomOf(SEED);
    mkdirSync(at("altered"));
    const wrong: string[] = [];
    const count = {
      genuine: 0,
      refused: 0,
      "refused, but accepted by both tools": 0,
      "refused, and read by the tools": 0,
    };
    const peak = { milliseconds: 0, memory: 0 };
    const judge = async (i: number, how: string, file: string) => {
      const verdict = await verdictOf(file);
      const report = (what: string) => wrong.push(`${i}, ${how}: ${what}`);
      peak.milliseconds = Math.max(peak.milliseconds, verdict.milliseconds);
      peak.memory = Math.max(peak.memory, verdict.memory);
      if (verdict.milliseconds > MAX_MILLISECONDS) report(`took ${verdict.milliseconds} ms: ${verdict.why}`);
      if (verdict.memory > MAX_MEMORY_BYTES) report(`took ${verdict.memory} bytes of memory`);
      count[verdict.genuine ? "genuine" : "refused"] += 1;
      if (!verdict.genuine && i % SAMPLE !== 0) return;
      const expected: Image = { config: `sha256:${verdict.config}`, layers: diffIds() };
      const found = { skopeo: bySkopeo(file), containerd: byContainerd(file, `n${i}`) };
      const same = Object.values(found).every((one) => Bun.deepEquals(one, expected));
      if (verdict.genuine && !same) report(`genuine, but ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
      if (!verdict.genuine) {
        count["refused, and read by the tools"] += 1;
        if (same) count["refused, but accepted by both tools"] += 1;
      }
    };
    // Two workers, because the tools are processes.
    let next = 0;
    const worker = async () => {
      while (next < COUNT) {
        const i = next++;
        const [good, evil] = pairs[Math.floor(random() * pairs.length)]!;
        const { how, bytes } = mutate(good, evil, random);
        const file = at(`altered/${i}.tar`);
        writeFileSync(file, bytes);
        await judge(i, how, file);
        rmSync(file);
      }
    };
    await Promise.all([worker(), worker()]);
    console.log(
      `${COUNT} altered archives: ${JSON.stringify(count)}; at most ${Math.round(peak.milliseconds)} ms and ` +
        `${Math.round(peak.memory / 1e6)} MB`,
    );
    expect(wrong).toEqual([]);
    expect(count.genuine).toBeGreaterThan(0);
  });
});
