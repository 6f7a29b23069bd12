/** Tests the description of differences between two images, with small images that differ in one aspect. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { diffImages, firstDifference, readImage, type ImageContent } from "../image/compare.ts";
import { PipelineError } from "../core/errors.ts";
import { TAR_END, tarHeader, tarPadding } from "../image/tar-writer.ts";
import { sha256 } from "../core/hash.ts";
import { image } from "./helloapp-service.ts";

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "helloapp-test-"))));
afterAll(() => rm(directory, { recursive: true }));

interface Entry {
  path: string;
  content?: string;
  mode?: number;
  /** Header fields by offset. */
  fields?: Record<number, string>;
}

function entryOf({ path, content = "", mode = 0o755, fields = {} }: Entry): Uint8Array {
  const bytes = Buffer.from(content);
  const type = path.endsWith("/") ? "directory" : "file";
  const header = Buffer.from(tarHeader({ path, type, mode, size: bytes.length }));
  for (const [offset, text] of Object.entries(fields)) header.write(text, Number(offset), "latin1");
  header.fill(" ", 148, 156);
  const sum = header.reduce((sum, byte) => sum + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return Buffer.concat([header, bytes, tarPadding(bytes.length)]);
}

const tar = (entries: Entry[]) => Buffer.concat([...entries.map(entryOf), TAR_END]);

const runtime: Entry[] = [{ path: "lib/" }, { path: "lib/libc", content: "the C library" }];
const app: Entry[] = [{ path: image.binary.slice(1), content: "the binary" }];

interface Making {
  layers?: Uint8Array[];
  store?: (layer: Uint8Array) => Uint8Array;
  labels?: Record<string, string>;
  diffIds?: string[];
  configName?: string;
}

/** Writes an image. @returns its path */
async function make(
  name: string,
  {
    layers = [tar(runtime), tar(app)],
    store = (layer) => layer,
    labels = { version: "1" },
    diffIds = layers.map((layer) => `sha256:${sha256(layer)}`),
    configName,
  }: Making = {},
): Promise<string> {
  const config = JSON.stringify({
    architecture: "amd64",
    os: "linux",
    config: { Labels: labels, Cmd: null },
    rootfs: { type: "layers", diff_ids: diffIds },
  });
  const Config = configName ?? `${sha256(Buffer.from(config))}.json`;
  const manifest = [{ Config, RepoTags: ["helloapp:abc"], Layers: layers.map((_, i) => `${i}.tar`) }];
  const outer = (path: string, content: Uint8Array) =>
    Buffer.concat([
      tarHeader({ path, type: "file", mode: 0o644, size: content.length }),
      content,
      tarPadding(content.length),
    ]);
  const path = join(directory, `${name}.tar`);
  const stored = layers.map((layer, i) => outer(`${i}.tar`, store(layer)));
  const texts = [outer(Config, Buffer.from(config)), outer("manifest.json", Buffer.from(JSON.stringify(manifest)))];
  await writeFile(path, Buffer.concat([...stored, ...texts, TAR_END]));
  return path;
}

const imageOf = async (name: string, making?: Making) => readImage(await make(name, making));
/** Creates an image whose app layer has these files. */
const withApp = (entries: Entry[]) => imageOf("other", { layers: [tar(runtime), tar(entries)] });

let good: ImageContent;
beforeAll(async () => void (good = await imageOf("good")));

describe("equal images", () => {
  const halves = (layer: Uint8Array) => [layer.subarray(0, 700), layer.subarray(700)];

  test.each<[string, (layer: Uint8Array) => Uint8Array]>([
    ["as it is", (layer) => layer],
    ["gzip", (layer) => Bun.gzipSync(layer as Uint8Array<ArrayBuffer>)],
    ["gzip in two members", (layer) => Buffer.concat(halves(layer).map((half) => Bun.gzipSync(Buffer.from(half))))],
    ["zstd", (layer) => Bun.zstdCompressSync(layer)],
    ["zstd in two frames", (layer) => Buffer.concat(halves(layer).map((half) => Bun.zstdCompressSync(half)))],
  ])("with layers stored as %s", async (_, store) => {
    const stored = await imageOf("stored", { store });
    expect(stored.damage).toEqual([]);
    expect(diffImages(good, stored)).toEqual([]);
    expect(stored.layers.map(({ name, entries }) => [name, entries.length])).toEqual([
      ["runtime", 2],
      ["app", 1],
    ]);
  });
});

describe("differences", () => {
  const [binary] = app as [Entry];

  test.each<[string, Entry[], string]>([
    ["a file that is not there", [], "/helloapp is missing"],
    ["an additional file", [...app, { path: "x" }], "/x is unexpected"],
    ["mode", [{ ...binary, mode: 0o4711 }], "/helloapp: mode 4711, not 0755"],
    ["owner", [{ ...binary, fields: { 108: "0001750\0", 116: "0000144\0" } }], "/helloapp: owner 1000:100, not 0:0"],
    [
      "time",
      [{ ...binary, fields: { 136: "00000000074\0" } }],
      "/helloapp: time 1970-01-01T00:01:00.000Z, not 1970-01-01T00:00:00.000Z",
    ],
    ["bytes", [{ ...binary, content: "the bINary" }], "/helloapp: bytes differ, the first at offset 5"],
    [
      "size",
      [{ ...binary, content: "the binary!" }],
      "/helloapp: size 11 bytes, not 10; bytes differ, the first at offset 10",
    ],
    ["type", [{ path: "helloapp/" }], "/helloapp: type directory, not file; size 0 bytes"],
    [
      "a link",
      [{ path: "helloapp", fields: { 156: "2", 157: "sh" } }],
      "/helloapp: type symbolic link to sh, not file",
    ],
    ["a device", [{ path: "helloapp", fields: { 156: "3" } }], "/helloapp: type special file, not file"],
  ])("%s", async (_, entries, expected) => {
    const found = diffImages(good, await withApp(entries));
    expect(found).toHaveLength(2);
    expect(found[0]).toMatch(/^app: diffID [0-9a-f]{12}, not [0-9a-f]{12}$/);
    expect(found[1]).toStartWith(`app: ${expected}`);
  });

  test("reports another order of the same files", async () => {
    const layers = [tar(runtime.toReversed()), tar(app)];
    expect(diffImages(good, await imageOf("order", { layers }))).toEqual([
      expect.stringMatching(/^runtime: diffID /),
      "runtime: its files are identical, but the tar differs from byte 4 on, in the header of /lib/",
    ]);
  });

  test("reports the position of a bit in an ignored field", async () => {
    const layer = tar(app);
    layer[512 + 300] = 1;
    const found = diffImages(good, await imageOf("padding", { layers: [tar(runtime), layer] }));
    expect(found.at(-1)).toBe("app: its files are identical, but the tar differs from byte 812 on, after /helloapp");
  });

  test("reports differences of the config with their JSON path", async () => {
    expect(diffImages(good, await imageOf("labels", { labels: { version: "2", more: "x" } }))).toEqual([
      'config: config.Labels.version is "2", not "1"',
      'config: config.Labels.more is unexpected: "x"',
    ]);
    expect(diffImages(good, await imageOf("labels", { labels: {} }))).toContain(
      'config: config.Labels.version is missing: "1"',
    );
  });

  test("treats empty config values like missing values", async () => {
    const { config } = good;
    const unset = {
      ...config,
      config: { ...config.config, Cmd: undefined, OnBuild: [], Tty: false, Image: "" },
    };
    expect(diffImages(good, { ...good, config: unset })).toEqual([]);
  });

  test("compares the files of all layers if the number of layers differs", async () => {
    const one = [tar([...runtime, { path: "helloapp", content: "the bINary" }])];
    const found = await imageOf("one", { layers: one });
    expect(found.layers[0]!.name).toBe("layer 1");
    expect(diffImages(good, found)).toEqual(["1 layer, not 2", "/helloapp: bytes differ, the first at offset 5"]);
  });

  test("compares modes, but not sizes and bytes, with `content: false`", async () => {
    const other = await withApp([{ ...binary, content: "another", mode: 0o700 }]);
    expect(diffImages(good, other, { content: false })).toEqual(["app: /helloapp: mode 0700, not 0755"]);
  });

  test.each<[number, number, number | undefined]>([
    [100_000, 100_000, undefined],
    [100_000, 99_999, 99_999],
    [0, 0, undefined],
    [0, 1, 0],
  ])("%i and %i zeros differ first at %p", (one, other, expected) => {
    expect(firstDifference(new Uint8Array(one), new Uint8Array(other))).toBe(expected);
  });

  test("finds the first of several differences, also at a chunk border", () => {
    for (const at of [0, 65_535, 65_536, 99_999]) {
      const other = new Uint8Array(100_000);
      other.fill(1, at);
      expect(firstDifference(new Uint8Array(100_000), other)).toBe(at);
    }
  });
});

describe("damage", () => {
  const diffIds = [tar(runtime), tar(app)].map((layer) => `sha256:${sha256(layer)}`);
  const damaged = (at: number, store?: Making["store"]) => {
    const layer = tar(app);
    layer[at]! ^= 1;
    return imageOf("damaged", { layers: [tar(runtime), layer], diffIds, ...(store && { store }) });
  };

  test("reports layer, file and offset of a flipped bit", async () => {
    const found = await damaged(512 + 4);
    expect(found.damage).toEqual([expect.stringMatching(/^app is damaged: its diffID is /)]);
    expect(diffImages(good, found)).toContain("app: /helloapp: bytes differ, the first at offset 4");
  });

  test("reports a flipped bit in a header", async () => {
    const found = await damaged(130);
    expect(found.damage[0]).toContain(
      "app cannot be read: the tar of app is damaged: the checksum of the header at byte 0 does not match",
    );
    expect(diffImages(good, found)).toContain("app: differs from byte 130 on, in the header of /helloapp");
  });

  test("reports a flipped bit in a compressed layer", async () => {
    const store = (layer: Uint8Array) => {
      const bytes = Bun.gzipSync(Buffer.from(layer));
      bytes[bytes.length - 6]! ^= 1;
      return bytes;
    };
    const found = await imageOf("gzip", { store });
    expect(found.damage.join("\n")).toMatch(/^runtime cannot be read: .*\nruntime is damaged/);
  });

  test("reports a config that does not match the digest in its name", async () => {
    const found = await imageOf("config", { configName: `${"0".repeat(64)}.json` });
    expect(found.damage).toEqual([expect.stringContaining("config is damaged")]);
  });

  test.each<[string, () => Promise<Uint8Array | undefined>]>([
    ["none", async () => undefined],
    ["a text", async () => Buffer.from("text ".repeat(500))],
    ["an empty file", async () => new Uint8Array()],
    ["half an archive", async () => (await Bun.file(await make("half")).bytes()).subarray(0, 2048)],
    ["a tar of something else", async () => tar(runtime)],
    ["a config without diffIDs", async () => Bun.file(await make("no-ids", { diffIds: [] })).bytes()],
    ["a manifest of another form", async () => tar([{ path: "manifest.json", content: "[{}]" }])],
  ])("%s is an environment error that names the path", async (_, content) => {
    const path = join(directory, "unreadable");
    await rm(path, { force: true });
    const bytes = await content();
    if (bytes) await writeFile(path, bytes);
    const error = await readImage(path).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(PipelineError);
    expect((error as PipelineError).kind).toBe("environment");
    expect((error as PipelineError).message).toContain(path);
  });
});
