/** Layers without their compression: gzip or zstd, by the first bytes, since their names say nothing of it; bounded. */
import { promisify } from "node:util";
import { gunzip, zstdDecompress } from "node:zlib";

/**
 * What an image may be unpacked: 100 times what is stored, at least 16 MiB and at most 2 GiB for all its layers. Programs
 * are packed to a third or a fourth; what gets a hundred times as large is made to fill memory.
 */
const MOST_TIMES = 100;
const LEAST_LIMIT = 16 * 2 ** 20;
export const MAX_UNPACKED_BYTES = 2 * 2 ** 30;

export type CompressionFormat = "none" | "gzip" | "zstd";

const ZSTD_MAGIC = 0xfd2fb528;

/** How bytes are packed. RFC 1952, 2.3.1; RFC 8878, 3.1.1 */
export function detectCompression(bytes: Uint8Array): CompressionFormat {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) return "gzip";
  return bytes.length >= 4 && view(bytes).getUint32(0, true) === ZSTD_MAGIC ? "zstd" : "none";
}

/** Unpacks the layers of one image, which share a limit. */
export class Decompressor {
  #left: number;

  /** @param stored bytes of the image's layers as they are stored, each once */
  constructor(stored: number) {
    this.#left = Math.min(MAX_UNPACKED_BYTES, Math.max(LEAST_LIMIT, MOST_TIMES * stored));
  }

  /**
   * @returns the same bytes where they are not packed
   * @throws {Error} when they are damaged or cut, something follows them, or they are larger than an image may be
   */
  async unpack(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
    const packing = detectCompression(bytes);
    if (packing === "none") return bytes;
    if (packing === "zstd" && !isWholeZstd(bytes)) throw new Error("it is cut, or more than zstd");
    const limit = this.#left;
    const options = { maxOutputLength: Math.max(limit, 1), chunkSize: 1 << 20, info: true };
    try {
      const { buffer, engine } = await inflate(packing, bytes, options);
      // gunzip passes over zeros, where others fail.
      if (engine.bytesWritten !== bytes.length) throw new Error(`there is something after its ${packing}`);
      this.#left -= buffer.length;
      if (this.#left < 0) throw tooLarge(limit);
      return new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.length);
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === "ERR_BUFFER_TOO_LARGE" ? tooLarge(limit) : error;
    }
  }
}

function tooLarge(limit: number): Error {
  return new Error(`unpacked it is larger than ${limit} bytes, which is left of what the image may be`);
}

interface Inflated {
  buffer: Buffer;
  /** bytesWritten: those that were read of what is packed. */
  engine: { bytesWritten: number };
}

/** Not Bun.gunzipSync, which stops after the first member of a file with several; nor Bun.zstd…, which knows no limit. */
function inflate(packing: "gzip" | "zstd", bytes: Uint8Array, options: object): Promise<Inflated> {
  const call: (bytes: Uint8Array, options: object) => Promise<unknown> =
    packing === "gzip" ? promisify(gunzip) : promisify(zstdDecompress);
  // The types do not know of `info`.
  return call(bytes, options) as Promise<Inflated>;
}

/**
 * Whether these are frames of zstd from the first to the last byte; the decoder takes what is cut for whole. RFC 8878,
 * 3.1: a frame is its header, blocks that say how long they are, and maybe a checksum.
 */
function isWholeZstd(bytes: Uint8Array): boolean {
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
      // A block of one byte repeated has that byte.
      next += 3 + (((block >> 1) & 3) === 1 ? 1 : block >> 3);
    }
    next += flags & 4;
  }
  return next === end;
}

function view({ buffer, byteOffset, length }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, length);
}
