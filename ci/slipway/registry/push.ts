/**
 * An image's way into a registry, from the docker-archive, with nothing but HTTP.
 *
 * Format: OCI image specification 1.1, https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md. Layers go
 * compressed with zstd: half the size of a layer, in a quarter of gzip's time.
 */
import { zstdLevels } from "../image/archive-writer.ts";
import { PipelineError } from "../core/errors.ts";
import { digestOf as digestOfBytes, isDigest } from "../core/hash.ts";
import {
  digestInName,
  shortImageName,
  layerReader,
  readArchive,
  type Archive,
} from "../image/archive-reader.ts";
import { detectCompression } from "../image/decompress.ts";
import type { TarEntry } from "../image/tar-reader.ts";
import { attachSbom } from "./referrer.ts";
import { parseReference } from "./reference.ts";
import { ociTypes, Repository, type Descriptor, type Manifest } from "./repository.ts";
import type { RegistryOptions } from "./transport.ts";

const types = {
  manifest: ociTypes.manifest,
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar+zstd",
};

export interface PushOptions extends RegistryOptions {
  /** The image's SBOM, which is attached to it; default: none is. */
  sbom?: string;
}

/**
 * Pushes a docker-archive's image. What the registry has is not sent again, and an image that stands under this very
 * tag is not even compressed. The tag comes last: an image that is found under it has its SBOM.
 *
 * @param reference `registry[:port]/path:tag`
 * @returns the manifest's digest, `sha256:…`
 * @throws {PipelineError} "environment": no such archive, registry not reached, credentials, space; "usage": reference
 * @throws the signal's reason when it was aborted
 */
export async function pushImage(archive: string, reference: string, options: PushOptions): Promise<string> {
  return (await pushArchive(archive, await read(archive), reference, options)).digest;
}

/**
 * Pushes archives of several platforms, each under its id, and under each of `tags` one index of them, from which a client
 * takes what is for its platform. The same images make the same index, in whatever order they are named.
 *
 * Format: OCI image index, https://github.com/opencontainers/image-spec/blob/v1.1.0/image-index.md
 *
 * @param name the image's, which each archive names with its id
 * @param repository `registry[:port]/path`, without a tag
 * @param options for each archive; `sbomOf` names the SBOM that is attached to it, default: none is
 * @param tags none: for a single archive, which then is all that is pushed
 * @returns the digest of the index, or without tags of the image; and which platforms it has
 * @throws {PipelineError} as push(); "usage" too when two archives are for one platform
 */
export async function pushIndex(
  name: string,
  archives: string[],
  repository: string,
  tags: string[],
  { sbomOf, ...options }: RegistryOptions & { sbomOf?(archive: string): string },
): Promise<{ digest: string; platforms: string[] }> {
  const images = new Map<string, { path: string; archive: Archive; id: string }>();
  // All are looked at before anything is sent.
  for (const path of archives) {
    const archive = await read(path);
    const { os, architecture } = archive.config;
    const [platform, id] = [`${os}/${architecture}`, idIn(name, archive)];
    const same = images.get(platform);
    if (same)
      throw new PipelineError(
        "usage",
        `${same.path} and ${path} are both for ${platform}: one of each platform`,
      );
    if (!id) throw notAnArchive(path, `none of its names is ${name}:<id>`);
    images.set(platform, { path, archive, id });
  }
  const platforms = [...images.keys()].sort();
  const manifests: (Descriptor & { platform: object })[] = [];
  for (const platform of platforms) {
    const { path, archive, id } = images.get(platform)!;
    const sbom = sbomOf?.(path);
    const { os, architecture } = archive.config;
    const image = await pushArchive(path, archive, `${repository}:${id}`, {
      ...options,
      ...(sbom && { sbom }),
    });
    options.say?.(`${platform} is ${name}:${id}, ${image.digest}`);
    manifests.push({ ...image, platform: { architecture, os } });
  }
  if (tags.length === 0) return { digest: manifests[0]!.digest, platforms };
  const content = { schemaVersion: 2, mediaType: ociTypes.index, manifests };
  const index = new TextEncoder().encode(JSON.stringify(content));
  const digest = digestOfBytes(index);
  for (const tag of tags) {
    const at = new Repository(parseReference(`${repository}:${tag}`), "pull,push", options);
    const there = (await at.digest()) === digest;
    if (!there) await at.putManifest(index, ociTypes.index);
    options.say?.(`${repository}:${tag} ${there ? "is there already" : "sent"}`);
  }
  return { digest, platforms };
}

/** The id in an archive's names. */
function idIn(name: string, { names }: Archive): string | undefined {
  const own = new RegExp(`^${name}:([0-9a-f]{12})$`);
  return names.flatMap((name) => own.exec(shortImageName(name))?.[1] ?? [])[0];
}

/** @returns the manifest, as an index names it */
async function pushArchive(
  archive: string,
  { configEntry, layers, config }: Archive,
  reference: string,
  options: PushOptions,
): Promise<Descriptor> {
  const to = parseReference(reference);
  const from = layerReader(archive, layers);
  // When one upload fails, the others end with it.
  const failed = new AbortController();
  const signal = AbortSignal.any([options.signal, failed.signal]);
  const repository = new Repository(to, "pull,push", { ...options, signal });
  const send = async (what: string, mediaType: string, bytes: Uint8Array<ArrayBuffer>) => {
    signal.throwIfAborted();
    const digest = digestOfBytes(bytes);
    const sent = await repository.sendBlob(digest, bytes);
    options.say?.(`${what} (${(bytes.length / 1e6).toFixed(1)} MB) ${sent ? "sent" : "is there already"}`);
    return { mediaType, digest, size: bytes.length };
  };
  const sendLayer = async (layer: TarEntry, index: number) => {
    const stored = await from.stored(layer);
    const bytes = await from.unpacked(layer).catch((error: Error) => {
      throw notAnArchive(archive, `its layer ${layer.path} cannot be read: ${error.message}`, error);
    });
    if (digestOfBytes(bytes) !== config.rootfs.diff_ids[index])
      throw notAnArchive(archive, `its layer ${layer.path} is not what its config says`);
    // What came with gzip goes with zstd as well.
    const isZstd = detectCompression(stored) === "zstd";
    const compressed = isZstd ? stored : await Bun.zstdCompress(bytes, { level: zstdLevels.fast });
    const what = `layer ${index + 1} of ${layers.length}`;
    return send(what, types.layer, compressed as Uint8Array<ArrayBuffer>);
  };
  const attach = async (image: Descriptor) => {
    if (options.sbom === undefined) return;
    const { sent } = await attachSbom(repository, image, options.sbom);
    options.say?.(`SBOM ${sent ? "attached" : "is there already"}`);
  };

  try {
    const configBytes = await from.stored(configEntry);
    const promised = digestInName(configEntry);
    if (promised !== undefined && digestOfBytes(configBytes) !== `sha256:${promised}`)
      throw notAnArchive(archive, `its ${configEntry.path} does not have the digest that is its name`);
    const there = await repository.manifest();
    if (there && (await isWhole(there.content, digestOfBytes(configBytes), repository))) {
      options.say?.(`${reference} is there already`);
      await attach(there.descriptor);
      return there.descriptor;
    }
    const [sentConfig, ...sentLayers] = await Promise.all([
      send("config", types.config, configBytes),
      ...layers.map(sendLayer),
    ]);
    const content = { schemaVersion: 2, mediaType: types.manifest, config: sentConfig, layers: sentLayers };
    const manifest = new TextEncoder().encode(JSON.stringify(content));
    const image = { mediaType: types.manifest, digest: digestOfBytes(manifest), size: manifest.length };
    if (options.sbom !== undefined) {
      await repository.putManifest(manifest, types.manifest, image.digest);
      await attach(image);
    }
    await repository.putManifest(manifest, types.manifest);
    return image;
  } finally {
    failed.abort();
  }
}

/**
 * Asks a registry what stands under `reference`.
 *
 * @param reference `registry[:port]/path:tag`
 * @returns the manifest's digest, `sha256:…`; undefined when there is none
 * @throws {PipelineError} "environment": registry not reached, credentials; "usage": reference
 * @throws the signal's reason when it was aborted
 */
export async function resolveDigest(
  reference: string,
  options: RegistryOptions,
): Promise<string | undefined> {
  return new Repository(parseReference(reference), "pull", options).digest();
}

/**
 * Looks whether it is the image of an archive that stands under `reference`: its layers' content and its config, but for the commit
 * in the label, which is no part of what an id stands for. Whoever may push a tag decides what stands under it, whatever its name.
 *
 * @param reference `registry[:port]/path:tag`
 * @returns the manifest's digest, and whether it is the same image, whole; undefined when there is nothing
 * @throws {PipelineError} as push()
 */
export async function compareWithRemote(
  archive: string,
  reference: string,
  options: RegistryOptions,
): Promise<{ digest: string; same: boolean } | undefined> {
  const { config } = await read(archive);
  const repository = new Repository(parseReference(reference), "pull", options);
  const there = await repository.manifest();
  if (!there) return undefined;
  const { content, descriptor } = there;
  const named = content.config?.digest;
  const found = isDigest(named) && (await repository.blob(named));
  const same = found && sameConfig(found, config) && (await isWhole(content, named, repository));
  return { digest: descriptor.digest, same: same === true };
}

function sameConfig(bytes: Uint8Array, own: Archive["config"]): boolean {
  try {
    const other = JSON.parse(Buffer.from(bytes).toString()) as Archive["config"];
    return Bun.deepEquals(withoutCommit(other), withoutCommit(own), true);
  } catch {
    return false;
  }
}

function withoutCommit(config: Archive["config"]): object {
  const copy = structuredClone(config);
  const labels = copy.config.Labels as Record<string, string> | null | undefined;
  delete labels?.["org.opencontainers.image.revision"];
  return copy;
}

/**
 * Whether a manifest is of the image with this config, and its blobs are there. The config names the layers' content,
 * so that it does not matter how they were compressed, or by whom.
 */
async function isWhole(manifest: Manifest, config: string, repository: Repository): Promise<boolean> {
  if (manifest.config?.digest !== config || !Array.isArray(manifest.layers)) return false;
  const digests = [manifest.config, ...manifest.layers].map(({ digest }) => digest);
  if (!digests.every(isDigest)) return false;
  return (await Promise.all(digests.map((digest) => repository.hasBlob(digest)))).every(Boolean);
}

async function read(path: string): Promise<Archive> {
  const archive = await readArchive(path).catch((error: Error) => {
    throw notAnArchive(path, error.message, error);
  });
  if (!archive) throw notAnArchive(path, "there is no such file");
  return archive;
}

function notAnArchive(path: string, why: string, cause?: unknown): PipelineError {
  return new PipelineError("environment", `${path} is no docker-archive that could be pushed: ${why}`, {
    hint: `\`bun ci/pipeline.ts image --output ${path}\` makes one.`,
    cause,
  });
}
