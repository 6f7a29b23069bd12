/**
 * Maps paths of the project to paths in the image, and rewrites `__dirname` and similar expressions in modules.
 *
 * The image's working directory replaces the project directory, so relative paths like `./public` or `src/views` work
 * in both. The working directory is not the root for two reasons: some services append a slash to the working
 * directory, and `files` can contain names of system directories like `lib` or `etc`.
 */
import { readFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { placePattern } from "./path-expressions.ts";

/** Working directory in the image. Not `/app`, because a service is more likely to be named `app` than `srv`. */
export const APP_DIRECTORY = "/srv";

/** Returns the path in the image of a file of the project, or of its workspace. */
export const imagePathOf = (file: string, project: string): string =>
  packageOf(file) ? `/${installedPath(file)}` : join(APP_DIRECTORY, relative(project, file));

/** Returns the directories of modules in the image that use their path, so that `${import.meta.dir}/..` works. */
export function moduleDirectories(source: Iterable<[string, Buffer]>, project: string): Set<string> {
  const asking = [...source].filter(([, text]) => placePattern.test(text.toString()));
  const directories = asking.map(([file]) => dirname(imagePathOf(file, project)));
  return new Set(
    directories.filter((directory) => [APP_DIRECTORY, PACKAGES].some((parent) => directory.startsWith(`${parent}/`))),
  );
}

/** Directory of packages in the image. The binary's modules resolve packages there. */
const PACKAGES = "/node_modules";

/** Directory of modules without a declaration. It does not exist in the image. */
const UNKNOWN_DIRECTORY = "/node_modules/.bundled";

/**
 * Definitions for modules without a declaration. The bundler would otherwise insert the path on the build machine.
 *
 * Never the service's directory, which has its configuration: some packages serve the files beside them.
 */
export const bundlerDefines = { __dirname: `"${UNKNOWN_DIRECTORY}"`, __filename: `"${UNKNOWN_DIRECTORY}/index.js"` };

/** Returns the package that has a file. */
export function packageOf(file: string): { name: string; directory: string } | undefined {
  const [, directory = "", name = ""] = /^(.*\/node_modules\/((?:@[^/]+\/)?[^/.][^/]*))(?:\/|$)/.exec(file) ?? [];
  return name === "" ? undefined : { name, directory };
}

/** Returns the path of a package's file in the image, without a leading slash and the directories of a linked store. */
export function installedPath(file: string): string {
  const store = file.replace(/^.*\/node_modules\/\.(?:bun|pnpm)\/[^/]+\/node_modules\//, "/node_modules/");
  return store.slice(store.indexOf("/node_modules/") + 1);
}

/**
 * Rewrites modules that use their path, so that they get their path in the image.
 *
 * Rewrites `__dirname`, import.meta.dir, and import.meta.url if a file path is made from it. Bun's values for the last
 * two are in its virtual file system for modules, which has no other files. Other modules stay unchanged, and line
 * numbers stay the same.
 *
 * @param source modules of the service and of packages: file -> content
 * @param rewrites other changes of modules' text
 * @returns options for the bundler
 */
export function rewriteModulePaths(
  source: Map<string, Buffer>,
  project: string,
  rewrites: Map<string, (text: string) => string>,
) {
  const prefixes = new Map<string, string>();
  const importedWithAttributes = new Set<string>();
  for (const [file, bytes] of source) {
    const text = bytes.toString();
    for (const [, name = ""] of text.matchAll(attributeImport)) importedWithAttributes.add(basename(name));
    const prefix = pathDeclarations(text, imagePathOf(file, project));
    if (prefix !== "") prefixes.set(file, prefix);
  }
  for (const file of prefixes.keys()) if (importedWithAttributes.has(basename(file))) prefixes.delete(file);
  if (prefixes.size === 0 && rewrites.size === 0) return undefined;
  const names = [...new Set([...prefixes.keys(), ...rewrites.keys()])].map((file) => file.replace(/[^\w/]/g, "\\$&"));
  const plugin: Bun.BunPlugin = {
    name: "module-paths",
    setup(build) {
      build.onLoad({ filter: new RegExp(`^(?:${names.join("|")})$`) }, ({ path, loader, ...more }) => {
        // In a browser, a module's URL is on the server. Bun's types lack the `side` property.
        if ((more as { side?: string }).side === "client") return undefined;
        const text = readFileSync(path, "utf8").replace(/^\uFEFF/, "");
        const [shebang = ""] = /^#![^\n]*\n/.exec(text) ?? [];
        const rest = text.slice(shebang.length);
        const contents = shebang + (prefixes.get(path) ?? "") + (rewrites.get(path)?.(rest) ?? rest);
        return { contents, loader };
      });
    },
  };
  if (prefixes.size === 0) return { plugin };
  return {
    plugin,
    define: {
      "import.meta.dir": "directoryInImage",
      "import.meta.dirname": "directoryInImage",
      "import.meta.url": "urlInImage",
      __dirname: "directoryInImage",
      __filename: "fileInImage",
    },
    // Fallback for modules without declarations, for example those of packages.
    banner: `var directoryInImage="${UNKNOWN_DIRECTORY}",fileInImage="${UNKNOWN_DIRECTORY}/index.js",urlInImage=import.meta.url;`,
  };
}

const usesDirectory = /\bimport\.meta\.dir(?:name)?\b/;
const usesUrl = /\b(?:fileURLToPath|new URL|createRequire)\([^)]*\bimport\.meta\.url\b/;
/** Compares the URL with the main module. Such modules need Bun's own URL. */
const usesModuleUrl = /\bargv\b|\bBun\.main\b/;
/** Imports as text, file or macro. Their content must stay unchanged, and plugins do not see the attributes. */
const attributeImport = /["']([^"'\n]+)["']\s*(?:with\s*\{|,\s*\{\s*with\b)/g;
/** A definition does not replace names that a module declares itself. */
const usesDirname = /(?<![.\w$])__dirname\b/;
const usesFilename = /(?<![.\w$])__filename\b/;
/** Returns the declarations to prepend to a module. Empty if it does not use its path. */
function pathDeclarations(text: string, imagePath: string): string {
  const declarations = {
    directoryInImage: (usesDirectory.test(text) || usesDirname.test(text)) && dirname(imagePath),
    fileInImage: usesFilename.test(text) && imagePath,
    urlInImage: usesUrl.test(text) && !usesModuleUrl.test(text) && `file://${imagePath}`,
  };
  return Object.entries(declarations)
    .filter(([, value]) => value !== false)
    .map(([name, value]) => `const ${name}=${JSON.stringify(value)};`)
    .join("");
}
