/** Writes a set of files atomically: all of them or none. */
import { realpathSync } from "node:fs";
import { chmod, mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { PipelineError } from "../core/errors.ts";

export interface FileChange {
  /** Absolute path. */
  path: string;
  /** Current text. Undefined if the file does not exist. */
  before: string | undefined;
  after: string;
}

/**
 * Writes every file under a temporary name first and renames them at the end, so that an error changes nothing.
 *
 * @throws {PipelineError} "environment" if a file cannot be written. Temporary files and new directories are removed then.
 */
export async function writeAll(changes: FileChange[]): Promise<void> {
  const parts: string[] = [];
  const directories: string[] = [];
  let current = "";
  try {
    const moves: [part: string, target: string][] = [];
    for (const { path, before, after } of changes) {
      current = path;
      // Replaces the target of a symbolic link, not the link.
      const target = before === undefined ? path : realpathSync(path);
      const created = await mkdir(dirname(target), { recursive: true });
      if (created !== undefined) directories.push(created);
      const part = `${target}.slipway-part`;
      parts.push(part);
      await writeFile(part, after);
      if (before !== undefined) await chmod(part, (await stat(target)).mode);
      moves.push([part, target]);
    }
    for (const [part, target] of moves) await rename(part, (current = target));
  } catch (error) {
    for (const part of parts) await rm(part, { force: true }).catch(() => undefined);
    for (const directory of directories.reverse()) await rm(directory, { recursive: true, force: true });
    const { code, message } = error as NodeJS.ErrnoException;
    throw new PipelineError("environment", `cannot write ${current} (${code ?? message})`, {
      code: "file-not-accessible",
      hint: "Nothing was changed.",
      cause: error,
    });
  }
}
