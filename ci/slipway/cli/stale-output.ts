/** Warns of build outputs in the image that no prebuild script makes: nothing notices that they are outdated. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { runGit } from "../core/git.ts";
import { readPackage, type Service } from "../core/resolve-service.ts";

/** Returns a warning for each directory of `files` that git ignores, if there is no `prebuild`. Empty without git. */
export async function findStaleOutputs({ project, files, prebuild }: Service, signal: AbortSignal): Promise<string[]> {
  if (prebuild.length > 0) return [];
  const paths = files.map((path) => path.replace(/\/?[^/]*\*.*$/, "").replace(/^\.\//, "") || ".");
  const directories = [...new Set(paths)].filter((path) => isDirectory(join(project, path)));
  if (directories.length === 0) return [];
  const ignored = (await runGit(["check-ignore", ...directories], { cwd: project, signal })) ?? "";
  const scripts = Object.keys(readPackage(project).scripts ?? {}).filter((name) => /^build\b/.test(name));
  const example = scripts.length > 0 ? `, for example \`prebuild: ${JSON.stringify(scripts.slice(0, 1))}\`` : "";
  return ignored
    .split("\n")
    .filter(Boolean)
    .map(
      (path) =>
        `\`files\` contains ${path}, which git ignores: the image gets it as it is. If a script makes it, add the script to \`prebuild\` in ci/pipeline.ts${example}, so that it is never outdated`,
    );
}

const isDirectory = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
