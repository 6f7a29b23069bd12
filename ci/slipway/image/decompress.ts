/** Decompresses layers within a size limit. The format, gzip or zstd, is detected by the first bytes. */
import { promisify } from "node:util";
import { gunzip, zstdDecompress } from "node:zlib";

/**
 * Limits of an image's unpacked size: 100 times the stored size, at least 16 MiB and at most 2 GiB for all layers.
 * Programs compress to a third or a fourth. A ratio over 100 indicates a decompression bomb.
 */
const MAX_RATIO = 100;
const MIN_LIMIT_BYTES = 16 * 2 ** 20;
export const MAX_UNPACKED_BYTES = 2 * 2 ** 30;

export type CompressionFormat = "none" | "gzip" | "zstd";

const ZSTD_MAGIC = 0xfd2fb528;

/** Detects the format by its magic number. RFC 1952, 2.3.1; RFC 8878, 3.1.1 */
export function detectCompression(bytes: Uint8Array): CompressionFormat {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return "gzip";
  return bytes.length >= 4 && view(bytes).getUint32(0, true) === ZSTD_MAGIC ? "zstd" : "none";
}

/** Decompresses the layers of one image, which share a limit. */
export class Decompressor {
  #remainingBytes: number;

  /** @param storedBytes total size of the image's layers in the archive, repeated layers counted once */
  constructor(storedBytes: number) {
    this.#remainingBytes = Math.min(MAX_UNPACKED_BYTES, Math.max(MIN_LIMIT_BYTES, MAX_RATIO * storedBytes));
  }

  /**
   * Decompresses a layer. Uncompressed bytes are returned unchanged.
   *
   * @throws {Error} if the data is damaged, truncated, followed by other data, or exceeds the limit
   */
  async unpack(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    const packing = detectCompression(bytes);
    if (packing === "none") return bytes;
    if (packing === "zstd" && !isCompleteZstd(bytes))
      throw new Error("its zstd data is truncated or followed by other data");
    const limit = this.#remainingBytes;
    const options = { maxOutputLength: Math.max(limit, 1), chunkSize: 1 << 20, info: true };
    try {
      const { buffer, engine } = await inflate(packing, bytes, options);
      // gunzip ignores trailing zeros, but other tools fail.
      if (engine.bytesWritten !== bytes.length) throw new Error(`its ${packing} data is followed by other data`);
      this.#remainingBytes -= buffer.length;
      if (this.#remainingBytes < 0) throw tooLarge(limit);
      return new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.length);
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === "ERR_BUFFER_TOO_LARGE" ? tooLarge(limit) : error;
    }
  }
}

function tooLarge(limit: number): Error {
  return new Error(`unpacked it is larger than ${limit} bytes, the remaining limit of the image`);
}

interface Inflated {
  buffer: Buffer;
  /** `bytesWritten` counts the compressed bytes that were consumed. */
  engine: { bytesWritten: number };
}

/** Uses node:zlib, because Bun.gunzipSync stops after the first gzip member and Bun.zstd… has no size limit. */
function inflate(packing: "gzip" | "zstd", bytes: Uint8Array, options: object): Promise<Inflated> {
  const call: (bytes: Uint8Array, options: object) => Promise<unknown> =
    packing === "gzip" ? promisify(gunzip) : promisify(zstdDecompress);
  // The types lack the `info` option.
  return call(bytes, options) as Promise<Inflated>;
}

/**
 * Whether the bytes consist of complete zstd frames. The decoder itself accepts truncated data.
 *
 * RFC 8878, 3.1: a frame is a header, blocks that declare their length, and an optional checksum.
 */
function isCompleteZstd(bytes: Uint8Array): boolean {
  const at = view(bytes);
  const end = bytes.length;
  let next = 0;
  while (next < end) {
    if (next + 8 > end) return false;
    const magic = at.getUint32(next, true);
    if (magic >>> 4 === 0x184d2a5) {
      next += 8 + at.getUint32(next + 4, true);
      continue;
    }
    if (magic !== ZSTD_MAGIC) return false;
    const flags = at.getUint8(next + 4);
    const single = (flags >> 5) & 1;
    next += 5 + (1 - single) + [0, 1, 2, 4][flags & 3]! + [single, 2, 4, 8][flags >> 6]!;
    for (let last = 0; last === 0;) {
      if (next + 3 > end) return false;
      const block = at.getUint16(next, true) | (at.getUint8(next + 2) << 16);
      last = block & 1;
      // An RLE block stores only the repeated byte.
      next += 3 + (((block >> 1) & 3) === 1 ? 1 : block >> 3);
    }
    next += flags & 4;
  }
  return next === end;
}

function view({ buffer, byteOffset, length }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, length);
}
