/** Opens an image archive for upload, and computes its checksum once for all nodes. */
import { sha256OfFile } from "../core/hash.ts";
import { readArchiveIndex, type ArchiveIndex } from "../image/docker-archive-reader.ts";
import { decodeTable, type Frame } from "../image/layer-frames.ts";

export interface ArchivedLayer {
  /** Position in the image's list of layers. */
  index: number;
  /** Position in the archive, in bytes. */
  offset: number;
  content: Uint8Array;
  /** Undefined if the layer is not a sequence of frames with a table. */
  frames: Frame[] | undefined;
}

export class ImageUpload {
  readonly bytes: Uint8Array;
  /** Distinct layers in the order of the archive. */
  readonly layers: ArchivedLayer[];
  #sha256: string | undefined;

  private constructor(
    readonly path: string,
    { layers }: ArchiveIndex,
  ) {
    this.bytes = Bun.mmap(path);
    this.layers = layers
      .map(({ offset, size }, index) => {
        const content = this.bytes.subarray(offset, offset + size);
        return { index, offset, content, frames: decodeTable(content, size) };
      })
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
}
