/** Writes a set of files atomically: all of them or none. */
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { chmod, mkdir, rename, rm, rmdir, stat, writeFile } from "node:fs/promises";
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

/** Undoes writeAll(): restores changed files, and removes new ones and directories that are empty now. */
export async function undoAll(changes: FileChange[]): Promise<void> {
  for (const { path, before } of changes) {
    if (before !== undefined) await writeFile(path, before);
    else await removeWithEmptyParents(path);
  }
}

async function removeWithEmptyParents(path: string): Promise<void> {
  await rm(path, { force: true });
  try {
    for (let at = dirname(path); ; at = dirname(at)) await rmdir(at);
  } catch {
    // The first directory that has other files.
  }
}

/** Reads files, so that restore() can undo the changes of another program. */
export function snapshot(paths: string[]): Map<string, Buffer | undefined> {
  return new Map(paths.map((path) => [path, existsSync(path) ? readFileSync(path) : undefined]));
}

export async function restore(files: Map<string, Buffer | undefined>): Promise<void> {
  for (const [path, content] of files) await (content ? writeFile(path, content) : rm(path, { force: true }));
}
