/**
 * Chooses the bundle's entry points, so that the service's main module stays the main module.
 *
 * Only an entry point of the bundle keeps `import.meta.main` and `require.main === module`. For this reason, no generated
 * module imports the service. The attachment is an entry point of its own, which the binary loads like `bun --preload`.
 *
 * Three cases need a launcher: the `entries` setting, modules that the service starts as a process, and several pages
 * that must be bundled in order. The launcher imports the chosen module, and the modules that can be chosen know which of
 * them is the main module. It also imports the service's own preloads before, which share its modules.
 */
import { readFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import type { Service } from "../core/resolve-service.ts";
import type { StartOptions } from "../core/start-options.ts";
import { exactly, resolveFrom } from "./module-names.ts";
import type { Replacements } from "./rewrite-modules.ts";

/** Adds the health endpoints and the drain that the service lacks. */
export const ATTACH = "slipway:attach";
const serviceDirectory = join(import.meta.dir, "../service");
const serviceFile = (name: string) => join(serviceDirectory, name);
/** Directory of a compiled binary's modules. */
const MODULES = "/$bunfs/root";
/** Path of a generated module. */
export const GENERATED = /\.slipway\.ts$/;

export interface EntryPoints {
  entrypoints: string[];
  /** Generated modules: path -> content. */
  files: Record<string, string>;
  plugins: Bun.BunPlugin[];
  /** Changes of modules' text: file -> replacements. */
  rewrites: Map<string, Replacements>;
  /** Options of Bun that the binary starts with. */
  execArgv: string[];
}

export interface EntryPointOptions {
  /** HTML imports to bundle in this order, before the service. */
  pages: string[];
  /** Leaves out the service. */
  isHtmlOnly: boolean;
  /** Paths in the image of modules that the service starts as a process. */
  scripts: string[];
  /** Code to run before the service. Empty if there is none. */
  preloadCode: string;
  /** The service's own modules to load before all entries, and before the main module alone. */
  preloads: StartOptions["preloads"];
  /** Options of Bun that the service has from source. */
  execArgv: string[];
}

/** Creates the entry points of a bundle. The first is the binary's main module. */
export function createEntryPoints(service: Service, options: EntryPointOptions): EntryPoints {
  const { pages, isHtmlOnly, scripts, preloadCode, preloads } = options;
  const { project, root, entry, attach } = service;
  const main = resolve(project, entry);
  const entries = Object.entries(service.entries).map(([name, file]): [string, string] => [
    name,
    resolve(project, file),
  ]);
  // In the main module's directory, so that paths relative to the main module stay valid.
  const generatedPath = (name: number | string) => `${main}.${name}.slipway.ts`;
  const [launcher, preload] = [generatedPath("launcher"), generatedPath("preload")];
  const hasPreloads = preloads.all.length + preloads.main.length > 0;
  const hasChoice = entries.length > 0 || scripts.length > 0 || hasPreloads;
  const hasLauncher = hasChoice || pages.length > 0;
  const isAttached = attach && !isHtmlOnly;
  const isPreloaded = isAttached || (preloadCode !== "" && !isHtmlOnly);
  // Relative, because generated modules are in the source map, which must not depend on the project's directory.
  const importOf = (path: string) => JSON.stringify(`./${relative(dirname(main), path)}`);
  const files: Record<string, string> = {};
  if (hasLauncher) {
    // Each page has a module that imports the next one, so that the bundler finds the pages in order.
    const chain = [launcher, ...pages.map((_, at) => generatedPath(at))];
    pages.forEach(
      (page, at) => (files[chain[at]!] = `import ${importOf(page)};\nimport ${importOf(chain[at + 1]!)};\n`),
    );
    const start = hasChoice ? launch(main, entries, { scripts, preloads }, importOf) : importMain(importOf(main), main);
    files[chain.at(-1)!] = isHtmlOnly ? "" : start;
  }
  // The process sees the options that it has from source.
  if (isPreloaded) {
    files[preload] = `${isAttached ? `import "${ATTACH}";` : ""}${preloadCode}\nprocess.execArgv.shift();\n`;
  }
  return {
    entrypoints: [hasLauncher ? launcher : main, ...(isPreloaded ? [preload] : [])],
    files,
    plugins: isAttached ? [attachmentPlugin(pages.length > 0 ? main : undefined)] : [],
    rewrites: hasLauncher ? rewriteMainModules([main, ...entries.map(([, file]) => file)]) : new Map(),
    execArgv: [...(isPreloaded ? [`--preload=${MODULES}/${bundledPath(root, preload)}`] : []), ...options.execArgv],
  };
}

/** Returns the path of an entry point in the bundle. */
function bundledPath(root: string, file: string): string {
  return relative(root, file).replace(/\.\w+$/, ".js");
}

/** Property of globalThis with the number of the chosen module. The main module has number 0. */
const CHOSEN = "__slipway_chosen__";

/** Generates code that imports the main module, and exports its default export, because Bun serves it. */
function importMain(specifier: string, main: string): string {
  const { exports } = new Bun.Transpiler({ loader: loaderOf(main) }).scan(readFileSync(main, "utf8"));
  return `${exports.includes("default") ? "export { default } from" : "import"} ${specifier};\n`;
}

function loaderOf(file: string): Bun.JavaScriptLoader {
  return file.endsWith(".tsx") ? "tsx" : file.endsWith(".jsx") ? "jsx" : file.endsWith("ts") ? "ts" : "js";
}

/** Returns the entry point of a module that the service runs by path. @param isMain whether it is a process's */
export function loadedModuleEntry(file: string, isMain: boolean): EntryPoints {
  const rewrites = isMain ? rewriteMainModules([file]) : new Map();
  return { entrypoints: [file], files: {}, plugins: [], rewrites, execArgv: [] };
}

/**
 * Generates code that imports the module that the first argument names, for example `/NAME migrate`.
 *
 * The argument is a path after `fork("./src/job.ts")`. A child process of `process.execPath` is the service, because the
 * image has no other Bun.
 */
function launch(
  main: string,
  entries: [string, string][],
  { scripts, preloads }: Pick<EntryPointOptions, "scripts" | "preloads">,
  importOf: (path: string) => string,
): string {
  const row = (key: string, number: number, file: string) =>
    `  [${key}, [${number}, () => import(${importOf(file)})]],\n`;
  return `// A Map, because every object has keys like \`constructor\`.
const entries = new Map<string, [number, () => Promise<{ default?: any }>]>([
${entries.map(([name, file], at) => row(JSON.stringify(name), at + 1, file)).join("")}]);
const scripts: string[] = ${JSON.stringify(scripts)};
const [, , argument = ""] = process.argv;
const script = scripts.length > 0 ? process.getBuiltinModule("node:path").resolve(argument) : "";
const chosen = scripts.includes(script) ? ([-1, () => import(script)] as const) : entries.get(argument);
if (chosen?.[0] === -1) process.argv.splice(1, 2, script);
else if (chosen) process.argv.splice(2, 1);
const [number, load] = chosen ?? [0, () => import(${importOf(main)})];
Object.assign(globalThis, { ${CHOSEN}: number });
${preloads.all.map((file) => `if (number >= 0) await import(${importOf(file)});\n`).join("")}${preloads.main
    .map((file) => `if (number === 0) await import(${importOf(file)});\n`)
    .join("")}const app = (await load()).default;
// Bun does this with the main module.
if (app && (typeof app.fetch === "function" || app.app != undefined) && typeof app.stop !== "function") {
  const { protocol, hostname, port } = Bun.serve(app);
  console.debug(\`Started server: \${protocol}://\${hostname}:\${port}\`);
}
`;
}

/**
 * Replaces the tests for the main module in the modules that a launcher imports.
 *
 * The bundler makes them false in every module that is not an entry point. Other modules keep that.
 */
function rewriteMainModules(modules: string[]): Map<string, Replacements> {
  return new Map(
    modules.map((file): [string, Replacements] => {
      // Two names can choose the same module.
      const numbers = modules.flatMap((module, number) => (module === file ? [number] : []));
      const isMain = modules.length > 1 ? `([${numbers}].includes(globalThis.${CHOSEN}))` : "(true)";
      const tests = ["require.main === module", "require.main == module", "module === require.main"];
      const opposites = ["require.main !== module", "require.main != module", "module !== require.main"];
      const toRow = (code: string) => (expression: string) => [expression, code] as [string, string];
      return [
        file,
        new Map([...["import.meta.main", ...tests].map(toRow(isMain)), ...opposites.map(toRow(`(!${isMain})`))]),
      ];
    }),
  );
}

/**
 * Creates a plugin that resolves the attachment.
 *
 * @param main the main module, if the launcher imports it after pages. The attachment follows them too.
 */
function attachmentPlugin(main: string | undefined): Bun.BunPlugin {
  const { promise: pagesFound, resolve: setPagesFound } = Promise.withResolvers<void>();
  return {
    name: "attachment",
    setup(build) {
      if (main === undefined) setPagesFound();
      else {
        build.onResolve({ filter: exactly([basename(main)], "(?:.*/)?") }, ({ importer }) => {
          if (GENERATED.test(importer)) setPagesFound();
          return undefined;
        });
      }
      build.onResolve({ filter: exactly([ATTACH]) }, async () => {
        await pagesFound;
        return { path: serviceFile("attach.ts") };
      });
      // The attachment and the service are bundled apart, but share the state of the servers.
      build.onResolve({ filter: /\bservice(?:\.[jt]s)?$/ }, ({ path, importer }) => {
        if (dirname(importer) === serviceDirectory) return undefined;
        const isService = resolveFrom(path, importer) === serviceFile("service.ts");
        return isService ? { path: serviceFile("attached.ts") } : undefined;
      });
    },
  };
}
