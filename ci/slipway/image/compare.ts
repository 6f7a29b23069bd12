/**
 * How two images differ, in words: the layers' diffIDs, each file, the config. It reads docker-archives, whoever wrote
 * them: what counts is what a layer is without compression.
 */
import { PipelineError } from "../core/errors.ts";
import { digestOf, sha256 } from "../core/hash.ts";
import { layers as layerNames } from "./image-spec.ts";
import { digestInName, shortImageName, layerReader, readArchive, type Archive } from "./archive-reader.ts";
import { listTar, type TarEntry } from "./tar-reader.ts";

export interface Layer {
  /** What it is called in messages: `runtime`, `app`; in an image with another number of layers `layer 1`. */
  name: string;
  /** `sha256:` and the digest of its bytes, computed. */
  diffId: string;
  /** The diffID that the image's config says it has. */
  promised: string;
  /** The tar, without compression. */
  bytes: Uint8Array;
  /** What the tar holds, with offsets into `bytes`; empty where it is `damage`d. */
  entries: TarEntry[];
  /** Why it cannot be read. */
  damage?: string;
}

export interface ImageContent extends Pick<Archive, "config"> {
  /** Names with their tags, as familiarName() has them. */
  names: string[];
  layers: Layer[];
  /** Bytes of the archive as a file. */
  archiveSize: number;
  /** What is wrong with the archive by its own account, a sentence each: bytes that are not those of their digest. */
  damage: string[];
}

/**
 * Reads a whole image into memory.
 *
 * @throws {PipelineError} "environment" when there is no docker-archive at `path`, or none that can be read
 */
export async function readImage(path: string): Promise<ImageContent> {
  try {
    const archive = await readArchive(path);
    if (!archive) throw new Error(`there is no ${path}`);
    const { config, configEntry } = archive;
    const names = [...new Set(archive.names.map(shortImageName))];
    const content = layerReader(path, archive.layers);
    const layers: Layer[] = [];
    for (const [i, entry] of archive.layers.entries()) {
      const known = archive.layers.length === layerNames.length ? layerNames[i] : undefined;
      const promised = config.rootfs.diff_ids[i]!;
      layers.push(await readLayer(known ?? `layer ${i + 1}`, promised, entry, content));
    }
    const damage = layers.flatMap(({ name, diffId, promised, damage }) => {
      const lines = damage ? [damage] : [];
      if (diffId === promised) return lines;
      return [
        ...lines,
        `${name} is damaged: its bytes have the diffID ${shortDigest(diffId)}, its config promises ${shortDigest(promised)}`,
      ];
    });
    for (const [what, entry] of [["the config", configEntry] as const, ...archive.layers.map(named)]) {
      if (digestInName(entry) !== undefined && digestInName(entry) !== sha256(await content.stored(entry)))
        damage.push(`${what} is damaged: its bytes do not have the digest that is its name`);
    }
    return { names, config, layers, damage, archiveSize: Bun.file(path).size };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const named = message.includes(path) ? message : `${path} is no docker-archive: ${message}`;
    throw new PipelineError("environment", `cannot read the image: ${named}`, { cause: error });
  }
}

const named = (entry: TarEntry) => [`the layer ${entry.path}`, entry] as const;

async function readLayer(
  name: string,
  promised: string,
  entry: TarEntry,
  { stored, unpacked }: ReturnType<typeof layerReader>,
): Promise<Layer> {
  let bytes: Uint8Array = await stored(entry);
  try {
    bytes = await unpacked(entry);
    const entries = listTar(`the tar of ${name}`, bytes);
    return { name, promised, diffId: digestOf(bytes), bytes, entries };
  } catch (error) {
    const damage = `${name} cannot be read: ${(error as Error).message}`;
    return { name, promised, diffId: digestOf(bytes), bytes, entries: [], damage };
  }
}

/** A file of an image, with its bytes. */
export interface ImageFile extends TarEntry {
  content: Uint8Array;
}

/** The files of layers, the later over the earlier, by their path from the root, sorted; without the root itself. */
export function filesInLayers(layers: Layer[]): Map<string, ImageFile> {
  const files = layers.flatMap(({ bytes, entries }) =>
    entries.map((entry): [string, ImageFile] => [
      // Dialects of tar differ in how they start, and whether a directory ends in a slash.
      `/${entry.path.replace(/^(\.?\/)+|^\.$/, "").replace(/\/$/, "")}`,
      { ...entry, content: bytes.subarray(entry.offset, entry.offset + entry.size) },
    ]),
  );
  return new Map(files.filter(([path]) => path !== "/").sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Of a file, what is the same also where its content is another: type, mode, owner and time. */
export function metadataOf({ type, link, mode, uid, gid, mtime }: TarEntry): Record<string, string> {
  return {
    type: link === undefined ? type : `${type} to ${link}`,
    mode: mode.toString(8).padStart(4, "0"),
    owner: `${uid}:${gid}`,
    time: Number.isFinite(mtime) ? new Date(mtime * 1000).toISOString() : "none",
  };
}

export interface CompareOptions {
  /** Whether sizes and bytes count, names and diffIDs too; default true. Without: only the form of the image. */
  content?: boolean;
}

/** Says what `found` has that `expected` has not, a line for each; an empty list when they are equal. */
export function diffImages(
  expected: ImageContent,
  found: ImageContent,
  { content = true }: CompareOptions = {},
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

function layerDifferences(expected: Layer, found: Layer, content: boolean): string[] {
  const named = (lines: string[]) => lines.map((line) => `${found.name}: ${line}`);
  const differ = content && found.diffId !== expected.diffId;
  const id = differ ? [`diffID ${shortDigest(found.diffId)}, not ${shortDigest(expected.diffId)}`] : [];
  if (found.damage || expected.damage) {
    return named([...id, ...(differ ? [`differs ${firstByte(expected, found)}`] : [])]);
  }
  const tree = treeDifferences(filesInLayers([expected]), filesInLayers([found]), content);
  // Two tars of the same files: another order, another dialect, or a bit in what nobody reads.
  if (differ && tree.length === 0)
    tree.push(`its files are the same, the tar is not: ${firstByte(expected, found)}`);
  return named([...id, ...tree]);
}

function treeDifferences(
  expected: Map<string, ImageFile>,
  found: Map<string, ImageFile>,
  content: boolean,
): string[] {
  const paths = [...new Set([...expected.keys(), ...found.keys()])].sort();
  return paths.flatMap((path) => {
    const [one, other] = [expected.get(path), found.get(path)];
    if (!one) return [`${path} is there and should not be`];
    if (!other) return [`${path} is missing`];
    const what = fileDifferences(one, other, content);
    return what.length > 0 ? [`${path}: ${what.join("; ")}`] : [];
  });
}

function fileDifferences(expected: ImageFile, found: ImageFile, content: boolean): string[] {
  const [one, other] = [metadataOf(expected), metadataOf(found)];
  const lines = Object.keys(one).flatMap((key) =>
    one[key] === other[key] ? [] : [`${key} ${other[key]}, not ${one[key]}`],
  );
  if (!content) return lines;
  if (found.size !== expected.size)
    lines.push(`size ${count(found.size, "byte")}, not ${formatThousands(expected.size)}`);
  const at = firstDifference(expected.content, found.content);
  if (at !== undefined) lines.push(`bytes differ, the first at offset ${at}`);
  return lines;
}

/** Which labels, commands, times; not the diffIDs, which are told layer by layer. */
function configDifferences(expected: object, found: object): string[] {
  const [one, other] = [leaves(expected), leaves(found)];
  return [...new Set([...one.keys(), ...other.keys()])]
    .filter((path) => !path.startsWith("rootfs.diff_ids") && one.get(path) !== other.get(path))
    .map((path) => {
      const [was, is] = [one.get(path), other.get(path)];
      if (was === undefined) return `config: ${path} is ${is} and should not be there`;
      return is === undefined ? `config: ${path} is missing: ${was}` : `config: ${path} is ${is}, not ${was}`;
    });
}

/** Every value of a JSON document by its path, as JSON. What tools write for "not set" is as good as not there. */
function leaves(value: unknown, path: string[] = []): Map<string, string> {
  const json = JSON.stringify(value);
  if (["null", '""', "false", "[]"].includes(json)) return new Map();
  if (typeof value !== "object" || json === "{}") return new Map([[path.join("."), json]]);
  return new Map(Object.entries(value!).flatMap(([key, inner]) => [...leaves(inner, [...path, key])]));
}

/** Where two layers differ first, in words: `from byte 700 on, at offset 188 of /a`. */
function firstByte(expected: Layer, found: Layer): string {
  const at = firstDifference(expected.bytes, found.bytes);
  // What is damaged cannot say what is where; up to there the other says it.
  const { entries } = expected.damage ? found : expected;
  const entry = entries.findLast(({ offset }) => offset - 512 <= at!);
  if (!entry) return `from byte ${at} on`;
  const { offset, size, path } = entry;
  const inside = at! < offset + size ? `at offset ${at! - offset} of` : "after";
  return `from byte ${at} on, ${at! < offset ? "in the header of" : inside} /${path}`;
}

const CHUNK = 1 << 16;

/** The offset of the first byte that differs; where one is the start of the other: its length. undefined: equal. */
export function firstDifference(one: Uint8Array, other: Uint8Array): number | undefined {
  const length = Math.min(one.length, other.length);
  for (let start = 0; start < length; start += CHUNK) {
    const end = Math.min(start + CHUNK, length);
    if (Buffer.compare(one.subarray(start, end), other.subarray(start, end)) === 0) continue;
    for (let at = start; at < end; at += 1) if (one[at] !== other[at]) return at;
  }
  return one.length === other.length ? undefined : length;
}

/** A digest as people read it: without the algorithm, 12 hex digits. */
export function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, 12);
}

/** 1234567 -> 1,234,567, whatever the locale. */
export function formatThousands(value: number): string {
  return value.toLocaleString("en-US");
}

function count(value: number, what: string): string {
  return `${formatThousands(value)} ${what}${value === 1 ? "" : "s"}`;
}
