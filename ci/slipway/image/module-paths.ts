/**
 * Where a service's own files lie in the image, and where its modules are told that they lie.
 *
 * The working directory stands for the project: what the service has as `./public` or `src/views` when it is started there, it
 * has in the image. Not the root: some make a file's path by putting a slash after the working directory, and others name
 * `files` as the system does its own, `lib` or `etc`.
 */
import { readFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";

/** The working directory. More services are called `app` than this. */
export const APP_DIRECTORY = "/srv";

/** The path in the image of a file of the project, or of its workspace. */
const placeOf = (file: string, project: string): string => join(APP_DIRECTORY, relative(project, file));

/** What the bundler would fill in: where the module lies here. Of packages nothing is known but that they look for files. */
export const bundlerDefines = { __dirname: `"${APP_DIRECTORY}"`, __filename: `"${APP_DIRECTORY}/index.js"` };

/**
 * Tells those of the service's own modules that ask for their place the one in the image: `__dirname`, import.meta.dir, and
 * import.meta.url where a path is made of it. Bun's own answer to the last two is the root of its file system for modules, where
 * there are no files. Modules that do not ask are not touched, and of those that do no line moves.
 *
 * @param source the service's own modules: file -> content
 * @returns options for the bundler
 */
export function rewriteModulePaths(source: Map<string, Buffer>, project: string) {
  const files = new Map<string, string>();
  const otherwise = new Set<string>();
  for (const [file, bytes] of source) {
    const text = bytes.toString();
    for (const [, name = ""] of text.matchAll(importsOtherwise)) otherwise.add(basename(name));
    const head = headOf(text, placeOf(file, project));
    if (head !== "") files.set(file, head);
  }
  for (const file of files.keys()) if (otherwise.has(basename(file))) files.delete(file);
  if (files.size === 0) return undefined;
  const names = [...files.keys()].map((file) => file.replace(/[^\w/]/g, "\\$&"));
  const plugin: Bun.BunPlugin = {
    name: "places in the image",
    setup(build) {
      build.onLoad({ filter: new RegExp(`^(?:${names.join("|")})$`) }, ({ path, loader, ...more }) => {
        // In a browser a module's URL is the server's. Bun's types do not have what Bun tells.
        if ((more as { side?: string }).side === "client") return undefined;
        const text = readFileSync(path, "utf8").replace(/^\uFEFF/, "");
        // Its first line may be for the shell.
        const [shebang = ""] = /^#![^\n]*\n/.exec(text) ?? [];
        return { contents: shebang + files.get(path)! + text.slice(shebang.length), loader };
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
    // For the modules that have none of their own, packages for example.
    banner: `var directoryInImage="${APP_DIRECTORY}",urlInImage=import.meta.url;`,
  };
}

const asksDirectory = /\bimport\.meta\.dir(?:name)?\b/;
const asksUrl = /\b(?:fileURLToPath|new URL)\([^)]*\bimport\.meta\.url\b/;
/** It asks which module is the main one, or starts one: then its name as Bun has it is what counts. */
const asksModule = /\bargv\b|\bBun\.main\b|\bWorker\b/;
/** As text, as a file, as a macro: which it is, the bundler does not tell a plugin. */
const importsOtherwise = /["']([^"'\n]+)["']\s*(?:with\s*\{|,\s*\{\s*with\b)/g;
const asksDirname = /(?<![.\w$])__dirname\b/;
/** As a module does that was CommonJS before. */
const makesDirname = /\b(?:const|let|var)\s+(?:__dirname\b|[{[][^=;]*\b__dirname\b)/;

/** What goes before a module's text; "": it does not ask. */
function headOf(text: string, place: string): string {
  const told = {
    directoryInImage: asksDirectory.test(text) && dirname(place),
    urlInImage: asksUrl.test(text) && !asksModule.test(text) && `file://${place}`,
    __dirname: asksDirname.test(text) && !makesDirname.test(text) && dirname(place),
  };
  return Object.entries(told)
    .filter(([, value]) => value !== false)
    .map(([name, value]) => `const ${name}=${JSON.stringify(value)};`)
    .join("");
}
