/** Copies the project for a build. */
import { existsSync } from "node:fs";
import { chown, cp, lchown, lutimes, mkdir, readdir } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { findBunInstallInputs } from "../../slipway/core/install-inputs.ts";
import { projectFiles } from "../../slipway/core/project-files.ts";
import type { Service } from "../../slipway/core/resolve-service.ts";

/**
 * Copies the project's files and its installed packages.
 *
 * Links to the packages would not do, because the build would then read them from the original path.
 */
export async function copyProject({ root, project }: Service, target: string, signal: AbortSignal): Promise<void> {
  // Install inputs are needed even if git ignores them, because an engine may install again.
  for (const file of new Set([...(await projectFiles(root, signal)), ...findBunInstallInputs(root).files])) {
    // A deleted file stays in git's index until the deletion is staged.
    if (!existsSync(join(root, file))) continue;
    await mkdir(dirname(join(target, file)), { recursive: true });
    await cp(join(root, file), join(target, file), { verbatimSymlinks: true });
  }
  for (const directory of new Set([root, project])) {
    const installed = join(directory, "node_modules");
    if (!existsSync(installed)) continue;
    await cp(installed, join(target, relative(root, installed)), {
      recursive: true,
      verbatimSymlinks: true,
      filter: (path) => !path.endsWith("/node_modules/.cache"),
    });
  }
}

/** Sets the modification time of everything below `path` and, if `uid` is given, its owner. */
export async function setTimesAndOwner(path: string, modified: Date, uid: number | undefined): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true, recursive: true })) {
    const file = join(entry.parentPath, entry.name);
    if (uid !== undefined) await lchown(file, uid, uid);
    await lutimes(file, modified, modified);
  }
  if (uid !== undefined) await chown(path, uid, uid);
}
