/** Tests that archives of all known writers are read, and that ambiguous archives are refused. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { gzipSync } from "node:zlib";
import { sha256 } from "../core/hash.ts";
import { diffImages, readImage } from "../image/compare.ts";
import { readArchiveIndex } from "../image/docker-archive-reader.ts";
import { Decompressor } from "../image/decompress.ts";
import { listTar } from "../image/tar-reader.ts";
import { image, join, layout, manifestOf, named, nameOf, part, pax, replaced, split, withFields } from "./edit-tar.ts";
import type { Part } from "./edit-tar.ts";

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(joinPath(tmpdir(), "helloapp-archive-"))));
afterAll(() => rm(directory, { recursive: true }));

const write = async (bytes: Uint8Array) => {
  const path = joinPath(directory, "x.tar");
  await writeFile(path, bytes);
  return path;
};
const read = async (parts: Part[]) => readArchiveIndex(await write(join(parts)));
/** Returns the error message, or "" for success. */
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => "",
    (error: Error) => error.message,
  );

const app = (content: string) => image([[part("lib/libc", "libc")], [part("helloapp", content)]]);
const good = app("good");
const other = app("other");
const json = (value: unknown) => JSON.stringify(value);
const { Config, Layers, RepoTags } = manifestOf(good);
const config = named(good, Config).content.toString();
/** Replaces manifest.json in the good archive. */
const withManifest = (text: string) => replaced(good, { "manifest.json": text });
const hex = "0".repeat(64);

describe("refuses ambiguous archives and names the entry", () => {
  const link = (path: string, to: string) => part(path, "", { 156: "2", 157: to });
  const renamed = (name: string, to: string) =>
    good.map((one) => (nameOf(one) === name ? withFields(one, { 0: to.padEnd(100, "\0") }) : one));

  test.each<[string, Part[], string]>([
    ["a layout of another image", layout(good, other), "another image"],
    [
      "the same, added behind",
      [...good, ...layout(other).filter((one) => nameOf(one) !== "manifest.json")],
      "index.json",
    ],
    ["an index without a layout", [...good, named(layout(other), "index.json")], "oci-layout"],
    ["a layout without an index", [...good, named(layout(good), "oci-layout")], "index.json"],
    ["a second manifest.json, first", [named(other, "manifest.json"), ...good], "manifest.json twice"],
    ["a second manifest.json, last", [...good, named(other, "manifest.json")], "manifest.json twice"],
    ["a layer twice", [...good, good[0]!], `${Layers[0]} twice`],
    ["./manifest.json", [part("./manifest.json", "[]"), ...good], "./manifest.json"],
    ["/manifest.json", [part("/manifest.json", "[]"), ...good], "/manifest.json"],
    ["x/../manifest.json", [part("x/../manifest.json", "[]"), ...good], "x/../manifest.json"],
    ["an unknown entry", [...good, part("more", "x")], "more"],
    ["unreferenced blobs", [...good, part(`blobs/sha256/${hex}`, "x")], `blobs/sha256/${hex}`],
    ["an unreferenced layer", [...good, part(`${hex}/layer.tar`, "x")], `${hex}/layer.tar`],
    ["a dangling link", [...good, link(`${hex}/layer.tar`, "../x")], `${hex}/layer.tar`],
    ["a device", [...good, part("null", "", { 156: "3" })], "null"],
    ["a manifest.json that is a link", [...renamed("manifest.json", "m"), link("manifest.json", "m")], "manifest.json"],
    [
      "a hard link for a config",
      good.map((one) => (nameOf(one) === Config ? part(Config, "", { 156: "1", 157: "x" }) : one)),
      Config,
    ],
    ["a file with the mode of a link", [withFields(good[0]!, { 100: "0120644\0" }), ...good.slice(1)], Layers[0]!],
    ["a pax header", [part("pax", pax("path", "manifest.json"), { 156: "x" }), ...good], "pax"],
    ["a global pax header", [part("pax", pax("path", "manifest.json"), { 156: "g" }), ...good], "pax"],
    ["GNU's long name", [part("././@LongLink", "manifest.json\0", { 156: "L" }), ...good], "@LongLink"],
    ["a name with a prefix", [withFields(part("json", "[]"), { 345: "manifest" }), ...good], "json"],
    ["two images", withManifest(json([{ Config, RepoTags, Layers }, manifestOf(other)])), "manifest.json"],
    ["no image", withManifest("[]"), "manifest.json"],
    ["a key in another case", withManifest(json([{ Config, RepoTags, Layers, config: "x" }])), "manifest.json"],
    ["a key twice", withManifest(`[{"Config":"x",${json({ Config, RepoTags, Layers }).slice(1)}]`), "manifest.json"],
    ["a config's key in another case", replaced(good, { [Config]: config.replace(`"os"`, `"OS":"x","os"`) }), Config],
    ["a config's key twice", replaced(good, { [Config]: config.replace(`"os"`, `"os":"x","os"`) }), Config],
    ["a byte order mark", withManifest("\ufeff[]"), "manifest.json"],
    [
      "a document of over 1 MiB",
      withManifest(json([{ Config, RepoTags, Layers }]) + " ".repeat(1 << 20)),
      "manifest.json",
    ],
  ])("%s", async (_, parts, entry) => {
    expect(await failure(read(parts))).toContain(entry);
  });

  test.each<[string, (index: Record<string, any>) => unknown]>([
    ["a nested index", (index) => (index.manifests[0].mediaType = "application/vnd.oci.image.index.v1+json")],
    ["a second image", (index) => index.manifests.push({ ...index.manifests[0], digest: `sha256:${hex}` })],
    ["another name", (index) => (index.manifests[0].annotations["io.containerd.image.name"] = "docker.io/library/x:1")],
    ["another platform", (index) => (index.manifests[0].platform = { os: "linux", architecture: "arm64" })],
    ["embedded content", (index) => (index.manifests[0].data = "e30=")],
    ["another size", (index) => (index.manifests[0].size += 1)],
  ])("a layout with %s", async (_, change) => {
    const parts = layout(good);
    const index = JSON.parse(named(parts, "index.json").content.toString());
    change(index);
    expect(await failure(read(replaced(parts, { "index.json": json(index) })))).not.toBe("");
  });

  // Found by corrupt-archives.test.ts: containerd does not check whether an OCI layer is compressed.
  test.each(["oci.image.layer.v1.tar+gzip", "oci.image.layer.v1.tar+zstd", "docker.image.rootfs.diff.tar.zstd", "x"])(
    "a layout with the wrong layer type %s",
    async (type) => {
      expect(await failure(read(layout(good, good, type)))).toContain(type);
    },
  );

  test("a directory, and a truncated archive", async () => {
    expect(await failure(readArchiveIndex(directory))).toContain("it is not a file");
    const bytes = join(good);
    const path = await write(bytes);
    // Truncates the end marker, the padding and the last entry.
    for (const less of [1, 600, 1024, 1025, 1600]) {
      await writeFile(path, bytes.subarray(0, -less));
      expect(await failure(readArchiveIndex(path)), `${less}`).toContain("truncated");
    }
    await writeFile(path, Buffer.concat([bytes, Buffer.alloc(9216), Buffer.of(1)]));
    expect(await failure(readArchiveIndex(path))).toContain("data after its end");
    await writeFile(path, bytes);
    await truncate(path, 2 ** 32);
    expect(await failure(readArchiveIndex(path))).toContain("after its end");
  });
});

describe("sizes", () => {
  const sized = (size: string | Uint8Array) => join([part("first", "x", { 124: size }), part("second")]);
  const binary = (value: bigint) => {
    const field = Buffer.from(BigInt.asUintN(96, value).toString(16).padStart(24, "0"), "hex");
    field[0]! |= 0x80;
    return field;
  };

  test.each<[string, string | Uint8Array]>([
    ["negative", binary(-512n)],
    ["the minimum", binary(-(2n ** 94n))],
    ["larger than a safe integer", binary(2n ** 80n)],
    ["larger than the file", "00000100000\0"],
    ["a sign", "-0000000001\0"],
    ["not octal", "00000000008\0"],
    ["letters", "size\0\0\0\0\0\0\0\0"],
    ["two numbers", "1 1\0\0\0\0\0\0\0\0\0"],
  ])("refuses a size that is %s and names the entry", (_, size) => {
    expect(() => listTar("x", sized(size))).toThrow("first");
  });

  test("accepts binary sizes, and octal sizes without leading zeros", () => {
    for (const size of [binary(1n), "1          \0", "          1\0", "1\0\0\0\0\0\0\0\0\0\0\0"])
      expect(listTar("x", sized(size)).map(({ size }) => size)).toEqual([1, 0]);
  });
});

describe("extensions in layers", () => {
  test("reads long names (prefix, pax, GNU), and links and sizes (pax)", () => {
    const long = "a/".repeat(80) + "b";
    const entries = listTar(
      "x",
      join([
        withFields(part("b", "1"), { 345: "p/q" }),
        part("pax", pax("path", long) + pax("size", "2") + pax("uid", "3000000") + pax("mtime", "-1.5"), {
          156: "x",
        }),
        part("short", "22", { 124: "00000000000" }),
        part("././@LongLink", `${long}\0`, { 156: "L" }),
        part("././@LongLink", `${long}\0`, { 156: "K" }),
        part("short", "", { 156: "2", 157: "x" }),
        part("pax", pax("comment", "a commit"), { 156: "g" }),
        part("last"),
      ]),
    );
    expect(entries.map(({ path, size, uid, link, mtime }) => ({ path, size, uid, link, mtime }))).toEqual([
      { path: "p/q/b", size: 1, uid: 0, link: undefined, mtime: 0 },
      { path: long, size: 2, uid: 3_000_000, link: undefined, mtime: -2 },
      { path: long, size: 0, uid: 0, link: long, mtime: 0 },
      { path: "last", size: 0, uid: 0, link: undefined, mtime: 0 },
    ]);
  });

  test.each<[string, Part[]]>([
    ["a malformed record", [part("pax", "8 path=x\n", { 156: "x" }), part("a")]],
    ["an invalid size", [part("pax", pax("size", "-1"), { 156: "x" }), part("a")]],
    ["a global name", [part("pax", pax("path", "x"), { 156: "g" }), part("a")]],
    ["a header without an entry", [part("pax", pax("path", "x"), { 156: "x" })]],
    ["a sparse file", [part("a", "x", { 156: "S" })]],
    ["a sparse file (pax)", [part("pax", pax("GNU.sparse.major", "1"), { 156: "x" }), part("a")]],
    ["a path outside the root", [part("../a")]],
    ["a link with content", [part("a", "x", { 156: "2", 157: "b" })]],
  ])("refuses %s", (_, parts) => {
    expect(() => listTar("x", join(parts))).toThrow("x");
  });
});

describe("decompression", () => {
  const zeros = Buffer.alloc(2 ** 26);
  const tar = join([part("a", "x".repeat(5000))]);
  const [gzip, zstd] = [gzipSync(tar), Bun.zstdCompressSync(tar)];
  const unpack = (bytes: Uint8Array) => new Decompressor(bytes.length).unpack(new Uint8Array(bytes));

  test.each<[string, Uint8Array]>([
    ["gzip", gzipSync(zeros)],
    ["zstd", Bun.zstdCompressSync(zeros)],
    [
      "zstd in many frames",
      Buffer.concat(Array.from({ length: 100 }, () => Bun.zstdCompressSync(zeros.subarray(0, 2 ** 20)))),
    ],
  ])("stops at a ratio of 1000: %s", async (_, bytes) => {
    expect(await failure(unpack(bytes))).toContain("larger than 16777216 bytes");
  });

  test("layers share the size limit of the image", async () => {
    const unpacker = new Decompressor(0);
    const ten = new Uint8Array(Bun.zstdCompressSync(zeros.subarray(0, 10e6)));
    await unpacker.unpack(ten);
    expect(await failure(unpacker.unpack(ten))).toContain("larger than 6777216 bytes");
  });

  const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7]);
  test.each<[string, Uint8Array]>([
    ["gzip", gzip],
    ["zstd", zstd],
    ["zstd with a frame to skip", Buffer.concat([zstd, skippable])],
  ])("accepts %s", async (_, bytes) => {
    expect(Buffer.compare(await unpack(bytes), tar)).toBe(0);
  });
  test.each<[string, Uint8Array]>([
    ["truncated gzip", gzip.subarray(0, -3)],
    ["truncated zstd", zstd.subarray(0, -3)],
    ["gzip followed by zeros", Buffer.concat([gzip, Buffer.alloc(9)])],
    ["gzip followed by text", Buffer.concat([gzip, Buffer.from("something")])],
    ["zstd followed by zeros", Buffer.concat([zstd, Buffer.alloc(9)])],
    ["zstd followed by text", Buffer.concat([zstd, Buffer.from("something")])],
  ])("refuses %s", async (_, bytes) => {
    expect(await failure(unpack(bytes))).not.toBe("");
  });
});

describe("reads archives of all writers", () => {
  const layerName = (i: number) => `${String(i).repeat(64)}/layer.tar`;
  const documents = [0, 1].flatMap((i) => [
    part(`${String(i).repeat(64)}/VERSION`, "1.0"),
    part(`${String(i).repeat(64)}/json`, "{}"),
  ]);
  /** podman, buildah and skopeo: layers, and links at the legacy paths. */
  const podman = [
    ...good,
    ...documents,
    ...Layers.map((name, i) => part(layerName(i), "", { 156: "2", 157: `../${name}` })),
    part("repositories", "{}"),
  ];
  /** docker before 25: layers in directories. */
  const docker = [
    ...Layers.flatMap((name, i) => [
      part(`${String(i).repeat(64)}/`, "", { 156: "5" }),
      part(layerName(i), named(good, name).content),
    ]),
    ...documents,
    named(good, Config),
    part("manifest.json", json([{ Config, RepoTags, Layers: [layerName(0), layerName(1)] }])),
    part("repositories", "{}"),
  ];
  const legacy = json({ id: hex, created: "1970-01-01T00:00:00Z" });

  test.each<[string, Part[]]>([
    ["this pipeline", good],
    ["podman, buildah, skopeo", podman],
    ["docker before 25", docker],
    ["docker since 25, containerd", layout(good)],
    ["containerd with docker's types", layout(good, good, "docker.image.rootfs.diff.tar.gzip")],
    ["docker with layer configs from before 2016", [...layout(good), part(`blobs/sha256/${sha256(legacy)}`, legacy)]],
    ["entries in reverse order", layout(good).toReversed()],
    ["podman's name", withManifest(json([{ Config, RepoTags: [`localhost/${RepoTags[0]}`], Layers }]))],
    ["skopeo's name", withManifest(json([{ Config, RepoTags: [`docker.io/library/${RepoTags[0]}`], Layers }]))],
  ])("%s", async (_, parts) => {
    const expected = await readImage(await write(join(good)));
    const found = await readImage(await write(join(parts)));
    expect(found.damage).toEqual([]);
    expect(diffImages(expected, found)).toEqual([]);
  });

  test("reads a repeated layer, listed twice or linked by docker", async () => {
    const layer = [part("a", "x")];
    const twice = image([layer, layer]).slice(1);
    const [name] = manifestOf(twice).Layers;
    const linked = [
      part(layerName(0), named(twice, name!).content),
      part(layerName(1), "", { 156: "2", 157: `../${layerName(0)}` }),
      ...replaced(twice.slice(1), {
        "manifest.json": json([{ ...manifestOf(twice), Layers: [layerName(0), layerName(1)] }]),
      }),
    ];
    for (const parts of [twice, linked]) {
      const { layers, damage } = await readImage(await write(join(parts)));
      expect(damage).toEqual([]);
      expect(layers[1]!.bytes).toBe(layers[0]!.bytes);
    }
  });

  test("reports blobs that do not match the digest in their name as damaged", async () => {
    const parts = layout(good);
    const [layer] = manifestOf(parts).Layers;
    const bytes = Buffer.from(named(parts, layer!).content);
    bytes[512]! ^= 1;
    const { damage } = await readImage(await write(join(replaced(parts, { [layer!]: bytes }))));
    expect(damage.join("\n")).toContain(`the layer ${layer} is damaged`);
  });

  test("split() and join() are inverse", () => {
    expect(Buffer.compare(join(split(join(good))), join(good))).toBe(0);
  });
});
