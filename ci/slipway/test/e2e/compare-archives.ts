/**
 * Compares an archive with GOOD like verify-archive, in a separate process: `compare-archives.ts GOOD FILE`.
 * Prints a Verdict as JSON.
 */
import { readFileSync } from "node:fs";
import { compareArchives } from "../../commands/verify-archive.ts";
import { diffImages, readImage } from "../../image/compare.ts";
import { sha256 } from "../../core/hash.ts";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";

export interface Verdict {
  genuine: boolean;
  why: string;
  /** Digest of the config. */
  config?: string;
  milliseconds: number;
  /** Peak memory in bytes. */
  memory: number;
}

const [good, file] = process.argv.slice(2) as [string, string];
const expected = await readImage(good);
const start = performance.now();
let verdict: Pick<Verdict, "genuine" | "why" | "config">;
try {
  const found = await readImage(file);
  const lines = [...found.damage, ...diffImages(expected, found)];
  const { altered } = lines.length > 0 ? {} : await compareArchives(good, file);
  const why = [...lines, ...(altered ? [altered] : [])].join("\n");
  const { offset, size } = (await readArchiveIndex(file))!.configEntry;
  const config = await Bun.file(file)
    .slice(offset, offset + size)
    .bytes();
  verdict = { genuine: why === "", why, config: sha256(config) };
} catch (error) {
  verdict = { genuine: false, why: (error as Error).message };
}
const milliseconds = performance.now() - start;
// Not resourceUsage().maxRSS, which includes the memory of the parent process. proc(5)
const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))!;
const memory = Number(kilobytes) * 1024;
console.log(JSON.stringify({ ...verdict, milliseconds, memory } satisfies Verdict));
