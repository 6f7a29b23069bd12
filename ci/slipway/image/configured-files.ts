/** Finds the files that the setting `files` puts into the image. */
import { statSync } from "node:fs";
import { isAbsolute, join, normalize } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { APP_DIRECTORY } from "./image-paths.ts";

/** Finds the files of the `files` setting. @throws {PipelineError} "project" if a pattern matches no file */
export function findConfiguredFiles({ project, files }: Service): [string, string][] {
  return files.flatMap((configured) => {
    const pattern = normalize(configured).replace(/\/$/, "");
    if (pattern === ".." || pattern.startsWith("../") || isAbsolute(pattern)) {
      throw new PipelineError("project", `\`files\` contains ${configured}, which is outside ${project}`, {
        code: "setting-invalid",
      });
    }
    const isDirectory = statSync(join(project, pattern), { throwIfNoEntry: false })?.isDirectory() ?? false;
    const glob = new Bun.Glob(isDirectory ? join(pattern, "**") : pattern);
    const found = [...glob.scanSync({ cwd: project, dot: true })].filter(
      (file) => !`/${file}`.includes("/node_modules/"),
    );
    const inImage = (file: string) => join(APP_DIRECTORY, file).slice(1);
    if (found.length > 0) return found.map((file): [string, string] => [inImage(file), join(project, file)]);
    throw new PipelineError("project", `\`files\` contains ${configured}, which matches no file in ${project}`, {
      code: "setting-invalid",
    });
  });
}
