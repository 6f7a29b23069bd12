/**
 * Computes the difference between two compressed layers as a list of operations on frames. The remote host has only sh and
 * coreutils, and head(1) can only copy or skip bytes of a stream. Copies therefore never go backwards.
 */
import type { Frame } from "../image/layer-frames.ts";

/** Copies bytes of the base, skips bytes of the base, or inserts new bytes. */
export type DeltaOp = { copy: number } | { skip: number } | { insert: Uint8Array };

/** Each operation costs the host a process. */
const MAX_OPERATIONS = 600;

/**
 * Computes the operations that turn the base into `target`. They read the base to its end.
 *
 * Equal frames are recognised by sizes and checksum. The host verifies the result by its SHA-256.
 *
 * @param target the compressed layer
 * @param frames of the target. Bytes after the last one are inserted
 * @param base the frames of the base, and its size in bytes
 */
export function computeDelta(target: Uint8Array, frames: Frame[], base: { frames: Frame[]; size: number }): DeltaOp[] {
  const matches = matchFrames(frames, base.frames);
  for (let minBytes = 0; ; minBytes = Math.max(256, minBytes * 2)) {
    const operations = toOperations(target, copiesOf(matches, frames, base.frames, minBytes), base.size);
    if (operations.length <= MAX_OPERATIONS) return operations;
  }
}

interface Copy {
  /** Positions in bytes. */
  from: number;
  to: number;
  length: number;
}

/** Joins matches of adjacent frames, and drops runs that are shorter than `minBytes`. */
function copiesOf(matches: (number | undefined)[], frames: Frame[], base: Frame[], minBytes: number): Copy[] {
  const baseStarts = startsOf(base);
  const copies: Copy[] = [];
  let to = 0;
  for (const [i, { size }] of frames.entries()) {
    const from = baseStarts[matches[i] ?? -1];
    const last = copies.at(-1);
    if (from !== undefined) {
      if (last && last.from + last.length === from && last.to + last.length === to) last.length += size;
      else copies.push({ from, to, length: size });
    }
    to += size;
  }
  return copies.filter(({ length }) => length >= minBytes);
}

function startsOf(frames: Frame[]): number[] {
  let at = 0;
  return frames.map(({ size }) => (at += size) - size);
}

function toOperations(target: Uint8Array, copies: Copy[], baseSize: number): DeltaOp[] {
  const operations: DeltaOp[] = [];
  let [read, written] = [0, 0];
  const advance = (from: number, to: number) => {
    if (to > written) operations.push({ insert: target.subarray(written, to) });
    if (from > read) operations.push({ skip: from - read });
  };
  for (const { from, to, length } of copies) {
    advance(from, to);
    operations.push({ copy: length });
    [read, written] = [from + length, to + length];
  }
  advance(baseSize, target.length);
  return operations;
}

/** Limit for frames that occur often, such as zeros. */
const MAX_OCCURRENCES = 32;

/**
 * Finds a longest common subsequence.
 *
 * Method: Hunt, Szymanski, "A fast algorithm for computing longest common subsequences", CACM 20 (1977).
 *
 * @returns for each target frame the index of its base frame
 */
function matchFrames(target: Frame[], base: Frame[]): (number | undefined)[] {
  const keyOf = ({ size, unpackedSize, checksum }: Frame) => `${size}-${unpackedSize}-${checksum}`;
  const occurrences = new Map<string, number[]>();
  for (const [i, frame] of base.entries()) {
    const list = occurrences.get(keyOf(frame)) ?? [];
    if (list.length < MAX_OCCURRENCES) list.push(i);
    occurrences.set(keyOf(frame), list);
  }
  interface Link {
    targetIndex: number;
    baseIndex: number;
    previous: Link | undefined;
  }
  /** The last link of the best sequence of each length. Their base indexes ascend. */
  const ends: Link[] = [];
  for (const [targetIndex, frame] of target.entries()) {
    // Backwards, so that a frame is used once for each length.
    for (const baseIndex of (occurrences.get(keyOf(frame)) ?? []).toReversed()) {
      let [low, high] = [0, ends.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (ends[middle]!.baseIndex < baseIndex) low = middle + 1;
        else high = middle;
      }
      ends[low] = { targetIndex, baseIndex, previous: ends[low - 1] };
    }
  }
  const matches = new Array<number | undefined>(target.length).fill(undefined);
  for (let link = ends.at(-1); link; link = link.previous) matches[link.targetIndex] = link.baseIndex;
  return matches;
}
