/**
 * Rewrites modules that use their path or ask whether they are the main module, so that the answer is that of the image.
 *
 * Only the expressions change: nothing is put in front of a module, so no name of it can be taken. Browser code stays as
 * it is. Line numbers stay the same.
 */
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { imagePathOf, UNKNOWN_DIRECTORY } from "./image-paths.ts";
import { exactly } from "./module-names.ts";
import { replaceExpressions } from "./replace-expressions.ts";

/**
 * Definitions for modules that are not rewritten. The bundler would otherwise insert the path on the build machine.
 *
 * Never the service's directory, which has its configuration: some packages serve the files beside them.
 */
export const bundlerDefines = { __dirname: `"${UNKNOWN_DIRECTORY}"`, __filename: `"${UNKNOWN_DIRECTORY}/index.js"` };

/** Code for expressions of a module, for example `import.meta.dir` -> `"/srv/src"`. */
export type Replacements = Map<string, string>;

/**
 * Creates a plugin that rewrites modules.
 *
 * In a main module, `import.meta.url` changes only where a file path is made from it.
 *
 * @param source modules of the service and of packages: file -> content
 * @param more other replacements: file -> replacements
 * @param mains modules that can be the main module
 */
export function rewriteModules(
  source: Map<string, Buffer>,
  project: string,
  more: Map<string, Replacements>,
  mains: string[],
): Bun.BunPlugin | undefined {
  const rewrites = new Map(more);
  const importedWithAttributes = new Set<string>();
  for (const [file, bytes] of source) {
    const text = bytes.toString();
    for (const [, name = ""] of text.matchAll(attributeImport)) importedWithAttributes.add(basename(name));
    const paths = replacePaths(text, imagePathOf(file, project), mains.includes(file));
    if (paths.length > 0) rewrites.set(file, new Map([...paths, ...(more.get(file) ?? [])]));
  }
  for (const file of rewrites.keys()) if (importedWithAttributes.has(basename(file))) rewrites.delete(file);
  if (rewrites.size === 0) return undefined;
  return {
    name: "modules",
    setup(build) {
      build.onLoad({ filter: exactly([...rewrites.keys()]) }, ({ path, loader, ...rest }) => {
        // Bun's types lack the `side` property.
        if ((rest as { side?: string }).side === "client") return undefined;
        const text = readFileSync(path, "utf8").replace(/^\uFEFF/, "");
        return { contents: replaceExpressions(text, rewrites.get(path)!), loader };
      });
    },
  };
}

/** Imports as text, file or macro. Their content must stay unchanged, and plugins do not see the attributes. */
const attributeImport = /["']([^"'\n]+)["']\s*(?:with\s*\{|,\s*\{\s*with\b)/g;
const usesUrl = /\b(?:fileURLToPath|new URL|createRequire)\([^)]*\bimport\.meta\.url\b/;
/** Compares the URL with the main module, which is the second argument. Such modules need Bun's own URL. */
const usesModuleUrl = /\bargv(?:\?\.)?\s*(?:\[\s*1\s*\]|\.at\(\s*1\s*\))|\]\s*=\s*(?:process\.)?argv\b|\bBun\.main\b/;
/** Uses of the URL that only name a place. A comparison with the main module has the whole path. */
const placeOfUrl =
  /(?:\b[\w$]+\s*\.\s*)?\b(dirname|createRequire)\(\s*(?:(?:\b[\w$]+\s*\.\s*)?fileURLToPath\(\s*)?import\.meta\.url\s*\)(?:\s*\))?/g;

/** Returns the path expressions that a module uses, and their values in the image. */
function replacePaths(text: string, imagePath: string, isMain: boolean): [string, string][] {
  const directory = JSON.stringify(dirname(imagePath));
  const values: [string, string][] = [
    ["import.meta.dir", directory],
    ["import.meta.dirname", directory],
    ["__dirname", directory],
    ["__filename", JSON.stringify(imagePath)],
    ...urlReplacements(text, imagePath, isMain),
  ];
  return values.filter(([expression]) => text.includes(expression) || expression.startsWith(","));
}

/** Returns the replacements of `import.meta.url`. In a binary, the URL of every module would be that of the main module. */
function urlReplacements(text: string, imagePath: string, isMain: boolean): [string, string][] {
  const url = JSON.stringify(`file://${imagePath}`);
  if (!isMain) return [["import.meta.url", url]];
  if (!usesUrl.test(text)) return [];
  if (!usesModuleUrl.test(text)) return [["import.meta.url", url]];
  const places = [...text.matchAll(placeOfUrl)].map(([expression, name]): [string, string] => [
    expression,
    name === "dirname" ? JSON.stringify(dirname(imagePath)) : expression.replace("import.meta.url", url),
  ]);
  // The second argument of a URL.
  return [...new Map(places), [", import.meta.url)", `, ${url})`]];
}
