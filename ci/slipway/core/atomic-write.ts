/** Files that are whole or not there: written beside their place under a name of this run's own, then renamed. */
import { readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { explainDiskError } from "./errors.ts";
import { isRunning } from "./process.ts";

/** Milliseconds after which the part of a process that is gone is nobody's: another container's processes cannot be seen. */
const ABANDONED_MS = 10 * 60_000;

let parts = 0;

/**
 * Has a file written. Of two runs with one target each publishes its own, and the later one stays.
 *
 * @param write gets the path to write to
 * @throws {PipelineError} "environment" when the disk is full or the place cannot be written
 */
export async function writeFileAtomically(
  target: string,
  write: (part: string) => void | Promise<void>,
): Promise<void> {
  // It ends as ignore files have it: `*.tar.part`.
  const part = join(dirname(target), `${process.pid}-${(parts += 1)}.${basename(target)}.part`);
  try {
    removeAbandoned(target);
    await write(part);
    renameSync(part, target);
  } catch (error) {
    rmSync(part, { force: true });
    const { path } = error as NodeJS.ErrnoException;
    // What it is made of may be missing as well, and is no fault of the place.
    const isOther = path !== undefined && ![part, dirname(target)].includes(path);
    throw isOther ? error : explainDiskError(error, target);
  }
}

/** What a killed run has left. */
function removeAbandoned(target: string): void {
  const ending = `.${basename(target)}.part`;
  for (const name of readdirSync(dirname(target))) {
    const [, pid] = name.endsWith(ending) ? (/^(\d+)-\d+$/.exec(name.slice(0, -ending.length)) ?? []) : [];
    if (pid === undefined || isRunning(Number(pid))) continue;
    const path = join(dirname(target), name);
    const found = statSync(path, { throwIfNoEntry: false });
    if (found && Date.now() - found.mtimeMs > ABANDONED_MS) rmSync(path, { force: true });
  }
}
