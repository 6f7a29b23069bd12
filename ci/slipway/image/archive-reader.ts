/**
 * Reads docker-archives, whoever wrote them: this pipeline, podman, buildah, skopeo, containerd, docker. What does not
 * belong to one is refused, with its name: skopeo takes the first entry of a name and containerd the last, and containerd
 * prefers an OCI layout in it, so that one file could hold another image for each.
 *
 * Format: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format". Readers:
 * https://github.com/containerd/containerd/blob/v1.6.20/images/archive/importer.go,
 * https://github.com/containers/image/blob/v5.23.1/docker/internal/tarfile/reader.go
 */
import { statSync } from "node:fs";
import { posix } from "node:path";
import { MAX_JSON_BYTES, expectObject, parseStrictJson, expectStrings } from "./strict-json.ts";
import { blobName, checkLayout, isLegacyConfig } from "./layout.ts";
import { MAX_UNPACKED_BYTES, detectCompression, Decompressor } from "./decompress.ts";
import { readPlainTar, type TarEntry } from "./tar-reader.ts";

export interface Archive {
  /** RepoTags: names with their tags. */
  names: string[];
  config: {
    architecture: string;
    os: string;
    created: string;
    config: Record<string, unknown>;
    rootfs: { diff_ids: string[] };
  };
  /** Where the config's bytes are: its digest is over them, however they are formatted. */
  configEntry: TarEntry;
  /** As many as the config has diffIDs; one that is there twice is the same entry. */
  layers: TarEntry[];
  /** Whether layers are compressed. */
  packed: boolean;
}

/** docker takes 127. */
const MOST_LAYERS = 128;

/** Names that say what an archive is: no layer's. */
const reserved = ["manifest.json", "oci-layout", "index.json", "repositories"];

/**
 * Reads what an archive says of itself: headers and documents, in milliseconds however large it is. Layers are looked at
 * when they are unpacked.
 *
 * @returns undefined when there is none at `path`
 * @throws {Error} when it is not one, or has an entry that does not belong to it
 */
export async function readArchive(path: string): Promise<Archive | undefined> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) return undefined;
  const wrong = (what: string, cause?: unknown) =>
    new Error(`${path} is not a docker-archive: ${what}`, { cause });
  if (!found.isFile()) throw wrong("it is no file");
  const entries = namedEntries(path, wrong);
  const file = Bun.file(path);
  const bytes = ({ path, offset, size }: TarEntry) => {
    if (size > MAX_JSON_BYTES) throw wrong(`its ${path} has more than ${MAX_JSON_BYTES} bytes`);
    return file.slice(offset, offset + size).bytes();
  };
  const packing = async ({ offset, size }: TarEntry) =>
    detectCompression(await file.slice(offset, offset + Math.min(size, 4)).bytes());
  const json = async (entry: TarEntry) => {
    const content = await bytes(entry);
    try {
      return parseStrictJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content));
    } catch (error) {
      throw wrong(`its ${entry.path} cannot be read: ${(error as Error).message}`, error);
    }
  };
  const fileNamed = (name: string) => {
    const entry = entries.get(name);
    if (!entry) throw wrong(`it has no ${name}`);
    if (entry.type !== "file") throw wrong(`its ${name} is a ${entry.type}`);
    return entry;
  };
  // docker before 25 stores a layer once and links to it.
  const layerNamed = (name: string) => fileNamed(linkTarget(entries.get(name)) ?? name);

  const { Config, Layers, RepoTags } = manifestOf(await json(fileNamed("manifest.json")), wrong);
  for (const name of [Config, ...Layers])
    if (reserved.includes(name)) throw wrong(`${name} is neither a config nor a layer`);
  const configEntry = fileNamed(Config);
  const layers = Layers.map(layerNamed);
  if (sizeOf(layers) > MAX_UNPACKED_BYTES)
    throw wrong(`its layers have more than ${MAX_UNPACKED_BYTES} bytes`);
  const config = configOf(await json(configEntry), layers.length, wrong);
  const archive = { names: RepoTags, config, configEntry, layers };
  const known = new Set([configEntry, ...layers]);
  const hasLayout = entries.has("oci-layout") || entries.has("index.json");
  if (hasLayout) {
    const used = await checkLayout(archive, { fileNamed, json, bytes, packing, wrong });
    for (const entry of used) known.add(entry);
  }
  for (const [name, entry] of entries) {
    const isKnown =
      known.has(entry) ||
      isUsual(name, entry, known) ||
      (hasLayout && blobName.test(name) && (await isLegacyConfig(entry, { json, bytes })));
    if (!isKnown) throw wrong(`it has ${name} (${entry.type}), which is no part of one`);
  }
  const packings = await Promise.all(layers.map(packing));
  return { ...archive, packed: packings.some((packing) => packing !== "none") };
}

/** A name without what other tools put in front of it: skopeo docker.io/library/, podman and buildah localhost/. */
export function shortImageName(name: string): string {
  return name.replace(/^(docker\.io\/library|localhost)\//, "");
}

/** Of a name that has the digest of what is stored: a blob's, or a config's as docker and podman, or crane, write it. */
export function digestInName({ path }: TarEntry): string | undefined {
  return (blobName.exec(path) ??
    /^([0-9a-f]{64})\.json$/.exec(path) ??
    /^sha256:([0-9a-f]{64})$/.exec(path))?.[1];
}

type Wrong = (what: string) => Error;

/** Entries by their path, which is written in the only way that all readers take for the same. */
function namedEntries(path: string, wrong: Wrong): Map<string, TarEntry> {
  const entries = new Map<string, TarEntry>();
  for (const entry of readPlainTar(path)) {
    const name = entry.type === "directory" ? entry.path.replace(/\/$/, "") : entry.path;
    if (name === "." || name.startsWith("/") || name.endsWith("/") || posix.normalize(name) !== name)
      throw wrong(`its ${entry.path} has a path that readers take for another`);
    if (entries.has(name)) throw wrong(`it has ${name} twice`);
    entries.set(name, entry);
  }
  return entries;
}

function linkTarget(entry: TarEntry | undefined): string | undefined {
  return entry?.type === "symbolic link" ? posix.join(posix.dirname(entry.path), entry.link!) : undefined;
}

/** What writers add for older readers, without a meaning beside manifest.json. */
function isUsual(name: string, entry: TarEntry, known: Set<TarEntry>): boolean {
  if (entry.type === "directory") return /^([0-9a-f]{64}|blobs|blobs\/sha256)$/.test(name);
  if (entry.type === "symbolic link") {
    const target = linkTarget(entry);
    return /^[0-9a-f]{64}\/layer\.tar$/.test(name) && [...known].some(({ path }) => path === target);
  }
  const isDocument = /^(manifest\.json|repositories|[0-9a-f]{64}\/(VERSION|json))$/.test(name);
  return entry.type === "file" && isDocument && entry.size <= MAX_JSON_BYTES;
}

function manifestOf(value: unknown, wrong: Wrong) {
  if (!Array.isArray(value) || value.length !== 1)
    throw wrong("its manifest.json is not of one image, and one only");
  const image = expectObject(value[0], "the image in manifest.json");
  const unknown = Object.keys(image).find(
    (key) => !["Config", "RepoTags", "Layers", "LayerSources", "Parent"].includes(key),
  );
  if (unknown !== undefined) throw wrong(`its manifest.json has ${unknown}, which is no part of one`);
  const { Config } = image;
  if (typeof Config !== "string") throw wrong("its manifest.json names no config");
  const Layers = expectStrings(image.Layers, "Layers of manifest.json");
  if (Layers.length > MOST_LAYERS) throw wrong(`it has more than ${MOST_LAYERS} layers`);
  return { Config, Layers, RepoTags: expectStrings(image.RepoTags, "RepoTags of manifest.json") };
}

function configOf(value: unknown, layers: number, wrong: Wrong): Archive["config"] {
  const config = expectObject(value, "the config");
  for (const key of ["architecture", "os"]) {
    const text = config[key];
    if (typeof text !== "string" || !/^[a-z0-9]+$/.test(text)) throw wrong(`its config has no ${key}`);
  }
  const ids = expectStrings(
    expectObject(config.rootfs, "rootfs of the config").diff_ids,
    "diff_ids of the config",
  );
  if (ids.length !== layers) throw wrong("its config tells of other layers than it has");
  const other = ids.find((id) => !/^sha256:[0-9a-f]{64}$/.test(id));
  if (other !== undefined) throw wrong(`its config has the diffID ${other}, which is no digest`);
  return config as unknown as Archive["config"];
}

function sizeOf(entries: TarEntry[]): number {
  return entries.reduce((sum, { size }) => sum + size, 0);
}

/** What entries hold. One that is asked for again, as a layer that an image has twice, is the same memory. */
export function layerReader(
  path: string,
  layers: TarEntry[],
): {
  /** As it is stored. */
  stored(entry: TarEntry): Promise<Uint8Array<ArrayBuffer>>;
  /** The tar. @throws {Error} when it is damaged, or larger than an image may be */
  unpacked(entry: TarEntry): Promise<Uint8Array<ArrayBuffer>>;
} {
  const unpacker = new Decompressor(sizeOf([...new Set(layers)]));
  const memoize = <T>(make: (entry: TarEntry) => Promise<T>) => {
    const made = new Map<number, Promise<T>>();
    return (entry: TarEntry) => {
      const value = made.get(entry.offset) ?? make(entry);
      made.set(entry.offset, value);
      return value;
    };
  };
  const stored = memoize(({ offset, size }) =>
    Bun.file(path)
      .slice(offset, offset + size)
      .bytes(),
  );
  return { stored, unpacked: memoize(async (entry) => unpacker.unpack(await stored(entry))) };
}
