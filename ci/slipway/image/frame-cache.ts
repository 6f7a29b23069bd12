/**
 * Caches the compressed frames of bytes that do not change from build to build: Bun's own, and the C library's.
 *
 * All projects of a user share the cache. It holds about 50 MB for each version of Bun. A frame that no build used for a
 * month is removed. Without the cache, for example in a read-only home directory, a build takes some seconds more.
 */
import { mkdir, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { userCacheDirectory } from "../core/user-cache.ts";

const DAY_MS = 86_400_000;
const MAX_AGE_MS = 30 * DAY_MS;
/** A cache file begins with the XXH64 of the frame, because a crash can damage the file. */
const CHECKSUM_BYTES = 8;

export class FrameCache {
  /** @param level of the compression @param directory default: in the user's cache directory */
  constructor(
    private readonly level: number,
    private readonly directory = userCacheDirectory("frames"),
  ) {}

  /** Returns the frame of a content, or undefined if it is not cached. */
  async load(content: Uint8Array): Promise<Uint8Array | undefined> {
    const path = this.#pathOf(content);
    try {
      const bytes = Buffer.from(await Bun.file(path).bytes());
      const frame = bytes.subarray(CHECKSUM_BYTES);
      if (bytes.readBigUInt64LE(0) !== Bun.hash.xxHash64(frame)) return undefined;
      const { mtimeMs } = await stat(path);
      if (Date.now() - mtimeMs > DAY_MS) await utimes(path, new Date(), new Date());
      return frame;
    } catch {
      return undefined;
    }
  }

  /** Stores the frame of a content, if the directory can be written. */
  async save(content: Uint8Array, frame: Uint8Array): Promise<void> {
    const checksum = Buffer.alloc(CHECKSUM_BYTES);
    checksum.writeBigUInt64LE(Bun.hash.xxHash64(frame));
    try {
      await mkdir(this.directory, { recursive: true, mode: 0o700 });
      await writeFileAtomically(this.#pathOf(content), async (part) => {
        await Bun.write(part, Buffer.concat([checksum, frame]));
      });
      await this.#removeOld();
    } catch {
      // The frame is compressed again by the next build.
    }
  }

  /** Two hashes with 64 bits each suffice against accidents. Whoever writes to the cache could replace Bun as well. */
  #pathOf(content: Uint8Array): string {
    const hashes = [Bun.hash.xxHash64(content), Bun.hash.wyhash(content)];
    const name = hashes.map((hash) => hash.toString(16).padStart(16, "0")).join("");
    return join(this.directory, `${name}-${content.length}-${Bun.version}-${this.level}.zst`);
  }

  async #removeOld(): Promise<void> {
    for (const name of await readdir(this.directory)) {
      const path = join(this.directory, name);
      const { mtimeMs } = await stat(path);
      if (Date.now() - mtimeMs > MAX_AGE_MS) await rm(path, { force: true });
    }
  }
}
