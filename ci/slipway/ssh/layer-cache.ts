/**
 * What layers that were delivered are like, as much as a delta to the next one takes: hashes of all chunks, and those chunks
 * themselves that differed from the version before, some megabytes. It can be done without, for some hundred kilobytes more on
 * the line.
 */
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { CHUNK_BYTES, blockHash } from "./delta.ts";

/** How many are kept. */
const KEPT = 8;

export interface CachedLayer {
  hashes: string[];
  content(chunk: number): Uint8Array | undefined;
}

/** @param digest in hex */
export async function loadCachedLayer(directory: string, digest: string): Promise<CachedLayer | undefined> {
  try {
    const bytes = await Bun.file(join(directory, digest)).bytes();
    const end = bytes.indexOf(10);
    const { hashes, chunks } = JSON.parse(Buffer.from(bytes.subarray(0, end)).toString()) as Head;
    const at = new Map<number, Uint8Array>();
    let from = end + 1;
    for (const { chunk, size } of chunks) {
      const content = bytes.subarray(from, (from += size));
      // What a crash has left is no memory.
      if (blockHash(content) !== hashes[chunk]) return undefined;
      at.set(chunk, content);
    }
    return { hashes, content: (chunk) => at.get(chunk) };
  } catch {
    return undefined;
  }
}

interface Head {
  hashes: string[];
  chunks: { chunk: number; size: number }[];
}

/** @param hashes of its chunks @param before of those that the version before had */
export async function saveCachedLayer(
  directory: string,
  digest: string,
  layer: Uint8Array,
  hashes: string[],
  before: string[],
): Promise<void> {
  const differing = [...hashes.keys()].filter((chunk) => hashes[chunk] !== before[chunk]);
  const contents = differing.map((chunk) => layer.subarray(chunk * CHUNK_BYTES, (chunk + 1) * CHUNK_BYTES));
  const head: Head = {
    hashes,
    chunks: differing.map((chunk, i) => ({ chunk, size: contents[i]!.length })),
  };
  mkdirSync(directory, { recursive: true });
  await writeFileAtomically(join(directory, digest), async (part) => {
    await Bun.write(part, Buffer.concat([Buffer.from(`${JSON.stringify(head)}\n`), ...contents]));
  });
  const all = readdirSync(directory)
    .filter((name) => /^[0-9a-f]{64}$/.test(name))
    .map((name) => ({ name, time: statSync(join(directory, name)).mtimeMs }));
  all.sort((a, b) => b.time - a.time);
  for (const { name } of all.slice(KEPT)) rmSync(join(directory, name), { force: true });
}
