/**
 * Resolves `require.resolve()` to paths in the image.
 *
 * The bundler would insert the file's path on the build machine: builds with the same ID would differ, and the path does
 * not exist in the image. As from source, the call returns the path of an existing file, and throws for other files.
 */
import { existsSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { exactly, resolveFrom } from "./module-names.ts";
import { imagePathOf } from "./image-paths.ts";

/** Returns the specifiers that the bundle passes to `require.resolve()`. */
export function findResolvedSpecifiers({ metafile }: Bun.BuildOutput): string[] {
  const imports = Object.values(metafile!.inputs).flatMap(({ imports }) => imports);
  const found = imports.filter(({ kind }) => (kind as string) === "require-resolve");
  return found.map(({ path, original }) => original ?? path);
}

/** Creates a plugin for these specifiers. The image resolves the names of packages itself. */
export function createResolvePlugin(specifiers: string[], project: string): Bun.BunPlugin {
  return {
    name: "require-resolve",
    setup(build) {
      build.onResolve({ filter: exactly(specifiers) }, ({ path, importer, kind }) => {
        if ((kind as string) !== "require-resolve") return undefined;
        const isPath = path.startsWith(".") || isAbsolute(path);
        return { path: isPath ? pathInImage(path, importer, project) : path, external: true };
      });
    },
  };
}

function pathInImage(path: string, importer: string, project: string): string {
  const beside = resolve(dirname(importer), path);
  const file = resolveFrom(path, importer) ?? beside;
  // An absolute path that no file of the build machine has is a path in the image.
  if (isAbsolute(path) && !existsSync(file)) return path;
  return imagePathOf(file, project);
}
