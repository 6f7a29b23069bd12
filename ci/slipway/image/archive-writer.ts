/**
 * The docker-archive: what `podman load`, `docker load`, `skopeo` and containerd's import read. It is written from the
 * trees under dist/, whichever engine built them, so the same trees give the same archive, byte for byte; reader.ts reads
 * it.
 *
 * Format: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
 */
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/hash.ts";
import type { Service } from "../core/service-config.ts";
import type { BuildResult } from "./build.ts";
import { PipelineError } from "../core/errors.ts";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { createImageSpec, layers } from "./image-spec.ts";
import { APP_DIRECTORY } from "./module-paths.ts";
import { TAR_END, tarHeader, tarPadding } from "./tar-writer.ts";

/** How layers are packed: `none` for an import on this machine, `fast` and `high` for a way that costs per byte. */
export const compressions = ["none", "fast", "high"] as const;
export type Compression = (typeof compressions)[number];

/**
 * zstd's level for each. 22 with its window of the layer's whole size packs some 20 % tighter than 3 and takes a minute
 * for it. https://facebook.github.io/zstd/zstd_manual.html
 */
export const zstdLevels = { fast: 3, high: 22 } as const;

export interface ArchiveOptions extends Pick<BuildResult, "platform"> {
  service: Service;
  /** The directory with a tree for each layer. */
  dist: string;
  /** Names in the archive, `helloapp:<id>`. */
  names: string[];
  /** The git commit, for the label; it does not touch the layers. */
  revision?: string | undefined;
  /** Default: none. The layers' diffIDs are the same with all. */
  compression?: Compression;
}

/**
 * Writes the archive beside `output` and renames it, so that no half archive is ever left.
 *
 * @throws {PipelineError} "environment" when the disk is full, `output` cannot be written, or a tree is gone
 */
export async function writeArchive(output: string, options: ArchiveOptions): Promise<void> {
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
  { service, platform, dist, names, revision, compression = "none" }: ArchiveOptions,
): Promise<void> {
  const image = createImageSpec(service);
  const missing = layers.find((layer) => !existsSync(join(dist, layer)));
  if (missing !== undefined) {
    throw new PipelineError(
      "environment",
      `${join(dist, missing)} is not there: something has removed what was built`,
      {
        hint: "Run the command again: it will be built anew.",
      },
    );
  }
  let at = 0;
  const write = (bytes: Uint8Array) => {
    // One write() may take less than all of it, on a disk that is nearly full for example.
    for (let done = 0; done < bytes.length;)
      done += writeSync(file, bytes, done, bytes.length - done, at + done);
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
    digests = layers.map((layer) => {
      // The header holds the layer's digest, which is known when the layer is written: it is filled in afterwards.
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
    const packed = await Promise.all(
      layers.map(async (layer) => {
        const chunks: Uint8Array[] = [];
        const digest = writeLayer(join(dist, layer), (bytes) => void chunks.push(bytes.slice()));
        return { digest, bytes: await Bun.zstdCompress(Buffer.concat(chunks), { level }) };
      }),
    );
    for (const { digest, bytes } of packed) add(nameOf(digest), bytes);
    digests = packed.map(({ digest }) => digest);
  }

  const config = JSON.stringify({
    architecture: platform.architecture,
    os: platform.os,
    // A build time would make two equal images differ.
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
    history: layers.map((layer) => ({
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

/** Writes one tree as a layer and returns its digest: of a layer that is not compressed, the diffID. */
function writeLayer(tree: string, write: (bytes: Uint8Array) => void): string {
  const hash = new Bun.CryptoHasher("sha256");
  const emit = (bytes: Uint8Array) => {
    hash.update(bytes);
    write(bytes);
  };
  const chunk = new Uint8Array(1 << 20);
  for (const path of list(tree)) {
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

/** Paths below a tree, parents first, sorted by code unit; directories end in a slash. */
function list(tree: string, below = ""): string[] {
  const entries = readdirSync(join(tree, below), { withFileTypes: true });
  return entries
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = below + entry.name;
      return entry.isDirectory() ? [`${path}/`, ...list(tree, `${path}/`)] : [path];
    });
}
