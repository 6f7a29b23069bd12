/** Proposes the `files` setting: files that the service's modules open by path. */
import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { modulesImportedBy } from "../core/imported-modules.ts";
import type { Service } from "../core/resolve-service.ts";
import { findPathUses } from "../image/path-uses.ts";

/**
 * Finds files and directories that the entry and the modules that it imports open by path.
 *
 * @param tracked files of the project that git does not ignore, relative to the project
 * @returns paths relative to the project, without those below another one
 */
export function proposeFiles({ project, entry }: Pick<Service, "project" | "entry">, tracked: string[]): string[] {
  if (!existsSync(join(project, entry))) return [];
  const source = new Map(modulesImportedBy(project, entry).map((file) => [file, readFileSync(file)]));
  const { data } = findPathUses(source, project);
  const isTracked = (path: string) => tracked.some((file) => file === path || file.startsWith(`${path}/`));
  // A directory of modules needs the bundler and not a copy.
  const found = [...new Set(data.map(({ path }) => relative(project, path)))].filter(isTracked).sort();
  return found.filter((path) => !found.some((other) => path.startsWith(`${other}/`)));
}
