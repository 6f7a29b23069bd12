/**
 * Caches data about transferred layers, so that the next delta is small: the hashes of all chunks, and the content of the
 * chunks that differ from the previous version (a few megabytes). Without the cache, a transfer takes some hundred
 * kilobytes more.
 */
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { CHUNK_BYTES, shortHash } from "./binary-delta.ts";

const MAX_LAYERS = 8;

export interface CachedLayer {
  hashes: string[];
  content(chunk: number): Uint8Array | undefined;
}

/** @param digest in hex */
export async function loadCachedLayer(directory: string, digest: string): Promise<CachedLayer | undefined> {
  try {
    const bytes = await Bun.file(join(directory, digest)).bytes();
    const headerEnd = bytes.indexOf(10);
    const { hashes, chunks } = JSON.parse(Buffer.from(bytes.subarray(0, headerEnd)).toString()) as Header;
    const contents = new Map<number, Uint8Array>();
    let offset = headerEnd + 1;
    for (const { chunk, size } of chunks) {
      const content = bytes.subarray(offset, (offset += size));
      // The file may be damaged, for example after a crash.
      if (shortHash(content) !== hashes[chunk]) return undefined;
      contents.set(chunk, content);
    }
    return { hashes, content: (chunk) => contents.get(chunk) };
  } catch {
    return undefined;
  }
}

/** First line of a cache file. The contents of the chunks follow. */
interface Header {
  hashes: string[];
  chunks: { chunk: number; size: number }[];
}

/** @param hashes of the layer's chunks @param previousHashes of the chunks of the layer's previous version */
export async function saveCachedLayer(
  directory: string,
  digest: string,
  layer: Uint8Array,
  hashes: string[],
  previousHashes: string[],
): Promise<void> {
  const changed = [...hashes.keys()].filter((chunk) => hashes[chunk] !== previousHashes[chunk]);
  const contents = changed.map((chunk) => layer.subarray(chunk * CHUNK_BYTES, (chunk + 1) * CHUNK_BYTES));
  const header: Header = {
    hashes,
    chunks: changed.map((chunk, i) => ({ chunk, size: contents[i]!.length })),
  };
  mkdirSync(directory, { recursive: true });
  await writeFileAtomically(join(directory, digest), async (part) => {
    await Bun.write(part, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...contents]));
  });
  const cached = readdirSync(directory)
    .filter((name) => /^[0-9a-f]{64}$/.test(name))
    .map((name) => ({ name, time: statSync(join(directory, name)).mtimeMs }));
  cached.sort((a, b) => b.time - a.time);
  for (const { name } of cached.slice(MAX_LAYERS)) rmSync(join(directory, name), { force: true });
}
