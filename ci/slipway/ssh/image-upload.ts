/** An archive on its way to one node or to several: what each of them asks about it is worked out once. */
import { sha256OfFile } from "../core/hash.ts";
import { readArchive, type Archive } from "../image/archive-reader.ts";
import { CHUNK_BYTES, blockHashes } from "./delta.ts";

/** A layer in an archive. */
export interface PackedLayer {
  /** In hex. */
  digest: string;
  /** Its place among the image's layers, and in the archive. */
  index: number;
  offset: number;
  content: Uint8Array;
}

export class ImageUpload {
  readonly bytes: Uint8Array;
  /** In the order of the archive; one that the image has twice is there once. */
  readonly layers: PackedLayer[];
  /** Whether they are compressed. */
  readonly isPacked: boolean;
  #sha256: string | undefined;
  readonly #hashes = new Map<PackedLayer, string[]>();

  private constructor(
    readonly path: string,
    { config, layers, packed }: Archive,
  ) {
    this.isPacked = packed;
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

  /** @throws {Error} when there is no archive at `path` */
  static async open(path: string): Promise<ImageUpload> {
    const found = await readArchive(path);
    if (!found) throw new Error(`${path} is not there`);
    return new ImageUpload(path, found);
  }

  get sha256(): string {
    return (this.#sha256 ??= sha256OfFile(this.path));
  }

  /** Hashes of a layer's chunks. */
  hashesOf(layer: PackedLayer): string[] {
    let hashes = this.#hashes.get(layer);
    if (!hashes) this.#hashes.set(layer, (hashes = blockHashes(layer.content, CHUNK_BYTES)));
    return hashes;
  }
}
