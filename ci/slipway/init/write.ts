/** Writes files all together or not at all. */
import { realpathSync } from "node:fs";
import { chmod, mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { PipelineError } from "../core/errors.ts";

export interface FileChange {
  /** Absolute. */
  path: string;
  /** undefined: there is none yet. */
  before: string | undefined;
  after: string;
}

/**
 * Every file is written beside its place first, so that what can fail has failed before anything is there.
 *
 * @throws {PipelineError} "environment" when one cannot be written; nothing is left then
 */
export async function writeAll(changes: FileChange[]): Promise<void> {
  const parts: string[] = [];
  const directories: string[] = [];
  let at = "";
  try {
    const moves: [part: string, target: string][] = [];
    for (const { path, before, after } of changes) {
      at = path;
      // A file behind a link stays there.
      const target = before === undefined ? path : realpathSync(path);
      const made = await mkdir(dirname(target), { recursive: true });
      if (made !== undefined) directories.push(made);
      const part = `${target}.slipway-part`;
      parts.push(part);
      await writeFile(part, after);
      if (before !== undefined) await chmod(part, (await stat(target)).mode);
      moves.push([part, target]);
    }
    for (const [part, target] of moves) await rename(part, (at = target));
  } catch (error) {
    for (const part of parts) await rm(part, { force: true }).catch(() => undefined);
    for (const directory of directories.reverse()) await rm(directory, { recursive: true, force: true });
    const { code, message } = error as NodeJS.ErrnoException;
    throw new PipelineError("environment", `cannot write ${at} (${code ?? message})`, {
      hint: "Nothing was changed.",
      cause: error,
    });
  }
}
