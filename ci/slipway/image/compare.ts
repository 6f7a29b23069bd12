/**
 * Compares two images and describes the differences in diffIDs, files and config.
 *
 * The input is docker-archives of any writer. Layers are compared without compression.
 */
import { PipelineError } from "../core/errors.ts";
import { digestOf, sha256 } from "../core/hash.ts";
import { layerNames } from "./image-spec.ts";
import {
  digestInName,
  shortImageName,
  createLayerReader,
  readArchiveIndex,
  type ArchiveIndex,
} from "./docker-archive-reader.ts";
import { listTar, type TarEntry } from "./tar-reader.ts";

export interface UnpackedLayer {
  /** Name in messages: `runtime`, `app`, or `layer 1` if the image has another number of layers. */
  name: string;
  /** Digest computed from `bytes`, with the prefix `sha256:`. */
  diffId: string;
  /** DiffID according to the image's config. */
  declaredDiffId: string;
  /** The uncompressed tar. */
  bytes: Uint8Array;
  /** Entries of the tar, with offsets into `bytes`. Empty if the layer is damaged. */
  entries: TarEntry[];
  /** Reason why the layer cannot be read. */
  damage?: string;
}

export interface ImageContent extends Pick<ArchiveIndex, "config"> {
  /** Names with their tags, shortened by shortImageName(). */
  names: string[];
  layers: UnpackedLayer[];
  /** Whether the archive's layers are compressed. */
  packed: boolean;
  /** Size of the archive file in bytes. */
  archiveSize: number;
  /** Content that is unreadable or does not match its digest, one sentence per finding. */
  damage: string[];
}

/**
 * Reads a whole image into memory.
 *
 * @throws {PipelineError} "environment" if `path` is missing or not a readable docker-archive
 */
export async function readImage(path: string): Promise<ImageContent> {
  try {
    const archive = await readArchiveIndex(path);
    if (!archive) throw new Error(`${path} not found`);
    const { config, configEntry } = archive;
    const names = [...new Set(archive.names.map(shortImageName))];
    const content = createLayerReader(path, archive.layers);
    const layers: UnpackedLayer[] = [];
    for (const [i, entry] of archive.layers.entries()) {
      const known = archive.layers.length === layerNames.length ? layerNames[i] : undefined;
      const declaredDiffId = config.rootfs.diff_ids[i]!;
      layers.push(await readLayer(known ?? `layer ${i + 1}`, declaredDiffId, entry, content));
    }
    const damage = layers.flatMap(({ name, diffId, declaredDiffId, damage }) => {
      const lines = damage ? [damage] : [];
      if (diffId === declaredDiffId) return lines;
      return [
        ...lines,
        `${name} is damaged: its diffID is ${shortDigest(diffId)}, the config declares ${shortDigest(declaredDiffId)}`,
      ];
    });
    for (const [what, entry] of [["the config", configEntry] as const, ...archive.layers.map(named)]) {
      if (digestInName(entry) !== undefined && digestInName(entry) !== sha256(await content.stored(entry)))
        damage.push(`${what} is damaged: its content does not match the digest in its name`);
    }
    return { names, config, layers, damage, packed: archive.packed, archiveSize: Bun.file(path).size };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const named = message.includes(path) ? message : `${path} is not a docker-archive: ${message}`;
    throw new PipelineError("environment", `cannot read the image: ${named}`, {
      code: "archive-invalid",
      cause: error,
    });
  }
}

const named = (entry: TarEntry) => [`the layer ${entry.path}`, entry] as const;

async function readLayer(
  name: string,
  declaredDiffId: string,
  entry: TarEntry,
  { stored, unpacked }: ReturnType<typeof createLayerReader>,
): Promise<UnpackedLayer> {
  let bytes: Uint8Array = await stored(entry);
  try {
    bytes = await unpacked(entry);
    const entries = listTar(`the tar of ${name}`, bytes);
    return { name, declaredDiffId, diffId: digestOf(bytes), bytes, entries };
  } catch (error) {
    const damage = `${name} cannot be read: ${(error as Error).message}`;
    return { name, declaredDiffId, diffId: digestOf(bytes), bytes, entries: [], damage };
  }
}

/** A file of an image with its content. */
export interface ImageFile extends TarEntry {
  content: Uint8Array;
}

/** Merges the files of layers, sorted by absolute path. Later layers override earlier ones, the root is omitted. */
export function filesInLayers(layers: UnpackedLayer[]): Map<string, ImageFile> {
  const files = layers.flatMap(({ bytes, entries }) =>
    entries.map((entry): [string, ImageFile] => [
      // Tar dialects differ in the start of a path and in the slash after a directory.
      `/${entry.path.replace(/^(\.?\/)+|^\.$/, "").replace(/\/$/, "")}`,
      { ...entry, content: bytes.subarray(entry.offset, entry.offset + entry.size) },
    ]),
  );
  return new Map(files.filter(([path]) => path !== "/").sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Formats the metadata of a file: type, mode, owner and time. */
export function metadataOf({ type, link, mode, uid, gid, mtime }: TarEntry): Record<string, string> {
  return {
    type: link === undefined ? type : `${type} to ${link}`,
    mode: mode.toString(8).padStart(4, "0"),
    owner: `${uid}:${gid}`,
    time: Number.isFinite(mtime) ? new Date(mtime * 1000).toISOString() : "none",
  };
}

export interface ImageDiffOptions {
  /** Whether to compare sizes, bytes, names and diffIDs, in addition to the image's structure. Default: true. */
  content?: boolean;
}

/** Describes how `found` differs from `expected`, one line per difference. Returns an empty list for equal images. */
export function diffImages(
  expected: ImageContent,
  found: ImageContent,
  { content = true }: ImageDiffOptions = {},
): string[] {
  const lines: string[] = [];
  if (content && found.names.join() !== expected.names.join())
    lines.push(`name: ${found.names.join(", ")}, not ${expected.names.join(", ")}`);
  if (found.layers.length === expected.layers.length) {
    for (const [i, layer] of found.layers.entries())
      lines.push(...layerDifferences(expected.layers[i]!, layer, content));
  } else {
    lines.push(`${count(found.layers.length, "layer")}, not ${expected.layers.length}`);
    lines.push(...treeDifferences(filesInLayers(expected.layers), filesInLayers(found.layers), content));
  }
  lines.push(...configDifferences(expected.config, found.config));
  return lines;
}

function layerDifferences(expected: UnpackedLayer, found: UnpackedLayer, content: boolean): string[] {
  const named = (lines: string[]) => lines.map((line) => `${found.name}: ${line}`);
  const differ = content && found.diffId !== expected.diffId;
  const id = differ ? [`diffID ${shortDigest(found.diffId)}, not ${shortDigest(expected.diffId)}`] : [];
  if (found.damage || expected.damage) {
    return named([...id, ...(differ ? [`differs ${firstByte(expected, found)}`] : [])]);
  }
  const tree = treeDifferences(filesInLayers([expected]), filesInLayers([found]), content);
  // Equal files in a different tar: another order, another dialect, or a bit in an ignored field.
  if (differ && tree.length === 0)
    tree.push(`its files are identical, but the tar differs ${firstByte(expected, found)}`);
  return named([...id, ...tree]);
}

function treeDifferences(expected: Map<string, ImageFile>, found: Map<string, ImageFile>, content: boolean): string[] {
  const paths = [...new Set([...expected.keys(), ...found.keys()])].sort();
  return paths.flatMap((path) => {
    const [before, after] = [expected.get(path), found.get(path)];
    if (!before) return [`${path} is unexpected`];
    if (!after) return [`${path} is missing`];
    const differences = fileDifferences(before, after, content);
    return differences.length > 0 ? [`${path}: ${differences.join("; ")}`] : [];
  });
}

function fileDifferences(expected: ImageFile, found: ImageFile, content: boolean): string[] {
  const [before, after] = [metadataOf(expected), metadataOf(found)];
  const lines = Object.keys(before).flatMap((key) =>
    before[key] === after[key] ? [] : [`${key} ${after[key]}, not ${before[key]}`],
  );
  if (!content) return lines;
  if (found.size !== expected.size)
    lines.push(`size ${count(found.size, "byte")}, not ${formatThousands(expected.size)}`);
  const at = firstDifference(expected.content, found.content);
  if (at !== undefined) lines.push(`bytes differ, the first at offset ${at}`);
  return lines;
}

/** Describes differences of labels, commands and times. DiffIDs are reported per layer instead. */
function configDifferences(expected: object, found: object): string[] {
  const [before, after] = [flattenJson(expected), flattenJson(found)];
  return [...new Set([...before.keys(), ...after.keys()])]
    .filter((path) => !path.startsWith("rootfs.diff_ids") && before.get(path) !== after.get(path))
    .map((path) => {
      const [was, is] = [before.get(path), after.get(path)];
      if (was === undefined) return `config: ${path} is unexpected: ${is}`;
      return is === undefined ? `config: ${path} is missing: ${was}` : `config: ${path} is ${is}, not ${was}`;
    });
}

/** Maps paths of a JSON document to values as JSON. Empty values, which tools write for "not set", are omitted. */
function flattenJson(value: unknown, path: string[] = []): Map<string, string> {
  const json = JSON.stringify(value);
  if (["null", '""', "false", "[]"].includes(json)) return new Map();
  if (typeof value !== "object" || json === "{}") return new Map([[path.join("."), json]]);
  return new Map(Object.entries(value!).flatMap(([key, inner]) => [...flattenJson(inner, [...path, key])]));
}

/** Describes the first difference of two layers, for example `from byte 700 on, at offset 188 of /a`. */
function firstByte(expected: UnpackedLayer, found: UnpackedLayer): string {
  const at = firstDifference(expected.bytes, found.bytes);
  // A damaged layer has no entries, so those of the other layer locate the byte.
  const { entries } = expected.damage ? found : expected;
  const entry = entries.findLast(({ offset }) => offset - 512 <= at!);
  if (!entry) return `from byte ${at} on`;
  const { offset, size, path } = entry;
  const inside = at! < offset + size ? `at offset ${at! - offset} of` : "after";
  return `from byte ${at} on, ${at! < offset ? "in the header of" : inside} /${path}`;
}

const CHUNK_BYTES = 1 << 16;

/** Returns the offset of the first different byte, or undefined if equal. For a prefix, it is the prefix's length. */
export function firstDifference(one: Uint8Array, other: Uint8Array): number | undefined {
  const length = Math.min(one.length, other.length);
  for (let start = 0; start < length; start += CHUNK_BYTES) {
    const end = Math.min(start + CHUNK_BYTES, length);
    if (Buffer.compare(one.subarray(start, end), other.subarray(start, end)) === 0) continue;
    for (let at = start; at < end; at += 1) if (one[at] !== other[at]) return at;
  }
  return one.length === other.length ? undefined : length;
}

/** Shortens a digest to 12 hex digits, without the algorithm. */
export function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, 12);
}

/** Formats 1234567 as 1,234,567 in every locale. */
export function formatThousands(value: number): string {
  return value.toLocaleString("en-US");
}

function count(value: number, what: string): string {
  return `${formatThousands(value)} ${what}${value === 1 ? "" : "s"}`;
}
