/**
 * Writes the docker-archive that `podman load`, `docker load`, `skopeo` and containerd's import read.
 *
 * The input is the trees under dist/, so every engine produces an identical archive from identical trees.
 * docker-archive-reader.ts reads the format.
 *
 * Format: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
 */
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/hash.ts";
import type { Service } from "../core/resolve-service.ts";
import type { BuildResult } from "./build-image-files.ts";
import { PipelineError } from "../core/errors.ts";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { createImageSpec, layerNames } from "./image-spec.ts";
import { APP_DIRECTORY } from "./image-paths.ts";
import { TAR_END, tarHeader, tarPadding } from "./tar-writer.ts";

/** Compression of layers: `none` for a local import, `fast` and `high` for a transfer that costs per byte. */
export const compressions = ["none", "fast", "high"] as const;
export type Compression = (typeof compressions)[number];

/**
 * Levels of zstd. Level 22, with a window of the whole layer, compresses about 20 % better than level 3. It takes about
 * a minute. https://facebook.github.io/zstd/zstd_manual.html
 */
export const zstdLevels = { fast: 3, high: 22 } as const;

export interface ArchiveContent extends Pick<BuildResult, "platform"> {
  service: Service;
  /** Build directory with one tree per layer. */
  dist: string;
  /** Image names in the archive, for example `helloapp:<id>`. */
  names: string[];
  /** Git commit for the image label. It does not affect the layers. */
  revision?: string | undefined;
  /** Default: none. The layers' diffIDs do not depend on it. */
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
  { service, platform, dist, names, revision, compression = "none" }: ArchiveContent,
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

  let digests: string[];
  if (compression === "none") {
    digests = layerNames.map((layer) => {
      // The header holds the layer's digest, so it is written after the layer.
      const start = at;
      at += TAR_END.length / 2;
      const contentStart = at;
      const digest = writeLayer(join(dist, layer), write);
      const end = at;
      at = start;
      write(tarHeader({ path: nameOf(digest), type: "file", mode: 0o644, size: end - contentStart }));
      at = end;
      return digest;
    });
  } else {
    const level = zstdLevels[compression];
    const compressed = await Promise.all(
      layerNames.map(async (layer) => {
        const chunks: Uint8Array[] = [];
        const digest = writeLayer(join(dist, layer), (bytes) => void chunks.push(bytes.slice()));
        return { digest, bytes: await Bun.zstdCompress(Buffer.concat(chunks), { level }) };
      }),
    );
    for (const { digest, bytes } of compressed) add(nameOf(digest), bytes);
    digests = compressed.map(({ digest }) => digest);
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

/** Writes a tree as an uncompressed layer. @returns its digest, which is the diffID */
function writeLayer(tree: string, write: (bytes: Uint8Array) => void): string {
  const hash = new Bun.CryptoHasher("sha256");
  const emit = (bytes: Uint8Array) => {
    hash.update(bytes);
    write(bytes);
  };
  const chunk = new Uint8Array(1 << 20);
  for (const path of listPaths(tree)) {
    if (path.endsWith("/")) {
      emit(tarHeader({ path, type: "directory", mode: 0o755, size: 0 }));
      continue;
    }
    const { size } = statSync(join(tree, path));
    emit(tarHeader({ path, type: "file", mode: 0o755, size }));
    const source = openSync(join(tree, path), "r");
    try {
      for (let got: number; (got = readSync(source, chunk)) > 0;) emit(chunk.subarray(0, got));
    } finally {
      closeSync(source);
    }
    emit(tarPadding(size));
  }
  emit(TAR_END);
  return hash.digest("hex");
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
