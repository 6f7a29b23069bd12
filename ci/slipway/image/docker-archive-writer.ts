/**
 * Writes the docker-archive that `podman load`, `docker load`, `skopeo` and containerd's import read.
 *
 * The input is the trees under dist/, so every engine produces an identical archive from identical trees.
 * docker-archive-reader.ts reads the format.
 *
 * Format: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/hash.ts";
import type { Service } from "../core/resolve-service.ts";
import type { BuildResult } from "./build-image-files.ts";
import { PipelineError } from "../core/errors.ts";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { findLastSegment } from "./elf.ts";
import { createImageSpec, layerNames } from "./image-spec.ts";
import { APP_DIRECTORY } from "./image-paths.ts";
import { compressLayer, type Cut, type LayerPart } from "./layer-frames.ts";
import { TAR_END, tarHeader, tarPadding } from "./tar-writer.ts";

/** Compression of layers. `zstd` halves the archive, and its import into containerd. See layer-frames.ts. */
export const compressions = ["zstd", "none"] as const;
export type Compression = (typeof compressions)[number];

export interface ArchiveContent extends Pick<BuildResult, "platform"> {
  service: Service;
  /** Build directory with one tree per layer. */
  dist: string;
  /** Image names in the archive, for example `helloapp:<id>`. */
  names: string[];
  /** Git commit for the image label. It does not affect the layers. */
  revision?: string | undefined;
  /** Default: zstd. The layers' diffIDs do not depend on it. */
  compression?: Compression;
}

/**
 * Writes the archive to a temporary file and renames it, so that `output` is never incomplete.
 *
 * @throws {PipelineError} "environment" if the disk is full, `output` is not writable, or a tree is missing
 */
export async function writeDockerArchive(output: string, options: ArchiveContent): Promise<void> {
  await writeFileAtomically(output, async (part) => {
    const file = openSync(part, "w");
    try {
      await writeContent(file, options);
    } finally {
      closeSync(file);
    }
  });
}

async function writeContent(
  file: number,
  { service, platform, dist, names, revision, compression = "zstd" }: ArchiveContent,
): Promise<void> {
  const image = createImageSpec(service);
  const missing = layerNames.find((layer) => !existsSync(join(dist, layer)));
  if (missing !== undefined) {
    throw new PipelineError(
      "environment",
      `${join(dist, missing)} is missing: another program removed the build output`,
      { code: "files-changed-during-build", hint: "Run the command again to rebuild it." },
    );
  }
  let at = 0;
  const write = (bytes: Uint8Array) => {
    // write() can be partial, for example if the disk is nearly full.
    for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done, bytes.length - done, at + done);
    at += bytes.length;
  };
  const add = (path: string, content: string | Uint8Array) => {
    const bytes = Buffer.from(content);
    write(tarHeader({ path, type: "file", mode: 0o644, size: bytes.length }));
    write(bytes);
    write(tarPadding(bytes.length));
  };
  const nameOf = (digest: string) => `${digest}.tar${compression === "none" ? "" : ".zst"}`;

  const digests: string[] = [];
  for (const layer of layerNames) {
    const hash = new Bun.CryptoHasher("sha256");
    const parts = hashParts(readLayer(join(dist, layer)), hash);
    const frames = compression === "none" ? [...parts].map(({ bytes }) => bytes) : await compressLayer(parts);
    const digest = hash.digest("hex");
    digests.push(digest);
    const size = frames.reduce((sum, { length }) => sum + length, 0);
    write(tarHeader({ path: nameOf(digest), type: "file", mode: 0o644, size }));
    for (const frame of frames) write(frame);
    write(tarPadding(size));
  }

  const config = JSON.stringify({
    architecture: platform.architecture,
    os: platform.os,
    // Fixed, because a build time would break reproducibility.
    created: "1970-01-01T00:00:00Z",
    config: {
      User: image.user,
      ExposedPorts: { [image.port]: {} },
      Env: Object.entries(image.env).map(([name, value]) => `${name}=${value}`),
      Entrypoint: [image.binary],
      WorkingDir: APP_DIRECTORY,
      Labels: {
        ...image.labels,
        ...(revision && { "org.opencontainers.image.revision": revision }),
      },
    },
    rootfs: { type: "layers", diff_ids: digests.map((digest) => `sha256:${digest}`) },
    history: layerNames.map((layer) => ({
      created: "1970-01-01T00:00:00Z",
      created_by: `slipway build: dist/${layer}`,
    })),
  });
  const configName = `${sha256(config)}.json`;
  add(configName, config);
  const manifest = [{ Config: configName, RepoTags: names, Layers: digests.map(nameOf) }];
  add("manifest.json", JSON.stringify(manifest));
  write(TAR_END);
}

/** Adds the parts of a layer to a hash as they are read. Pieces that fit the CPU's cache make this a quarter faster. */
function* hashParts(parts: Iterable<LayerPart>, hash: Bun.CryptoHasher): Iterable<LayerPart> {
  for (const part of parts) {
    for (let at = 0; at < part.bytes.length; at += 1 << 18) hash.update(part.bytes.subarray(at, at + (1 << 18)));
    yield part;
  }
}

/** Smaller files are cut by their content, together with the bytes around them. */
const MIN_FIXED_BYTES = 1 << 16;
/** Headers of an executable, which change with its size. */
const ELF_HEADER_BYTES = 4096;

/** Reads a tree as an uncompressed layer. */
function* readLayer(tree: string): Iterable<LayerPart> {
  const part = (bytes: Uint8Array, cut: Cut = "coarse"): LayerPart => ({ bytes: bytes as LayerPart["bytes"], cut });
  for (const path of listPaths(tree)) {
    if (path.endsWith("/")) {
      yield part(tarHeader({ path, type: "directory", mode: 0o755, size: 0 }));
      continue;
    }
    const file = join(tree, path);
    const { size } = statSync(file);
    const header = tarHeader({ path, type: "file", mode: 0o755, size });
    if (size < MIN_FIXED_BYTES) {
      yield part(header);
      yield part(readFileSync(file));
    } else {
      const bytes = Bun.mmap(file);
      // Bun's compiler puts the service into the last segment, and everything before it is Bun.
      const lastSegment = findLastSegment(bytes);
      const start = lastSegment === undefined ? 0 : ELF_HEADER_BYTES;
      const end = Math.max(start, lastSegment ?? size);
      yield part(header, "fine");
      yield part(bytes.subarray(0, start), "fine");
      yield part(bytes.subarray(start, end), "fixed");
      yield part(bytes.subarray(end), "fine");
    }
    yield part(tarPadding(size));
  }
  yield part(TAR_END);
}

/** Lists the paths of a tree, parents first, sorted by code unit. Directories end in a slash. */
function listPaths(tree: string, prefix = ""): string[] {
  const entries = readdirSync(join(tree, prefix), { withFileTypes: true });
  return entries
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = prefix + entry.name;
      return entry.isDirectory() ? [`${path}/`, ...listPaths(tree, `${path}/`)] : [path];
    });
}
