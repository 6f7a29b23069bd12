/**
 * What turns one file into another, for a reader that goes through the first one once: the remote end has sh and coreutils, whose
 * head(1) can take and pass over bytes of a stream and nothing more. So a delta is a list of three orders, and its matches
 * never go back.
 *
 * Two builds of one service differ in their last megabytes alone: files are compared by chunks first, and only chunks that
 * differ are looked into: byte by byte where the one before is known here, else by hashes of blocks that the remote end
 * tells.
 */
import { sha256 } from "../core/hash.ts";

/** Bytes of a chunk, and of a block of one. */
export const CHUNK_BYTES = 1 << 20;
export const BLOCK_BYTES = 1 << 10;
/** Hex digits of a hash that are told: what is put together is compared by all of SHA-256 in the end. */
export const HASH_PREFIX_LENGTH = 12;

/** In order: bytes of the base that stay, bytes of it that are passed over, bytes that are new. */
export type DeltaOp = { keep: number } | { skip: number } | { put: Uint8Array };

/** As much of a base as is known here. */
export interface DeltaBase {
  size: number;
  /** Of each chunk, as `hashOf` gives it. */
  hashes: string[];
  /** A chunk's bytes, where they are known. */
  content(chunk: number): Uint8Array | undefined;
  /** Hashes of a chunk's blocks, where they are known. */
  blocks(chunk: number): string[] | undefined;
}

export function blockHash(bytes: Uint8Array): string {
  return sha256(bytes).slice(0, HASH_PREFIX_LENGTH);
}

/** Hashes of all pieces of that size; the last one may be shorter. */
export function blockHashes(bytes: Uint8Array, size: number): string[] {
  return piecesOf(bytes, size).map(blockHash);
}

function piecesOf(bytes: Uint8Array, size: number): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
    bytes.subarray(i * size, (i + 1) * size),
  );
}

/** Chunks of the base that differ and of which nothing but that is known. @param own hashes of the target's chunks */
export function unknownChunks(own: string[], base: DeltaBase): number[] {
  return [...base.hashes.keys()].filter(
    (chunk) => own[chunk] !== base.hashes[chunk] && !base.content(chunk) && !base.blocks(chunk),
  );
}

/**
 * What makes `target` of the base. Orders for the base end with its end, or before.
 *
 * @param own hashes of the target's chunks: over 100 MB they take a moment, and others want them, too
 */
export function computeDelta(
  target: Uint8Array,
  base: DeltaBase,
  own = blockHashes(target, CHUNK_BYTES),
): DeltaOp[] {
  const orders: DeltaOp[] = [];
  const chunks = piecesOf(target, CHUNK_BYTES);
  const sizeOf = (chunk: number) => Math.max(0, Math.min(CHUNK_BYTES, base.size - chunk * CHUNK_BYTES));
  for (let chunk = 0; chunk < chunks.length; chunk += 1) {
    const [bytes, size] = [chunks[chunk]!, sizeOf(chunk)];
    if (size === bytes.length && own[chunk] === base.hashes[chunk]) {
      orders.push({ keep: size });
      continue;
    }
    // What moved, moved over the chunks' borders: those that differ and are known are one piece.
    const run = [bytes];
    const known = [base.content(chunk)];
    while (known.at(-1) && chunk + 1 < chunks.length) {
      const [next, content] = [chunks[chunk + 1]!, base.content(chunk + 1)];
      if (!content || own[chunk + 1] === base.hashes[chunk + 1]) break;
      run.push(next);
      known.push(content);
      chunk += 1;
    }
    const blocks = base.blocks(chunk);
    if (known[0]) orders.push(...byBytes(Buffer.concat(run), Buffer.concat(known as Uint8Array[])));
    else if (blocks) orders.push(...byBlocks(bytes, blocks, size));
    else orders.push({ put: bytes }, { skip: size });
  }
  return joined(orders);
}

/** Blocks that stand where they stood, and the rest anew. */
function byBlocks(target: Uint8Array, hashes: string[], size: number): DeltaOp[] {
  return piecesOf(target, BLOCK_BYTES).flatMap((block, i): DeltaOp[] => {
    const before = Math.max(0, Math.min(BLOCK_BYTES, size - i * BLOCK_BYTES));
    if (before === block.length && blockHash(block) === hashes[i]) return [{ keep: before }];
    return [{ put: block }, { skip: before }];
  });
}

/** Bytes that are looked up at once, at every so many of the target. */
const SEED = 32;
const STEP = 64;
/** The fewest bytes that are worth an order, which costs the other side some processes; and the most orders for that. */
const SHORTEST = 256;
const MOST_ORDERS = 400;
/** Places with the same seed that are tried. */
const TRIES = 16;

/** Matches at any place, as long as they do not go back; fewer and longer ones where they would be too many. */
function byBytes(target: Uint8Array, base: Uint8Array): DeltaOp[] {
  const index = indexOf(base);
  for (let shortest = SHORTEST; ; shortest *= 4) {
    const orders = matches(target, base, new Places(base, index, shortest));
    if (orders) return orders;
  }
}

/** undefined: they would be too many. */
function matches(target: Uint8Array, base: Uint8Array, places: Places): DeltaOp[] | undefined {
  const orders: DeltaOp[] = [];
  let [from, at] = [0, 0];
  for (let i = 0; i + SEED <= target.length;) {
    const match = places.longest(target, i, from, at);
    if (!match) {
      i += STEP;
      continue;
    }
    const { start, place, length } = match;
    orders.push({ put: target.subarray(from, start) }, { skip: place - at }, { keep: length });
    if (orders.length > MOST_ORDERS) return undefined;
    [from, at] = [start + length, place + length];
    i = from;
  }
  return joined([...orders, { put: target.subarray(from) }, { skip: base.length - at }]);
}

/** The first place of each seed, by its key, and after each place the next one of the same key. */
interface Index {
  first: Int32Array;
  next: Int32Array;
}

function indexOf(base: Uint8Array): Index {
  const first = new Int32Array(1 << 20).fill(-1);
  const next = new Int32Array(base.length).fill(-1);
  // From behind, so that a list begins with the first place.
  for (let i = base.length - SEED; i >= 0; i -= 1) {
    const key = keyOf(base, i);
    next[i] = first[key]!;
    first[key] = i;
  }
  return { first, next };
}

/** Where a file has which seeds, for who goes through it once. */
class Places {
  readonly #first: Int32Array;
  readonly #next: Int32Array;

  constructor(
    private readonly base: Uint8Array,
    { first, next }: Index,
    private readonly shortest: number,
  ) {
    [this.#first, this.#next] = [first.slice(), next];
  }

  /**
   * The longest match around `i` that begins in the target not before `from` and in the base not before `at`; one that passes over
   * much of the base has to be worth it.
   *
   * @param at never less than in the call before
   */
  longest(target: Uint8Array, i: number, from: number, at: number) {
    const { base } = this;
    let best: { start: number; place: number; length: number } | undefined;
    const consider = (place: number) => {
      if (place < at || place + SEED > base.length) return;
      let [start, begin] = [i, place];
      while (start > from && begin > at && target[start - 1] === base[begin - 1])
        [start, begin] = [start - 1, begin - 1];
      let end = i;
      while (end < target.length && target[end] === base[place + end - i]) end += 1;
      const length = end - start;
      const passed = Math.max(0, begin - at - (start - from));
      if (length >= this.shortest + passed / 16 && length > (best?.length ?? 0))
        best = { start, place: begin, length };
    };
    // Most bytes stand where they stood.
    consider(at + (i - from));
    const key = keyOf(target, i);
    let place = this.#first[key]!;
    while (place >= 0 && place < at) place = this.#next[place]!;
    this.#first[key] = place;
    for (let tries = 0; place >= 0 && tries < TRIES; tries += 1) {
      consider(place);
      place = this.#next[place]!;
    }
    return best;
  }
}

function keyOf(bytes: Uint8Array, at: number): number {
  let key = 0;
  for (let i = at; i < at + SEED; i += 4)
    key =
      Math.imul(
        key ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)),
        0x9e3779b1,
      ) ^
      (key >>> 15);
  return (key ^ (key >>> 13)) & ((1 << 20) - 1);
}

/** The same in as few orders as it takes. */
function joined(orders: DeltaOp[]): DeltaOp[] {
  const all: DeltaOp[] = [];
  // A skip may change places with what is put beside it: between two keeps one of each is left.
  let [puts, skip]: [Uint8Array[], number] = [[], 0];
  const flush = () => {
    if (puts.length > 0) all.push({ put: Buffer.concat(puts) });
    if (skip > 0) all.push({ skip });
    [puts, skip] = [[], 0];
  };
  for (const order of orders) {
    if ("put" in order) {
      if (order.put.length > 0) puts.push(order.put);
    } else if ("skip" in order) skip += order.skip;
    else if (order.keep > 0) {
      const last = all.at(-1);
      if (puts.length === 0 && skip === 0 && last && "keep" in last) last.keep += order.keep;
      else {
        flush();
        all.push({ keep: order.keep });
      }
    }
  }
  flush();
  return all;
}
