/**
 * The OCI layout in a docker-archive, as docker (from 25 on) and containerd write both into one file: it has to be of the
 * same image. containerd reads the layout, skopeo's and podman's docker-archive manifest.json.
 *
 * Format: OCI image specification 1.1, https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
 */
import { sha256 } from "../core/hash.ts";
import { expectObject } from "./strict-json.ts";
import type { CompressionFormat } from "./decompress.ts";
import type { TarEntry } from "./tar-reader.ts";

/** Path of a blob; its digest is the group. */
export const blobName = /^blobs\/sha256\/([0-9a-f]{64})$/;

/** What has to be the same. */
interface Image {
  names: string[];
  config: { architecture: string; os: string };
  configEntry: TarEntry;
  layers: TarEntry[];
}

interface Access {
  /** @throws {Error} when there is no such file */
  fileNamed(name: string): TarEntry;
  json(entry: TarEntry): Promise<unknown>;
  bytes(entry: TarEntry): Promise<Uint8Array>;
  packing(entry: TarEntry): Promise<CompressionFormat>;
  wrong(what: string): Error;
}

const manifestTypes = [
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];
const configTypes = [
  "application/vnd.oci.image.config.v1+json",
  "application/vnd.docker.container.image.v1+json",
];
/** containerd takes OCI's types at their word, and looks itself where it is docker's. */
const layerTypes: Record<string, CompressionFormat | "any"> = {
  "application/vnd.oci.image.layer.v1.tar": "none",
  "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
  "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
  "application/vnd.docker.image.rootfs.diff.tar": "any",
  "application/vnd.docker.image.rootfs.diff.tar.gzip": "any",
};

/**
 * @returns the entries that the layout consists of, without config and layers
 * @throws {Error} when it is none, of another image, or of several; an index inside the index is not followed
 */
export async function checkLayout(image: Image, access: Access): Promise<TarEntry[]> {
  const { fileNamed, json, bytes, wrong } = access;
  const [layout, index] = ["oci-layout", "index.json"].map(fileNamed);
  const version = expectObject(await json(layout!), "oci-layout").imageLayoutVersion;
  if (version !== "1.0.0") throw wrong("its oci-layout is of no version that is known");

  const manifests = descriptorsOf(expectObject(await json(index!), "index.json").manifests, "index.json");
  const [first] = manifests;
  if (!first || manifests.some(({ digest }) => digest !== first.digest))
    throw wrong("its index.json is not of one image, and one only");
  for (const { mediaType, platform, size } of manifests) {
    if (!manifestTypes.includes(mediaType)) throw wrong(`its index.json names a ${mediaType}, not an image`);
    if (size !== first.size) throw wrong("its index.json has two sizes for one manifest");
    const { os, architecture } = image.config;
    if (platform && (platform.os !== os || platform.architecture !== architecture))
      throw wrong(`its index.json is for another platform than the config, ${os}/${architecture}`);
  }
  checkNames(image, manifests, wrong);

  const manifestEntry = fileNamed(blobOf(first));
  if (`sha256:${sha256(await bytes(manifestEntry))}` !== first.digest || manifestEntry.size !== first.size)
    throw wrong(`its ${manifestEntry.path} does not have the digest that is its name`);
  const manifest = expectObject(await json(manifestEntry), "the image manifest");
  const [config] = descriptorsOf([manifest.config], manifestEntry.path);
  const layers = descriptorsOf(manifest.layers, manifestEntry.path);
  const same =
    !("manifests" in manifest) &&
    configTypes.includes(config!.mediaType) &&
    layers.length === image.layers.length &&
    [config!, ...layers].every((descriptor, i) => {
      const entry = [image.configEntry, ...image.layers][i]!;
      return entry.path === blobOf(descriptor) && entry.size === descriptor.size;
    });
  if (!same) throw wrong("its index.json names another image than its manifest.json");
  for (const [i, entry] of image.layers.entries()) {
    const expected = layerTypes[layers[i]!.mediaType];
    if (expected !== "any" && expected !== (await access.packing(entry)))
      throw wrong(`its layer ${entry.path} is no ${layers[i]!.mediaType}`);
  }
  return [layout!, index!, manifestEntry];
}

/** containerd takes the names from here. */
function checkNames({ names }: Image, manifests: Descriptor[], wrong: Access["wrong"]): void {
  const own = new Set(names.map(fullName));
  const found = new Set(
    manifests.map(({ annotations }) => String(annotations["io.containerd.image.name"] ?? "")),
  );
  if (own.size === 0) own.add("");
  const other = [...found].find((name) => !own.has(name)) ?? [...own].find((name) => !found.has(name));
  if (other !== undefined)
    throw wrong(`its index.json has other names than its manifest.json: ${other || "none"}`);
}

/** A name as containerd has it: `app:1` is docker.io/library/app:1. */
function fullName(name: string): string {
  const [first, ...rest] = name.split("/");
  if (rest.length === 0) return `docker.io/library/${name}`;
  return /[.:]|^localhost$/.test(first!) ? name : `docker.io/${name}`;
}

/**
 * Whether a blob that nothing names is one that docker adds: a layer's config of before 2016, which readers pass over.
 * https://github.com/moby/moby/blob/v25.0.0/image/tarexport/save.go
 */
export async function isLegacyConfig(
  entry: TarEntry,
  { json, bytes }: Pick<Access, "json" | "bytes">,
): Promise<boolean> {
  const [, digest] = blobName.exec(entry.path) ?? [];
  if (entry.type !== "file" || sha256(await bytes(entry)) !== digest) return false;
  const { id } = expectObject(await json(entry), entry.path);
  return typeof id === "string" && /^[0-9a-f]{64}$/.test(id);
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
  annotations: Record<string, unknown>;
  platform: Record<string, unknown> | undefined;
}

function blobOf({ digest }: Descriptor): string {
  return `blobs/${digest.replace(":", "/")}`;
}

/** @throws {Error} when one has more than a descriptor in a file needs: content of its own, or where else to get it */
function descriptorsOf(value: unknown, where: string): Descriptor[] {
  if (!Array.isArray(value)) throw new Error(`${where} has no list of descriptors`);
  return value.map((item) => {
    const { mediaType, digest, size, annotations, platform, ...more } = expectObject(
      item,
      `a descriptor of ${where}`,
    );
    if (typeof mediaType !== "string" || typeof size !== "number")
      throw new Error(`a descriptor of ${where} has no type or no size`);
    if (typeof digest !== "string" || !/^sha256:[0-9a-f]{64}$/.test(digest))
      throw new Error(`a descriptor of ${where} has no digest`);
    const [unknown] = Object.keys(more);
    if (unknown !== undefined) throw new Error(`a descriptor of ${where} has ${unknown}`);
    return {
      mediaType,
      digest,
      size,
      annotations: expectObject(annotations ?? {}, `annotations of ${where}`),
      platform: platform == null ? undefined : expectObject(platform, `a platform of ${where}`),
    };
  });
}
