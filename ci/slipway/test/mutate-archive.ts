/** Corrupts archives at random with a seed, like an attacker who wants to pass off another image. */
import { gzipSync } from "node:zlib";
import { sha256 } from "../core/hash.ts";
import { decodeTable } from "../image/layer-frames.ts";
import { join, layout, manifestOf, named, nameOf, part, pax, replaced, withFields, type Part } from "./edit-tar.ts";

/** Creates a random number generator for [0, 1) with a seed: mulberry32, https://github.com/bryc/code. */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface Mutated {
  /** Name of the mutation. */
  how: string;
  bytes: Uint8Array;
}

const zeros = Buffer.alloc(2 ** 28);
const bombs = [
  gzipSync(zeros),
  Bun.zstdCompressSync(zeros),
  Buffer.concat(Array(20).fill(Bun.zstdCompressSync(zeros))),
];

/** Returns the frames of a layer, with the table as the last one. Another layer counts as one frame. */
function framesOf(layer: Uint8Array): Uint8Array[] {
  let at = 0;
  const frames = (decodeTable(layer, layer.length) ?? []).map(({ size }) => layer.subarray(at, (at += size)));
  return [...frames, layer.subarray(at)];
}

/** @param good the archive @param evil another image in the same form, under the same name */
export function mutate(good: Part[], evil: Part[], random: () => number): Mutated {
  const below = (end: number) => Math.floor(random() * end);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const insert = (added: Part[], at = below(good.length + 1)) => good.toSpliced(at, 0, ...added);
  const at = below(good.length);
  const one = good[at]!;
  const replaceEntry = (other: Part) => good.with(at, other);
  const manifest = manifestOf(good);
  const text = JSON.stringify([manifest]);
  const withManifest = (json: string | Uint8Array) => replaced(good, { "manifest.json": json });
  const name = (to: string) => ({ 0: to.padEnd(100, "\0").slice(0, 100) });
  const noise = (length: number) => Buffer.from(Array.from({ length }, () => below(256)));
  const digits = () =>
    below(2 ** 30)
      .toString(8)
      .padStart(11, "0") + "\0";
  const layer = pick(manifest.Layers);
  /** Replaces the content of a layer, and its name if that is a digest. */
  const withLayer = (content: Uint8Array) => {
    const to = layer.startsWith("blobs/") ? `blobs/sha256/${sha256(content)}` : layer;
    const parts = good.map((one) => (nameOf(one) === layer ? part(to, content) : one));
    return replaced(parts, { "manifest.json": text.replaceAll(layer, to) });
  };
  const withConfig = (json: string) => {
    const to = manifest.Config.startsWith("blobs/") ? `blobs/sha256/${sha256(json)}` : `${sha256(json)}.json`;
    const parts = good.map((one) => (nameOf(one) === manifest.Config ? part(to, json) : one));
    return replaced(parts, { "manifest.json": text.replace(manifest.Config, to) });
  };
  const config = named(good, manifest.Config).content.toString();
  const stored = named(good, layer).content;

  const mutations: Record<string, () => Part[] | Uint8Array> = {
    "a duplicated entry": () => insert([one]),
    "a duplicated entry with other content": () => insert([part(nameOf(one), pick([...good, ...evil]).content)]),
    "an entry of the other image first": () => insert([pick(evil)], 0),
    "an entry of the other image last": () => insert([pick(evil)], good.length),
    "a missing entry": () => good.toSpliced(at, 1),
    "a renamed entry": () => {
      const current = nameOf(one);
      const names = [
        `./${current}`,
        `/${current}`,
        `${current}/`,
        `x/../${current}`,
        current.toUpperCase(),
        `${current}\0x`,
        `x${current}`,
        "",
      ];
      return replaceEntry(withFields(one, name(pick(names))));
    },
    "an entry of the other image under another spelling": () => {
      const other = pick(evil);
      return insert([withFields(other, name(pick(["./", "/", "x/../", "//"]) + nameOf(other)))]);
    },
    "another order": () =>
      good
        .map((one) => [random(), one] as const)
        .sort(([a], [b]) => a - b)
        .map(([, one]) => one),
    "a truncated archive": () => join(good).subarray(0, below(join(good).length)),
    "a truncated end": () => join(good).subarray(0, -pick([1, 512, 1024, 1025, 1536])),
    "a changed size": () => {
      const binary = noise(12).fill(0, 1, 6);
      binary[0] = pick([0x80, 0xff]);
      const sizes = ["-0000000001\0", "00000000008\0", "1 1\0\0\0\0\0\0\0\0\0", "\0".repeat(12), digits()];
      const near = (one.content.length + pick([-1, 1, 512, -512])).toString(8).padStart(11, "0");
      return replaceEntry(withFields(one, { 124: pick([...sizes, `${near}\0`, binary, noise(12)]) }));
    },
    "the same size in another format": () => {
      const { length } = one.content;
      const binary = Buffer.alloc(12);
      binary.writeUInt32BE(length, 8);
      binary[0] = 0x80;
      const octal = length.toString(8);
      return replaceEntry(
        withFields(one, {
          124: pick([binary, octal.padStart(11) + "\0", octal.padEnd(12), octal.padEnd(12, "\0")]),
        }),
      );
    },
    "two swapped contents": () => {
      const other = below(good.length);
      const swapped = replaceEntry(part(nameOf(one), good[other]!.content));
      return swapped.with(other, part(nameOf(good[other]!), one.content));
    },
    "a changed header field": () => {
      const [offset, width] = pick([
        [0, 100],
        [100, 8],
        [108, 8],
        [116, 8],
        [136, 12],
        [156, 1],
        [157, 100],
        [257, 6],
        [263, 2],
        [265, 32],
        [297, 32],
        [329, 8],
        [337, 8],
        [345, 155],
        [500, 12],
      ] as const);
      const value = pick([
        noise(width),
        Buffer.alloc(width),
        Buffer.from(digits().slice(-width)),
        Buffer.of(below(256)),
      ]);
      return replaceEntry(withFields(one, { [offset]: value }));
    },
    "another type": () =>
      replaceEntry(withFields(one, { 156: pick([..."01234567LKSxgV", "\0"]), 157: nameOf(pick(good)) })),
    "a type in the mode": () =>
      replaceEntry(withFields(one, { 100: `${pick(["012", "010", "004", "002", "016"])}0644\0` })),
    "a name with a prefix": () => replaceEntry(withFields(one, { 345: pick(["x", ".", "blobs"]) })),
    "a pax header": () => {
      const [key, value] = pick([
        ["path", nameOf(pick(good))],
        ["path", "manifest.json"],
        ["path", "x"],
        ["size", String(below(9000))],
        ["linkpath", "x"],
        ["comment", "x"],
        ["mtime", "1.5"],
        ["GNU.sparse.major", "1"],
        ["GNU.sparse.name", "x"],
      ] as const);
      return insert([part("pax", pax(key, value), { 156: pick(["x", "g"]) })], at);
    },
    "a long name (GNU)": () =>
      insert([part("././@LongLink", `${nameOf(pick(good))}\0`, { 156: pick(["L", "K"]) })], at),
    "a layout of the other image": () => {
      const added = layout(evil).filter((one) => nameOf(one) !== "manifest.json");
      return pick([
        [...good, ...added],
        [...added, ...good],
      ]);
    },
    "a layout of the other image with this manifest.json": () => layout(good, evil),
    "part of a layout": () => insert([named(layout(pick([good, evil])), pick(["oci-layout", "index.json"]))]),
    "a layout of the same image": () => layout(good),
    "a layout with layers of another type": () =>
      layout(
        good,
        good,
        pick([
          ...["", "+gzip", "+zstd", "+x"].map((end) => `oci.image.layer.v1.tar${end}`),
          ...["", ".gzip", ".zstd"].map((end) => `docker.image.rootfs.diff.tar${end}`),
          "oci.empty.v1+json",
        ]),
      ),
    "a decompression bomb as a layer": () => withLayer(pick(bombs)),
    "a decompression bomb after a layer": () => withLayer(Buffer.concat([stored, pick(bombs)])),
    "data after a layer": () => withLayer(Buffer.concat([stored, pick([noise(40), Buffer.alloc(600)])])),
    "a truncated layer": () => withLayer(stored.subarray(0, below(stored.length))),
    "a compressed layer": () => withLayer(pick([gzipSync(stored), Bun.zstdCompressSync(stored)])),
    "altered frames": () => {
      const frames = framesOf(stored);
      const i = below(frames.length);
      const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, ...noise(4)]);
      return withLayer(
        Buffer.concat(
          pick([
            frames.toSpliced(i, 1),
            frames.toSpliced(i, 0, frames[i]!),
            frames.toSpliced(i, 0, skippable),
            frames.toSpliced(i, 1, frames[i]!.subarray(0, -1)),
            frames.toReversed(),
            [...frames, pick(framesOf(named(evil, pick(manifestOf(evil).Layers)).content))],
            frames.with(-1, Buffer.from(frames.at(-1)!).fill(0, 8)),
          ]),
        ),
      );
    },
    "the other image's layer under this name": () =>
      replaced(good, { [layer]: named(evil, pick(manifestOf(evil).Layers)).content }),
    "a flipped bit": () => {
      const bytes = join(good);
      bytes[below(bytes.length)]! ^= 1 << below(8);
      return bytes;
    },
    "a changed manifest.json": () => {
      const theirs = manifestOf(evil);
      const end = text.slice(0, -2);
      const manifests = [
        `${text}\n`,
        `\ufeff${text}`,
        JSON.stringify([manifest], null, 2),
        `${end},"config":"${theirs.Config}"}]`,
        `${end},"Config":"${theirs.Config}"}]`,
        `${end},"layers":${JSON.stringify(theirs.Layers)}}]`,
        JSON.stringify([manifest, theirs]),
        JSON.stringify([theirs]),
        JSON.stringify([{ ...manifest, Layers: [] }]),
        JSON.stringify([{ ...manifest, Layers: manifest.Layers.toReversed() }]),
        `${end},"Parent":"x"}]`,
        JSON.stringify([{ ...manifest, RepoTags: null }]),
        `${end},"LayerSources":{}}]`,
        "[null]",
        "[",
        "null",
        `${end},"Layer\u017f":${JSON.stringify(theirs.Layers)}}]`,
        JSON.stringify([{ ...manifest, Layers: [`./${layer}`] }]),
      ];
      return pick([
        withManifest,
        (json: string) => [...withManifest(json), ...evil.filter((other) => !named(good, nameOf(other)))],
      ])(pick(manifests));
    },
    "a changed config": () =>
      withConfig(
        pick([
          JSON.stringify(JSON.parse(config), null, 2),
          `${config}\n`,
          config.replace(`"Entrypoint"`, `"entrypoint":[],"Entrypoint"`),
          config.replace(`"os"`, `"OS":null,"os"`),
          config.replace(/"sha256:/, `"sha256:0`),
          config.replace("amd64", "arm64"),
          config.replace(`"Labels"`, `"Cmd":null,"Labels"`),
          config.replace(`"rootfs"`, `"rootfs":{"diff_ids":[]},"rootfs"`),
        ]),
      ),
    "data after the end": () =>
      Buffer.concat([
        join(good),
        pick([join(evil), noise(512), Buffer.alloc(9216), Buffer.alloc(2 ** 21), Buffer.of(0)]),
      ]),
    "the other image before the end": () => Buffer.concat([join(evil).subarray(0, -1024), join(good)]),
    "an unknown entry": () =>
      insert([part(pick(["x", "layer.tar", "VERSION", `${"0".repeat(64)}/json`, "repositories"]), noise(30))]),
    "a link": () =>
      insert([
        part(pick([`${"0".repeat(64)}/layer.tar`, "x", layer]), "", {
          156: "2",
          157: pick(["../x", `../${layer}`, layer]),
        }),
      ]),
    "a layer that is a link": () => {
      const link = part(layer, "", { 156: "2", 157: pick(["moved", "./moved", "/moved"]) });
      return [...good.map((one) => (nameOf(one) === layer ? withFields(one, name("moved")) : one)), link];
    },
  };
  const how = pick(Object.keys(mutations));
  const result = mutations[how]!();
  return { how, bytes: Array.isArray(result) ? join(result) : result };
}
