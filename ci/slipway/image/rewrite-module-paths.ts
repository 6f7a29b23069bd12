/**
 * Maps paths of the project to paths in the image, and rewrites `__dirname` and similar expressions in modules.
 *
 * The image's working directory replaces the project directory, so relative paths like `./public` or `src/views` work
 * in both. The working directory is not the root for two reasons: some services append a slash to the working
 * directory, and `files` can contain names of system directories like `lib` or `etc`.
 */
import { readFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";

/** Working directory in the image. Not `/app`, because a service is more likely to be named `app` than `srv`. */
export const APP_DIRECTORY = "/srv";

/** Returns the path in the image of a file of the project, or of its workspace. */
const imagePathOf = (file: string, project: string): string => join(APP_DIRECTORY, relative(project, file));

/**
 * Directory of bundled packages, which does not exist in the image. It is never the service's directory: a package that serves the
 * files beside its module, like swagger-ui-express, would serve the service's configuration.
 */
const PACKAGE_DIRECTORY = "/node_modules/.bundled";

/** Definitions for packages. The bundler would otherwise insert the module's path on the build machine. */
export const bundlerDefines = { __dirname: `"${PACKAGE_DIRECTORY}"`, __filename: `"${PACKAGE_DIRECTORY}/index.js"` };

/**
 * Rewrites the service's own modules that use their path, so that they get their path in the image.
 *
 * Rewrites `__dirname`, import.meta.dir, and import.meta.url if a file path is made from it. Bun's values for the last
 * two are in its virtual file system for modules, which has no other files. Other modules stay unchanged, and line
 * numbers stay the same.
 *
 * @param source the service's own modules: file -> content
 * @returns options for the bundler
 */
export function rewriteModulePaths(source: Map<string, Buffer>, project: string) {
  const prefixes = new Map<string, string>();
  const importedWithAttributes = new Set<string>();
  for (const [file, bytes] of source) {
    const text = bytes.toString();
    for (const [, name = ""] of text.matchAll(attributeImport)) importedWithAttributes.add(basename(name));
    const prefix = pathDeclarations(text, imagePathOf(file, project));
    if (prefix !== "") prefixes.set(file, prefix);
  }
  for (const file of prefixes.keys()) if (importedWithAttributes.has(basename(file))) prefixes.delete(file);
  if (prefixes.size === 0) return undefined;
  const names = [...prefixes.keys()].map((file) => file.replace(/[^\w/]/g, "\\$&"));
  const plugin: Bun.BunPlugin = {
    name: "module-paths",
    setup(build) {
      build.onLoad({ filter: new RegExp(`^(?:${names.join("|")})$`) }, ({ path, loader, ...more }) => {
        // In a browser, a module's URL is on the server. Bun's types lack the `side` property.
        if ((more as { side?: string }).side === "client") return undefined;
        const text = readFileSync(path, "utf8").replace(/^\uFEFF/, "");
        const [shebang = ""] = /^#![^\n]*\n/.exec(text) ?? [];
        return { contents: shebang + prefixes.get(path)! + text.slice(shebang.length), loader };
      });
    },
  };
  return {
    plugin,
    define: {
      "import.meta.dir": "directoryInImage",
      "import.meta.dirname": "directoryInImage",
      "import.meta.url": "urlInImage",
    },
    // Fallback for modules without declarations, for example those of packages.
    banner: `var directoryInImage="${APP_DIRECTORY}",urlInImage=import.meta.url;`,
  };
}

const usesDirectory = /\bimport\.meta\.dir(?:name)?\b/;
const usesUrl = /\b(?:fileURLToPath|new URL)\([^)]*\bimport\.meta\.url\b/;
/** Compares the URL with the main module, or starts a worker. Such modules need Bun's own URL. */
const usesModuleUrl = /\bargv\b|\bBun\.main\b|\bWorker\b/;
/** Imports as text, file or macro. Their content must stay unchanged, and plugins do not see the attributes. */
const attributeImport = /["']([^"'\n]+)["']\s*(?:with\s*\{|,\s*\{\s*with\b)/g;
const usesDirname = /(?<![.\w$])__dirname\b/;
/** Declares `__dirname` itself, like modules that were converted from CommonJS. */
const declaresDirname = /\b(?:const|let|var)\s+(?:__dirname\b|[{[][^=;]*\b__dirname\b)/;

/** Returns the declarations to prepend to a module. Empty if it does not use its path. */
function pathDeclarations(text: string, imagePath: string): string {
  const declarations = {
    directoryInImage: usesDirectory.test(text) && dirname(imagePath),
    urlInImage: usesUrl.test(text) && !usesModuleUrl.test(text) && `file://${imagePath}`,
    __dirname: usesDirname.test(text) && !declaresDirname.test(text) && dirname(imagePath),
  };
  return Object.entries(declarations)
    .filter(([, value]) => value !== false)
    .map(([name, value]) => `const ${name}=${JSON.stringify(value)};`)
    .join("");
}
