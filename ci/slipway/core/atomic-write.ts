/** Writes files atomically: to a temporary file in the same directory, which is then renamed. */
import { readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { explainDiskError } from "./errors.ts";
import { isRunning } from "./process.ts";

/** Age at which a temporary file without a running process is removed. Processes of other containers are invisible. */
const ABANDONED_MS = 10 * 60_000;

let partCount = 0;

/**
 * Writes a file atomically. If two runs write the same file, the later one wins.
 *
 * @param write receives the path of the temporary file
 * @throws {PipelineError} "environment" if the disk is full or the directory is not writable
 */
export async function writeFileAtomically(
  target: string,
  write: (part: string) => void | Promise<void>,
): Promise<void> {
  // Ignore files match `*.tar.part`.
  const part = join(dirname(target), `${process.pid}-${(partCount += 1)}.${basename(target)}.part`);
  try {
    removeAbandoned(target);
    await write(part);
    renameSync(part, target);
  } catch (error) {
    rmSync(part, { force: true });
    const { path } = error as NodeJS.ErrnoException;
    // The error may be about an input of `write`.
    const isInput = path !== undefined && ![part, dirname(target)].includes(path);
    throw isInput ? error : explainDiskError(error, target);
  }
}

/** Removes temporary files of killed runs. */
function removeAbandoned(target: string): void {
  const ending = `.${basename(target)}.part`;
  for (const name of readdirSync(dirname(target))) {
    const [, pid] = name.endsWith(ending) ? (/^(\d+)-\d+$/.exec(name.slice(0, -ending.length)) ?? []) : [];
    if (pid === undefined || isRunning(Number(pid))) continue;
    const path = join(dirname(target), name);
    const stats = statSync(path, { throwIfNoEntry: false });
    if (stats && Date.now() - stats.mtimeMs > ABANDONED_MS) rmSync(path, { force: true });
  }
}
