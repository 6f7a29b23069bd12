/**
 * Compresses a layer as a sequence of independent zstd frames, so that an edit changes few of them.
 *
 * Most bytes of a layer are Bun's own, which no edit changes. They are cut at fixed offsets into large frames, which are
 * cached. All other bytes are cut where their content says so, and the service's code into the smallest pieces. An edit that
 * moves bytes therefore changes only the frames around it. The cut, the levels and the zstd of the pinned Bun are part of the
 * format: equal layers have equal frames.
 *
 * The table of the frames is the last frame. Decoders skip it. ssh/frame-delta.ts compares the tables of two layers.
 *
 * Formats: RFC 8878; seekable format 0.1.0,
 * https://github.com/facebook/zstd/blob/v1.5.6/contrib/seekable_format/zstd_seekable_compression_format.md
 */
import { FrameCache } from "./frame-cache.ts";

/**
 * How a part is cut. `fixed`: at fixed offsets, for content that rarely changes. `coarse` and `fine`: by the content, into pieces
 * that compress well, or that are small enough to send after each edit.
 */
export type Cut = "fixed" | "coarse" | "fine";

export interface LayerPart {
  bytes: Uint8Array<ArrayBuffer>;
  cut: Cut;
}

/** An entry of the table. */
export interface Frame {
  /** Compressed size in bytes. */
  size: number;
  unpackedSize: number;
  /** The low 32 bits of the XXH64 of the unpacked content. */
  checksum: number;
}

/** Larger frames compress better, but one takes longer to send. 8 MiB are 3 MB compressed. */
export const STABLE_FRAME_BYTES = 8 << 20;
/** Level 9 makes Bun 9 % smaller than level 3, in twice the time. The cache makes it once for each version of Bun. */
const STABLE_LEVEL = 9;
const LEVEL = 3;

const SKIPPABLE_MAGIC = 0x184d2a5e;
const SEEKABLE_MAGIC = 0x8f92eab1;
const HAS_CHECKSUMS = 0x80;
const SKIPPABLE_HEADER_BYTES = 8;
/** The number of frames is at the start of the footer. */
export const TABLE_FOOTER_BYTES = 9;
export const TABLE_ENTRY_BYTES = 12;
export const TABLE_OVERHEAD_BYTES = SKIPPABLE_HEADER_BYTES + TABLE_FOOTER_BYTES;

/** Compresses a layer. @returns its frames in order, with the table as the last one */
export async function compressLayer(
  parts: Iterable<LayerPart>,
  cache = new FrameCache(STABLE_LEVEL),
): Promise<Uint8Array[]> {
  const compressing: Promise<{ unpacked: Frame; bytes: Uint8Array }>[] = [];
  const add = (bytes: Uint8Array<ArrayBuffer>, compressed: Uint8Array | Promise<Uint8Array>) => {
    const checksum = Number(Bun.hash.xxHash64(bytes) & 0xffffffffn);
    const describe = (result: Uint8Array) => ({
      unpacked: { size: result.length, unpackedSize: bytes.length, checksum },
      bytes: result,
    });
    compressing.push(Promise.resolve(compressed).then(describe));
  };
  /** Adjacent parts with the same cut by content. */
  let pending: Uint8Array[] = [];
  let pendingCut: "coarse" | "fine" = "coarse";
  const cutPending = () => {
    for (const piece of cutByContent(Buffer.concat(pending), pieceSizes[pendingCut]))
      add(piece, Bun.zstdCompressSync(piece, { level: LEVEL }));
    pending = [];
  };
  for (const { bytes, cut } of parts) {
    if (cut !== "fixed") {
      if (cut !== pendingCut) cutPending();
      pendingCut = cut;
      pending.push(bytes);
      continue;
    }
    cutPending();
    for (let start = 0; start < bytes.length; start += STABLE_FRAME_BYTES) {
      const piece = bytes.subarray(start, start + STABLE_FRAME_BYTES);
      add(piece, compressStable(piece, cache));
    }
  }
  cutPending();
  const frames = await Promise.all(compressing);
  return [...frames.map(({ bytes }) => bytes), encodeTable(frames.map(({ unpacked }) => unpacked))];
}

async function compressStable(piece: Uint8Array<ArrayBuffer>, cache: FrameCache): Promise<Uint8Array> {
  const cached = await cache.load(piece);
  if (cached) return cached;
  const frame = await Bun.zstdCompress(piece, { level: STABLE_LEVEL });
  await cache.save(piece, frame);
  return frame;
}

interface PieceSizes {
  minBytes: number;
  maxBytes: number;
  /** A piece ends where these bits of the hash are zero. Each bit doubles the average size, beyond the minimum. */
  boundaryMask: number;
}

const pieceSizes: Record<"coarse" | "fine", PieceSizes> = {
  // 2 KiB on average, beyond the minimum.
  fine: { minBytes: 1 << 10, maxBytes: 1 << 14, boundaryMask: 0xffe00000 },
  // 128 KiB on average, beyond the minimum.
  coarse: { minBytes: 1 << 16, maxBytes: 1 << 20, boundaryMask: 0xffff8000 },
};

/** The hash depends on this number of bytes, because each step shifts the older ones out of its 32 bits. */
const WINDOW_BYTES = 32;

/**
 * Cuts bytes where a rolling hash of the last bytes has a pattern (content-defined chunking).
 *
 * Method: Xia et al., "FastCDC", USENIX ATC 2016.
 */
function* cutByContent(
  bytes: Uint8Array<ArrayBuffer>,
  { minBytes, maxBytes, boundaryMask }: PieceSizes,
): Iterable<Uint8Array<ArrayBuffer>> {
  for (let start = 0; start < bytes.length;) {
    const end = Math.min(bytes.length, start + maxBytes);
    const first = Math.min(end, start + minBytes);
    let hash = 0;
    let at = Math.max(start, first - WINDOW_BYTES);
    for (; at < end; at += 1) {
      hash = ((hash << 1) + gear[bytes[at]!]!) | 0;
      if (at >= first && (hash & boundaryMask) === 0) break;
    }
    const next = Math.min(end, at + 1);
    yield bytes.subarray(start, next);
    start = next;
  }
}

/** A fixed pseudorandom number for each byte value. */
const gear = Int32Array.from({ length: 256 }, (_, byte) =>
  Number(Bun.hash.xxHash64(Uint8Array.of(byte)) & 0xffffffffn),
);

function encodeTable(frames: Frame[]): Uint8Array {
  const table = Buffer.alloc(frames.length * TABLE_ENTRY_BYTES + TABLE_OVERHEAD_BYTES);
  table.writeUInt32LE(SKIPPABLE_MAGIC, 0);
  table.writeUInt32LE(table.length - SKIPPABLE_HEADER_BYTES, 4);
  frames.forEach(({ size, unpackedSize, checksum }, i) => {
    const at = SKIPPABLE_HEADER_BYTES + i * TABLE_ENTRY_BYTES;
    table.writeUInt32LE(size, at);
    table.writeUInt32LE(unpackedSize, at + 4);
    table.writeUInt32LE(checksum, at + 8);
  });
  const footer = table.length - TABLE_FOOTER_BYTES;
  table.writeUInt32LE(frames.length, footer);
  table[footer + 4] = HAS_CHECKSUMS;
  table.writeUInt32LE(SEEKABLE_MAGIC, footer + 5);
  return table;
}

/**
 * Reads the table at the end of a layer.
 *
 * @param end the layer, or at least its table
 * @param size of the whole layer in bytes
 * @returns all frames, the table's own included, or undefined if the layer has no such table
 */
export function decodeTable(end: Uint8Array, size: number): Frame[] | undefined {
  const bytes = Buffer.from(end.buffer, end.byteOffset, end.length);
  const footer = bytes.length - TABLE_FOOTER_BYTES;
  if (footer < SKIPPABLE_HEADER_BYTES || bytes.readUInt32LE(footer + 5) !== SEEKABLE_MAGIC) return undefined;
  const count = bytes.readUInt32LE(footer);
  const start = footer - count * TABLE_ENTRY_BYTES;
  if (bytes[footer + 4] !== HAS_CHECKSUMS || start < SKIPPABLE_HEADER_BYTES) return undefined;
  const frames = Array.from({ length: count }, (_, i): Frame => {
    const at = start + i * TABLE_ENTRY_BYTES;
    return {
      size: bytes.readUInt32LE(at),
      unpackedSize: bytes.readUInt32LE(at + 4),
      checksum: bytes.readUInt32LE(at + 8),
    };
  });
  const total = frames.reduce((sum, frame) => sum + frame.size, count * TABLE_ENTRY_BYTES + TABLE_OVERHEAD_BYTES);
  return total === size ? frames : undefined;
}
