/**
 * Checks that an OCI layout inside a docker-archive describes the same image.
 *
 * docker (from version 25) and containerd write both formats into one file. containerd reads the layout, skopeo and
 * podman read manifest.json.
 *
 * Format: OCI image specification 1.1, https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
 */
import { sha256 } from "../core/hash.ts";
import { expectObject } from "./strict-json.ts";
import type { CompressionFormat } from "./decompress.ts";
import type { TarEntry } from "./tar-reader.ts";

/** Path of a blob. The capture group is its digest. */
export const BLOB_PATH = /^blobs\/sha256\/([0-9a-f]{64})$/;

/** The image according to manifest.json, which the layout has to match. */
interface Image {
  names: string[];
  config: { architecture: string; os: string };
  configEntry: TarEntry;
  layers: TarEntry[];
}

interface ArchiveAccess {
  /** @throws {Error} if the file does not exist */
  fileNamed(name: string): TarEntry;
  json(entry: TarEntry): Promise<unknown>;
  bytes(entry: TarEntry): Promise<Uint8Array>;
  packing(entry: TarEntry): Promise<CompressionFormat>;
  invalid(reason: string): Error;
}

const manifestTypes = [
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];
const configTypes = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/** Compression of each layer type. containerd trusts OCI's types, but detects the compression for docker's. */
const layerTypes: Record<string, CompressionFormat | "any"> = {
  "application/vnd.oci.image.layer.v1.tar": "none",
  "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
  "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
  "application/vnd.docker.image.rootfs.diff.tar": "any",
  "application/vnd.docker.image.rootfs.diff.tar.gzip": "any",
};

/**
 * Checks the OCI layout of an archive.
 *
 * @returns the entries of the layout, without config and layers
 * @throws {Error} if the layout is malformed, of another image, or of several. Nested indexes are not supported.
 */
export async function checkLayout(image: Image, access: ArchiveAccess): Promise<TarEntry[]> {
  const { fileNamed, json, bytes, invalid } = access;
  const [layout, index] = ["oci-layout", "index.json"].map(fileNamed);
  const version = expectObject(await json(layout!), "oci-layout").imageLayoutVersion;
  if (version !== "1.0.0") throw invalid("oci-layout has an unknown version");

  const manifests = parseDescriptors(expectObject(await json(index!), "index.json").manifests, "index.json");
  const [first] = manifests;
  if (!first || manifests.some(({ digest }) => digest !== first.digest))
    throw invalid("index.json does not describe exactly one image");
  for (const { mediaType, platform, size } of manifests) {
    if (!manifestTypes.includes(mediaType)) throw invalid(`index.json names a ${mediaType}, not an image`);
    if (size !== first.size) throw invalid("index.json has two sizes for one manifest");
    const { os, architecture } = image.config;
    if (platform && (platform.os !== os || platform.architecture !== architecture))
      throw invalid(`the platform in index.json is not ${os}/${architecture}, that of the config`);
  }
  checkNames(image, manifests, invalid);

  const manifestEntry = fileNamed(blobOf(first));
  if (`sha256:${sha256(await bytes(manifestEntry))}` !== first.digest || manifestEntry.size !== first.size)
    throw invalid(`the content of ${manifestEntry.path} does not match its digest`);
  const manifest = expectObject(await json(manifestEntry), "the image manifest");
  const [config] = parseDescriptors([manifest.config], manifestEntry.path);
  const layers = parseDescriptors(manifest.layers, manifestEntry.path);
  const isSameImage =
    !("manifests" in manifest) &&
    configTypes.includes(config!.mediaType) &&
    layers.length === image.layers.length &&
    [config!, ...layers].every((descriptor, i) => {
      const entry = [image.configEntry, ...image.layers][i]!;
      return entry.path === blobOf(descriptor) && entry.size === descriptor.size;
    });
  if (!isSameImage) throw invalid("index.json names another image than manifest.json");
  for (const [i, entry] of image.layers.entries()) {
    const expected = layerTypes[layers[i]!.mediaType];
    if (expected !== "any" && expected !== (await access.packing(entry)))
      throw invalid(`the layer ${entry.path} is not of its type ${layers[i]!.mediaType}`);
  }
  return [layout!, index!, manifestEntry];
}

/** Compares the image names, because containerd reads them from the layout. */
function checkNames({ names }: Image, manifests: Descriptor[], invalid: ArchiveAccess["invalid"]): void {
  const expected = new Set(names.map(fullName));
  const found = new Set(manifests.map(({ annotations }) => String(annotations["io.containerd.image.name"] ?? "")));
  if (expected.size === 0) expected.add("");
  const different = [...found].find((name) => !expected.has(name)) ?? [...expected].find((name) => !found.has(name));
  if (different !== undefined)
    throw invalid(`index.json and manifest.json have different names: ${different || "none"}`);
}

/** Expands a name like containerd: `app:1` becomes docker.io/library/app:1. */
function fullName(name: string): string {
  const [first, ...rest] = name.split("/");
  if (rest.length === 0) return `docker.io/library/${name}`;
  return /[.:]|^localhost$/.test(first!) ? name : `docker.io/${name}`;
}

/**
 * Whether an unreferenced blob is a layer config in docker's format from before 2016. docker adds them, readers ignore
 * them. https://github.com/moby/moby/blob/v25.0.0/image/tarexport/save.go
 */
export async function isLegacyConfig(
  entry: TarEntry,
  { json, bytes }: Pick<ArchiveAccess, "json" | "bytes">,
): Promise<boolean> {
  const [, digest] = BLOB_PATH.exec(entry.path) ?? [];
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

/** Parses a list of descriptors. @throws {Error} if one has other keys, such as embedded data or download URLs */
function parseDescriptors(value: unknown, where: string): Descriptor[] {
  if (!Array.isArray(value)) throw new Error(`${where} has no list of descriptors`);
  return value.map((item) => {
    const { mediaType, digest, size, annotations, platform, ...more } = expectObject(item, `a descriptor of ${where}`);
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
