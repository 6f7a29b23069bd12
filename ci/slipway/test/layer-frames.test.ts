/** Tests of layers as sequences of zstd frames, of their cache, and of the difference between two of them. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { FrameCache } from "../image/frame-cache.ts";
import { compressLayer, decodeTable, STABLE_FRAME_BYTES, type Frame, type LayerPart } from "../image/layer-frames.ts";
import { computeDelta, type DeltaOp } from "../ssh/frame-delta.ts";

setDefaultTimeout(120_000);

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-test-"))));
afterAll(() => rmSync(directory, { recursive: true }));

/** Generates the same numbers in each run, so that a failure can be reproduced. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    // The lower bits of a linear congruential generator hardly change.
    yield (state >>> 8) / (1 << 24);
  }
}

const next = numbers(7);
const randomBelow = (limit: number) => Math.floor(next.next().value * limit);
const random = (length: number) => Uint8Array.from({ length }, () => randomBelow(256));
const loose = (bytes: Uint8Array): LayerPart => ({ bytes: new Uint8Array(bytes), cut: "fine" });
const coarse = (bytes: Uint8Array): LayerPart => ({ bytes: new Uint8Array(bytes), cut: "coarse" });
const stable = (bytes: Uint8Array): LayerPart => ({ bytes: new Uint8Array(bytes), cut: "fixed" });

const cacheIn = (name: string) => new FrameCache(9, join(directory, name));

interface Layer {
  bytes: Uint8Array;
  frames: Frame[];
}

async function compress(parts: LayerPart[], cache = cacheIn("shared")): Promise<Layer> {
  const bytes = Buffer.concat(await compressLayer(parts, cache));
  return { bytes, frames: decodeTable(bytes, bytes.length)! };
}

describe("a compressed layer", () => {
  test("unpacks to its content, and its table describes the frames", async () => {
    const parts = [loose(random(100)), stable(random(70_000)), loose(random(50_000)), stable(random(3))];
    const { bytes, frames } = await compress(parts);
    const content = Buffer.concat(parts.map(({ bytes }) => bytes));
    expect(zstdDecompressSync(bytes)).toEqual(content);
    let [at, unpackedAt] = [0, 0];
    for (const { size, unpackedSize, checksum } of frames) {
      const unpacked = zstdDecompressSync(bytes.subarray(at, (at += size)));
      expect(unpacked).toEqual(content.subarray(unpackedAt, (unpackedAt += unpackedSize)));
      expect(Number(Bun.hash.xxHash64(unpacked) & 0xffffffffn)).toBe(checksum);
    }
    expect(unpackedAt).toBe(content.length);
    // 8 bytes of header, 12 bytes for each frame, 9 bytes at the end.
    expect(bytes.length - at).toBe(8 + frames.length * 12 + 9);
  });

  test("is the same however the loose bytes are handed over, and with or without a cache", async () => {
    const content = random(60_000);
    const base = random(STABLE_FRAME_BYTES + 5);
    const one = await compress([loose(content), stable(base)], cacheIn("one"));
    const pieces = [content.subarray(0, 1), content.subarray(1, 30_000), content.subarray(30_000)].map(loose);
    expect((await compress([...pieces, stable(base)], cacheIn("one"))).bytes).toEqual(one.bytes);
    expect((await compress([...pieces, stable(base)], cacheIn("other"))).bytes).toEqual(one.bytes);
    expect(one.frames.slice(-2).map(({ unpackedSize }) => unpackedSize)).toEqual([STABLE_FRAME_BYTES, 5]);
  });

  test("of no bytes at all has a table and nothing else", async () => {
    const { bytes, frames } = await compress([]);
    expect(frames).toEqual([]);
    expect(zstdDecompressSync(bytes)).toHaveLength(0);
  });

  test("changes in the frames around an edit only, also if bytes move", async () => {
    const before = random(400_000);
    const after = Buffer.concat([before.subarray(0, 200_000), Buffer.from("a line"), before.subarray(200_000)]);
    const [one, other] = await Promise.all([compress([loose(before)]), compress([loose(after)])]);
    const known = new Set(one.frames.map(({ checksum }) => checksum));
    const changed = other.frames.filter(({ checksum }) => !known.has(checksum));
    expect(changed.length).toBeLessThanOrEqual(3);
    expect(one.frames.length).toBeGreaterThan(50);
  });

  test.each([
    ["fine", loose, 300_000, 1 << 10, 1 << 14],
    ["coarse", coarse, 4_000_000, 1 << 16, 1 << 20],
  ] as const)("%s pieces are within their limits, except for the last one", async (_, part, length, min, max) => {
    for (const content of [random(length), new Uint8Array(length)]) {
      const sizes = (await compress([part(content)])).frames.map(({ unpackedSize }) => unpackedSize);
      expect(sizes.length).toBeGreaterThan(3);
      expect(Math.max(...sizes)).toBeLessThanOrEqual(max);
      expect(Math.min(...sizes.slice(0, -1))).toBeGreaterThanOrEqual(min);
    }
  });

  test("is cut where the kind of its parts changes", async () => {
    const parts = [coarse(random(700)), loose(random(700)), loose(random(100)), coarse(random(700))];
    const sizes = (await compress(parts)).frames.map(({ unpackedSize }) => unpackedSize);
    expect(sizes).toEqual([700, 800, 700]);
  });

  test("a damaged or foreign table is not read", async () => {
    const { bytes } = await compress([loose(random(20_000))]);
    expect(decodeTable(bytes, bytes.length)).toBeDefined();
    expect(decodeTable(bytes, bytes.length + 1)).toBeUndefined();
    for (const at of [1, 3, 5, 6, 9]) {
      const damaged = Buffer.from(bytes);
      damaged[damaged.length - at]! ^= 0xff;
      expect(decodeTable(damaged, damaged.length), `${at} from the end`).toBeUndefined();
    }
    for (const text of ["", "x", "a plain tar"]) expect(decodeTable(Buffer.from(text), text.length)).toBeUndefined();
  });
});

describe("the cache of frames", () => {
  const frame = Buffer.from("a frame");
  const content = Buffer.from("its content");

  test("returns the frame of the same content and level, and no damaged one", async () => {
    const cache = cacheIn("frames");
    expect(await cache.load(content)).toBeUndefined();
    await cache.save(content, frame);
    expect(await cache.load(content)).toEqual(frame);
    expect(await cache.load(Buffer.from("its Content"))).toBeUndefined();
    expect(await new FrameCache(3, join(directory, "frames")).load(content)).toBeUndefined();
    const [name] = readdirSync(join(directory, "frames"));
    const path = join(directory, "frames", name!);
    const bytes = readFileSync(path);
    for (const damaged of [bytes.subarray(0, -1), Buffer.concat([bytes, Buffer.of(0)]), Buffer.of(1, 2), Buffer.of()]) {
      writeFileSync(path, damaged);
      expect(await cache.load(content)).toBeUndefined();
    }
  });

  test("removes frames that no build used for a month", async () => {
    const cache = cacheIn("old");
    const daysAgo = (days: number) => Date.now() / 1000 - days * 86_400;
    const pathOf = async (text: string) => {
      const before = readdirSync(join(directory, "old"));
      await cache.save(Buffer.from(text), frame);
      return join(
        directory,
        "old",
        readdirSync(join(directory, "old")).find((name) => !before.includes(name))!,
      );
    };
    await cache.save(content, frame);
    const [unused, used] = [await pathOf("unused"), await pathOf("used")];
    for (const path of [unused, used]) utimesSync(path, daysAgo(31), daysAgo(31));
    await cache.load(Buffer.from("used"));
    await cache.save(Buffer.from("new"), frame);
    const names = readdirSync(join(directory, "old")).map((name) => join(directory, "old", name));
    expect(names).toContain(used);
    expect(names).not.toContain(unused);
  });

  test("is not needed: a directory that cannot be written is passed over", async () => {
    writeFileSync(join(directory, "file"), "");
    const cache = new FrameCache(9, join(directory, "file/frames"));
    await cache.save(content, frame);
    expect(await cache.load(content)).toBeUndefined();
    const parts = [stable(random(70_000))];
    expect((await compress(parts, cache)).bytes).toEqual((await compress(parts)).bytes);
    chmodSync(join(directory, "file"), 0o600);
  });
});

/** Applies operations to a base, as the host does with head(1). */
function apply(operations: DeltaOp[], base: Uint8Array): Uint8Array {
  let position = 0;
  const bytes = Buffer.concat(
    operations.map((operation) => {
      if ("insert" in operation) return operation.insert;
      const length = "copy" in operation ? operation.copy : operation.skip;
      const read = base.subarray(position, (position += length));
      if (read.length < length) throw new Error("reads beyond the base");
      return "copy" in operation ? read : new Uint8Array();
    }),
  );
  if (position !== base.length) throw new Error(`reads ${position} of ${base.length} bytes`);
  return bytes;
}

const insertedBytes = (operations: DeltaOp[]) =>
  operations.reduce((sum, operation) => sum + ("insert" in operation ? operation.insert.length : 0), 0);

const deltaOf = (from: Layer, to: Layer) =>
  computeDelta(to.bytes, to.frames, { frames: from.frames, size: from.bytes.length });

describe("a delta", () => {
  const noise = random(200_000);
  const bun = stable(random(70_000));

  test("turns the base into the target for 1,000 random pairs", async () => {
    for (let i = 0; i < 1000; i += 1) {
      const size = randomBelow(40_000);
      const start = randomBelow(noise.length - size);
      const base = noise.subarray(start, start + size);
      let target = Buffer.from(base);
      for (let edits = randomBelow(6); edits > 0; edits -= 1) {
        const at = randomBelow(target.length + 1);
        const cut = randomBelow(3) === 0 ? randomBelow(Math.min(5000, target.length - at + 1)) : 0;
        const added = randomBelow(2) === 0 ? random(randomBelow(700)) : target.subarray(0, randomBelow(3000));
        target = Buffer.concat([target.subarray(0, at), added, target.subarray(at + cut)]);
      }
      if (i % 40 === 1) target = Buffer.alloc(0);
      if (i % 40 === 2) target = Buffer.from(random(randomBelow(2000)));
      if (i % 40 === 3) target = Buffer.alloc(randomBelow(100_000));
      const withBun = (bytes: Uint8Array) => (i % 3 === 0 ? [loose(bytes)] : [bun, loose(bytes)]);
      const [from, to] = [await compress(withBun(base)), await compress(withBun(target))];
      if (Buffer.compare(apply(deltaOf(from, to), from.bytes), to.bytes) !== 0) throw new Error(`pair ${i}`);
    }
  });

  test("of equal layers copies all frames, and inserts the table", async () => {
    const layer = await compress([bun, loose(noise)]);
    const table = 8 + layer.frames.length * 12 + 9;
    const operations = deltaOf(layer, layer);
    expect(operations).toEqual([
      { copy: layer.bytes.length - table },
      { insert: layer.bytes.subarray(-table) },
      { skip: table },
    ]);
  });

  test("has a bounded number of operations", async () => {
    const before = random(3_000_000);
    const after = Buffer.from(before);
    for (let at = 0; at < after.length; at += 6000) after[at]! ^= 1;
    const [from, to] = [await compress([loose(before)]), await compress([loose(after)])];
    const operations = deltaOf(from, to);
    expect(operations.length).toBeLessThanOrEqual(600);
    expect(apply(operations, from.bytes)).toEqual(to.bytes);
  });

  test("finds the longest sequence of frames in order, not the first match", async () => {
    const [a, b, c, d] = [1, 2, 3, 4].map(() => stable(random(70_000)));
    const [from, to] = [await compress([a!, b!, c!, d!]), await compress([d!, a!, b!, c!])];
    const operations = deltaOf(from, to);
    expect(insertedBytes(operations)).toBeLessThan(71_000);
    expect(apply(operations, from.bytes)).toEqual(to.bytes);
  });

  test("uses none of the base if no frame is equal", async () => {
    const [from, to] = [await compress([loose(random(9000))]), await compress([loose(random(9000))])];
    const operations = deltaOf(from, to);
    expect(operations).toEqual([{ insert: to.bytes }, { skip: from.bytes.length }]);
  });
});
