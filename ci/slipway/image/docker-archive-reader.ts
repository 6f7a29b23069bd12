/**
 * Reads docker-archives from any writer: this pipeline, podman, buildah, skopeo, containerd, docker.
 *
 * Unexpected entries are refused by name, because readers disagree on them. skopeo uses the first entry of a name,
 * containerd the last, and containerd prefers an OCI layout. One file could hold a different image for each reader.
 *
 * Format: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format". Readers:
 * https://github.com/containerd/containerd/blob/v1.6.20/images/archive/importer.go,
 * https://github.com/containers/image/blob/v5.23.1/docker/internal/tarfile/reader.go
 */
import { statSync } from "node:fs";
import { posix } from "node:path";
import { MAX_JSON_BYTES, expectObject, parseStrictJson, expectStrings } from "./strict-json.ts";
import { BLOB_PATH, checkLayout, isLegacyConfig } from "./check-oci-layout.ts";
import { MAX_UNPACKED_BYTES, detectCompression, Decompressor } from "./decompress.ts";
import { readPlainTar, type TarEntry } from "./tar-reader.ts";

export interface ArchiveIndex {
  /** Image names with their tags (RepoTags). */
  names: string[];
  config: {
    architecture: string;
    os: string;
    created: string;
    config: Record<string, unknown>;
    rootfs: { diff_ids: string[] };
  };
  /** Entry of the config. Its digest covers the raw bytes, independent of JSON formatting. */
  configEntry: TarEntry;
  /** Layers in the order of the config's diffIDs. A repeated layer is the same entry. */
  layers: TarEntry[];
  /** Whether layers are compressed. */
  packed: boolean;
}

/** Limit of layers per image. docker accepts 127. */
const MAX_LAYERS = 128;

/** Names of metadata entries. Neither a config nor a layer may have one of them. */
const reserved = ["manifest.json", "oci-layout", "index.json", "repositories"];

/**
 * Reads an archive's headers and JSON documents, in milliseconds for any archive size.
 *
 * Layers are checked later, when they are unpacked.
 *
 * @returns undefined if `path` does not exist
 * @throws {Error} if the file is not a docker-archive, or has an unexpected entry
 */
export async function readArchiveIndex(path: string): Promise<ArchiveIndex | undefined> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) return undefined;
  const invalid = (reason: string, cause?: unknown) =>
    new Error(`${path} is not a docker-archive: ${reason}`, { cause });
  if (!found.isFile()) throw invalid("it is not a file");
  const entries = readEntries(path, invalid);
  const file = Bun.file(path);
  const bytes = ({ path, offset, size }: TarEntry) => {
    if (size > MAX_JSON_BYTES) throw invalid(`${path} is larger than ${MAX_JSON_BYTES} bytes`);
    return file.slice(offset, offset + size).bytes();
  };
  const packing = async ({ offset, size }: TarEntry) =>
    detectCompression(await file.slice(offset, offset + Math.min(size, 4)).bytes());
  const json = async (entry: TarEntry) => {
    const content = await bytes(entry);
    try {
      return parseStrictJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content));
    } catch (error) {
      throw invalid(`cannot read ${entry.path}: ${(error as Error).message}`, error);
    }
  };
  const fileNamed = (name: string) => {
    const entry = entries.get(name);
    if (!entry) throw invalid(`${name} is missing`);
    if (entry.type !== "file") throw invalid(`${name} is a ${entry.type}, not a file`);
    return entry;
  };
  // docker before version 25 stores a repeated layer once and links to it.
  const layerNamed = (name: string) => fileNamed(linkTarget(entries.get(name)) ?? name);

  const { Config, Layers, RepoTags } = parseManifest(await json(fileNamed("manifest.json")), invalid);
  for (const name of [Config, ...Layers])
    if (reserved.includes(name)) throw invalid(`${name} is neither a config nor a layer`);
  const configEntry = fileNamed(Config);
  const layers = Layers.map(layerNamed);
  if (sizeOf(layers) > MAX_UNPACKED_BYTES)
    throw invalid(`its layers are larger than ${MAX_UNPACKED_BYTES} bytes in total`);
  const config = parseConfig(await json(configEntry), layers.length, invalid);
  const archive = { names: RepoTags, config, configEntry, layers };
  const known = new Set([configEntry, ...layers]);
  const hasLayout = entries.has("oci-layout") || entries.has("index.json");
  if (hasLayout) {
    const used = await checkLayout(archive, { fileNamed, json, bytes, packing, invalid });
    for (const entry of used) known.add(entry);
  }
  for (const [name, entry] of entries) {
    const isKnown =
      known.has(entry) ||
      isLegacyEntry(name, entry, known) ||
      (hasLayout && BLOB_PATH.test(name) && (await isLegacyConfig(entry, { json, bytes })));
    if (!isKnown) throw invalid(`it has the unexpected entry ${name} (${entry.type})`);
  }
  const packings = await Promise.all(layers.map(packing));
  return { ...archive, packed: packings.some((packing) => packing !== "none") };
}

/** Strips default registries from a name: docker.io/library/ (skopeo), localhost/ (podman and buildah). */
export function shortImageName(name: string): string {
  return name.replace(/^(docker\.io\/library|localhost)\//, "");
}

/** Extracts the digest in an entry's name: a blob, or a config named by docker and podman, or by crane. */
export function digestInName({ path }: TarEntry): string | undefined {
  return (BLOB_PATH.exec(path) ?? /^([0-9a-f]{64})\.json$/.exec(path) ?? /^sha256:([0-9a-f]{64})$/.exec(path))?.[1];
}

type Invalid = (reason: string) => Error;

/** Maps paths to entries. Only canonical paths are allowed, because readers normalise paths differently. */
function readEntries(path: string, invalid: Invalid): Map<string, TarEntry> {
  const entries = new Map<string, TarEntry>();
  for (const entry of readPlainTar(path)) {
    const name = entry.type === "directory" ? entry.path.replace(/\/$/, "") : entry.path;
    if (name === "." || name.startsWith("/") || name.endsWith("/") || posix.normalize(name) !== name)
      throw invalid(`the path ${entry.path} is not canonical`);
    if (entries.has(name)) throw invalid(`it has ${name} twice`);
    entries.set(name, entry);
  }
  return entries;
}

function linkTarget(entry: TarEntry | undefined): string | undefined {
  return entry?.type === "symbolic link" ? posix.join(posix.dirname(entry.path), entry.link!) : undefined;
}

/** Recognises entries that writers add for old readers. They have no effect if manifest.json exists. */
function isLegacyEntry(name: string, entry: TarEntry, known: Set<TarEntry>): boolean {
  if (entry.type === "directory") return /^([0-9a-f]{64}|blobs|blobs\/sha256)$/.test(name);
  if (entry.type === "symbolic link") {
    const target = linkTarget(entry);
    return /^[0-9a-f]{64}\/layer\.tar$/.test(name) && [...known].some(({ path }) => path === target);
  }
  const isDocument = /^(manifest\.json|repositories|[0-9a-f]{64}\/(VERSION|json))$/.test(name);
  return entry.type === "file" && isDocument && entry.size <= MAX_JSON_BYTES;
}

function parseManifest(value: unknown, invalid: Invalid) {
  if (!Array.isArray(value) || value.length !== 1) throw invalid("manifest.json does not describe exactly one image");
  const image = expectObject(value[0], "the image in manifest.json");
  const unknown = Object.keys(image).find(
    (key) => !["Config", "RepoTags", "Layers", "LayerSources", "Parent"].includes(key),
  );
  if (unknown !== undefined) throw invalid(`manifest.json has the unknown key ${unknown}`);
  const { Config } = image;
  if (typeof Config !== "string") throw invalid("manifest.json names no config");
  const Layers = expectStrings(image.Layers, "Layers of manifest.json");
  if (Layers.length > MAX_LAYERS) throw invalid(`it has more than ${MAX_LAYERS} layers`);
  return { Config, Layers, RepoTags: expectStrings(image.RepoTags, "RepoTags of manifest.json") };
}

function parseConfig(value: unknown, layerCount: number, invalid: Invalid): ArchiveIndex["config"] {
  const config = expectObject(value, "the config");
  for (const key of ["architecture", "os"]) {
    const text = config[key];
    if (typeof text !== "string" || !/^[a-z0-9]+$/.test(text)) throw invalid(`the config has no ${key}`);
  }
  const ids = expectStrings(expectObject(config.rootfs, "rootfs of the config").diff_ids, "diff_ids of the config");
  if (ids.length !== layerCount)
    throw invalid(`the config lists ${ids.length} layers, but the archive has ${layerCount}`);
  const malformed = ids.find((id) => !/^sha256:[0-9a-f]{64}$/.test(id));
  if (malformed !== undefined) throw invalid(`the diffID ${malformed} in the config is not a digest`);
  return config as unknown as ArchiveIndex["config"];
}

function sizeOf(entries: TarEntry[]): number {
  return entries.reduce((sum, { size }) => sum + size, 0);
}

/** Creates a reader for layer contents. Results are cached, so a repeated layer uses memory once. */
export function createLayerReader(
  path: string,
  layers: TarEntry[],
): {
  /** Reads the bytes in the archive. */
  stored(entry: TarEntry): Promise<Uint8Array<ArrayBuffer>>;
  /** Reads the uncompressed tar. @throws {Error} if it is damaged or exceeds the size limit of an image */
  unpacked(entry: TarEntry): Promise<Uint8Array<ArrayBuffer>>;
} {
  const decompressor = new Decompressor(sizeOf([...new Set(layers)]));
  const memoize = <T>(load: (entry: TarEntry) => Promise<T>) => {
    const loaded = new Map<number, Promise<T>>();
    return (entry: TarEntry) => {
      const value = loaded.get(entry.offset) ?? load(entry);
      loaded.set(entry.offset, value);
      return value;
    };
  };
  const stored = memoize(({ offset, size }) =>
    Bun.file(path)
      .slice(offset, offset + size)
      .bytes(),
  );
  return { stored, unpacked: memoize(async (entry) => decompressor.unpack(await stored(entry))) };
}
