/**
 * Computes a delta that turns one file into another with a single pass over the first. The remote host only has sh and
 * coreutils, and head(1) can only copy or skip bytes of a stream. A delta is therefore a list of three operations, and its
 * matches never go backwards.
 *
 * Two builds of a service usually differ only in their last megabytes. Files are therefore compared by chunks first. A chunk
 * that differs is compared byte by byte if its old content is cached, or else by block hashes from the remote host.
 */
import { sha256 } from "../core/hash.ts";

export const CHUNK_BYTES = 1 << 20;
export const BLOCK_BYTES = 1 << 10;
/** Hex digits of a hash. Short hashes suffice, because the result is verified with a full SHA-256. */
export const HASH_PREFIX_LENGTH = 12;

/** Copies bytes of the base, skips bytes of the base, or inserts new bytes. */
export type DeltaOp = { copy: number } | { skip: number } | { insert: Uint8Array };

/** The known facts about the base. */
export interface DeltaBase {
  size: number;
  /** Hash of each chunk. */
  hashes: string[];
  /** Returns a chunk's content if it is cached. */
  content(chunk: number): Uint8Array | undefined;
  /** Returns the hashes of a chunk's blocks if they are known. */
  blockHashes(chunk: number): string[] | undefined;
}

export function shortHash(bytes: Uint8Array): string {
  return sha256(bytes).slice(0, HASH_PREFIX_LENGTH);
}

/** Splits the bytes into pieces of a size (the last piece may be shorter) and hashes each. */
export function shortHashes(bytes: Uint8Array, size: number): string[] {
  return split(bytes, size).map(shortHash);
}

function split(bytes: Uint8Array, size: number): Uint8Array[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size));
}

/** Returns the changed chunks with neither cached content nor known block hashes. */
export function chunksWithoutKnownContent(targetHashes: string[], base: DeltaBase): number[] {
  return [...base.hashes.keys()].filter(
    (chunk) => targetHashes[chunk] !== base.hashes[chunk] && !base.content(chunk) && !base.blockHashes(chunk),
  );
}

/**
 * Computes the operations that turn the base into `target`. They never read past the end of the base.
 *
 * @param targetHashes hashes of the target's chunks. The caller can pass them, because hashing 100 MB takes a moment.
 */
export function computeDelta(
  target: Uint8Array,
  base: DeltaBase,
  targetHashes = shortHashes(target, CHUNK_BYTES),
): DeltaOp[] {
  const operations: DeltaOp[] = [];
  const chunks = split(target, CHUNK_BYTES);
  const sizeOf = (chunk: number) => Math.max(0, Math.min(CHUNK_BYTES, base.size - chunk * CHUNK_BYTES));
  for (let chunk = 0; chunk < chunks.length; chunk += 1) {
    const [bytes, size] = [chunks[chunk]!, sizeOf(chunk)];
    if (size === bytes.length && targetHashes[chunk] === base.hashes[chunk]) {
      operations.push({ copy: size });
      continue;
    }
    // Content can move across chunk boundaries, so adjacent changed chunks with cached content are compared together.
    const run = [bytes];
    const cached = [base.content(chunk)];
    while (cached.at(-1) && chunk + 1 < chunks.length) {
      const [next, content] = [chunks[chunk + 1]!, base.content(chunk + 1)];
      if (!content || targetHashes[chunk + 1] === base.hashes[chunk + 1]) break;
      run.push(next);
      cached.push(content);
      chunk += 1;
    }
    const blockHashes = base.blockHashes(chunk);
    if (cached[0]) operations.push(...diffBytes(Buffer.concat(run), Buffer.concat(cached as Uint8Array[])));
    else if (blockHashes) operations.push(...diffBlocks(bytes, blockHashes, size));
    else operations.push({ insert: bytes }, { skip: size });
  }
  return merge(operations);
}

/** Copies blocks whose hash is the same at the same position, and inserts the others. */
function diffBlocks(target: Uint8Array, baseHashes: string[], baseSize: number): DeltaOp[] {
  return split(target, BLOCK_BYTES).flatMap((block, i): DeltaOp[] => {
    const size = Math.max(0, Math.min(BLOCK_BYTES, baseSize - i * BLOCK_BYTES));
    if (size === block.length && shortHash(block) === baseHashes[i]) return [{ copy: size }];
    return [{ insert: block }, { skip: size }];
  });
}

/** Number of bytes that are looked up in the index, and the distance between two lookups. */
const SEED_BYTES = 32;
const STEP_BYTES = 64;
/** Limits, because each operation costs the host several processes. */
const MIN_MATCH_BYTES = 256;
const MAX_OPERATIONS = 400;
/** Number of candidates that are compared for each seed. */
const MAX_CANDIDATES = 16;

/** Finds matches at any position that never go backwards. Raises the minimum length if there are too many. */
function diffBytes(target: Uint8Array, base: Uint8Array): DeltaOp[] {
  const index = indexSeeds(base);
  for (let minLength = MIN_MATCH_BYTES; ; minLength *= 4) {
    const operations = findMatches(target, base, new MatchFinder(base, index, minLength));
    if (operations) return operations;
  }
}

/** @returns undefined if there are more than MAX_OPERATIONS */
function findMatches(target: Uint8Array, base: Uint8Array, finder: MatchFinder): DeltaOp[] | undefined {
  const operations: DeltaOp[] = [];
  let [targetPosition, basePosition] = [0, 0];
  for (let i = 0; i + SEED_BYTES <= target.length;) {
    const match = finder.findLongest(target, i, targetPosition, basePosition);
    if (!match) {
      i += STEP_BYTES;
      continue;
    }
    const { targetStart, baseStart, length } = match;
    const insert = target.subarray(targetPosition, targetStart);
    operations.push({ insert }, { skip: baseStart - basePosition }, { copy: length });
    if (operations.length > MAX_OPERATIONS) return undefined;
    [targetPosition, basePosition] = [targetStart + length, baseStart + length];
    i = targetPosition;
  }
  const tail = [{ insert: target.subarray(targetPosition) }, { skip: base.length - basePosition }];
  return merge([...operations, ...tail]);
}

/** Linked lists of positions: the first position of each hash, and for each position the next with the same hash. */
interface SeedIndex {
  first: Int32Array;
  next: Int32Array;
}

function indexSeeds(base: Uint8Array): SeedIndex {
  const first = new Int32Array(1 << 20).fill(-1);
  const next = new Int32Array(base.length).fill(-1);
  // Backwards, so that each list is in ascending order.
  for (let i = base.length - SEED_BYTES; i >= 0; i -= 1) {
    const key = seedHash(base, i);
    next[i] = first[key]!;
    first[key] = i;
  }
  return { first, next };
}

/** Finds matches in the base while the target is read from start to end. */
class MatchFinder {
  readonly #first: Int32Array;
  readonly #next: Int32Array;

  constructor(
    private readonly base: Uint8Array,
    { first, next }: SeedIndex,
    private readonly minLength: number,
  ) {
    [this.#first, this.#next] = [first.slice(), next];
  }

  /**
   * Finds the longest match that contains `i`. A match that skips much of the base must be longer.
   *
   * @param minTarget earliest start in the target
   * @param minBase earliest start in the base. It never decreases between two calls.
   */
  findLongest(target: Uint8Array, i: number, minTarget: number, minBase: number) {
    const { base } = this;
    let best: { targetStart: number; baseStart: number; length: number } | undefined;
    const compare = (position: number) => {
      if (position < minBase || position + SEED_BYTES > base.length) return;
      let [targetStart, baseStart] = [i, position];
      while (targetStart > minTarget && baseStart > minBase && target[targetStart - 1] === base[baseStart - 1])
        [targetStart, baseStart] = [targetStart - 1, baseStart - 1];
      let end = i;
      while (end < target.length && target[end] === base[position + end - i]) end += 1;
      const length = end - targetStart;
      const skipped = Math.max(0, baseStart - minBase - (targetStart - minTarget));
      if (length >= this.minLength + skipped / 16 && length > (best?.length ?? 0))
        best = { targetStart, baseStart, length };
    };
    // Most bytes did not move.
    compare(minBase + (i - minTarget));
    const key = seedHash(target, i);
    let position = this.#first[key]!;
    while (position >= 0 && position < minBase) position = this.#next[position]!;
    this.#first[key] = position;
    for (let count = 0; position >= 0 && count < MAX_CANDIDATES; count += 1) {
      compare(position);
      position = this.#next[position]!;
    }
    return best;
  }
}

function seedHash(bytes: Uint8Array, start: number): number {
  let hash = 0;
  for (let i = start; i < start + SEED_BYTES; i += 4)
    hash =
      Math.imul(hash ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)), 0x9e3779b1) ^
      (hash >>> 15);
  return (hash ^ (hash >>> 13)) & ((1 << 20) - 1);
}

/** Merges adjacent operations and drops empty ones. */
function merge(operations: DeltaOp[]): DeltaOp[] {
  const merged: DeltaOp[] = [];
  // An insert and a skip next to each other can swap places, so one of each is enough between two copies.
  let [inserts, skip]: [Uint8Array[], number] = [[], 0];
  const flush = () => {
    if (inserts.length > 0) merged.push({ insert: Buffer.concat(inserts) });
    if (skip > 0) merged.push({ skip });
    [inserts, skip] = [[], 0];
  };
  for (const operation of operations) {
    if ("insert" in operation) {
      if (operation.insert.length > 0) inserts.push(operation.insert);
    } else if ("skip" in operation) skip += operation.skip;
    else if (operation.copy > 0) {
      const last = merged.at(-1);
      if (inserts.length === 0 && skip === 0 && last && "copy" in last) last.copy += operation.copy;
      else {
        flush();
        merged.push({ copy: operation.copy });
      }
    }
  }
  flush();
  return merged;
}
