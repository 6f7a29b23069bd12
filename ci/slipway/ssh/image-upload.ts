/** Opens an image archive for upload, and computes its hashes once for all nodes. */
import { sha256OfFile } from "../core/hash.ts";
import { readArchiveIndex, type ArchiveIndex } from "../image/docker-archive-reader.ts";
import { CHUNK_BYTES, shortHashes } from "./binary-delta.ts";

export interface ArchivedLayer {
  /** In hex. */
  digest: string;
  /** Position in the image's list of layers. */
  index: number;
  /** Position in the archive, in bytes. */
  offset: number;
  content: Uint8Array;
}

export class ImageUpload {
  readonly bytes: Uint8Array;
  /** Distinct layers in the order of the archive. */
  readonly layers: ArchivedLayer[];
  readonly isCompressed: boolean;
  #sha256: string | undefined;
  readonly #hashes = new Map<ArchivedLayer, string[]>();

  private constructor(
    readonly path: string,
    { config, layers, packed }: ArchiveIndex,
  ) {
    this.isCompressed = packed;
    this.bytes = Bun.mmap(path);
    this.layers = layers
      .map(({ offset, size }, index) => ({
        digest: config.rootfs.diff_ids[index]!.slice("sha256:".length),
        index,
        offset,
        content: this.bytes.subarray(offset, offset + size),
      }))
      .filter(({ offset }, index) => layers.findIndex((layer) => layer.offset === offset) === index)
      .sort((a, b) => a.offset - b.offset);
  }

  /** @throws {Error} if `path` does not exist */
  static async open(path: string): Promise<ImageUpload> {
    const archive = await readArchiveIndex(path);
    if (!archive) throw new Error(`${path} not found`);
    return new ImageUpload(path, archive);
  }

  get sha256(): string {
    return (this.#sha256 ??= sha256OfFile(this.path));
  }

  chunkHashesOf(layer: ArchivedLayer): string[] {
    let hashes = this.#hashes.get(layer);
    if (!hashes) this.#hashes.set(layer, (hashes = shortHashes(layer.content, CHUNK_BYTES)));
    return hashes;
  }
}
