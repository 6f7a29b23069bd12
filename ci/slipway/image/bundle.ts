/** What the bundler is told of a service, for the id and for the binary alike. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import { compileOptions } from "./image-spec.ts";
import { stylesInOrder, type HtmlImports } from "./html-order.ts";
import { rewriteModulePaths, bundlerDefines } from "./module-paths.ts";

/** Stands for the id while it is not known. */
const UNKNOWN_ID = "0".repeat(12);

/** Imported by the entry that is made here: answers and drains where the service does not. */
const ATTACH = "slipway:attach";
const attachment = join(import.meta.dir, "../service/attach.ts");

/** What is known of a service only when its source has been looked at. */
export interface BundleInputs {
  /** Default: not known yet. */
  id?: string;
  /** Its own modules: file -> content. */
  source?: Map<string, Buffer>;
  /** Paths that the service answers itself. */
  own?: string[];
  /** Packages that lie beside the binary. */
  external?: string[];
  /** Packages that are not there at all. */
  absent?: string[];
  /** Where there are several: in which order they come. */
  pages?: HtmlImports | undefined;
  /** Whether the pages are all that is bundled. */
  alone?: boolean;
}

export async function bundleOptions(
  service: Service,
  {
    id = UNKNOWN_ID,
    source = new Map<string, Buffer>(),
    own = [],
    external = [],
    absent = [],
    pages,
    alone = false,
  }: BundleInputs = {},
) {
  const { autoloadBunfig: _, autoloadDotenv: __, ...options } = compileOptions;
  const { root, name, version, versionPath } = service;
  const { plugins = [], ...entry } = entrypoint(service, pages?.files ?? [], alone);
  const ordered = pages && !alone && stylesInOrder(pages);
  const place = rewriteModulePaths(source, service.project);
  return {
    ...options,
    ...entry,
    // The service's own come first: what one of them makes is taken as it is.
    plugins: [
      ...(ordered ? [ordered] : []),
      ...plugins,
      ...(await pluginsOf(service)),
      ...(place ? [place.plugin] : []),
    ],
    ...(place && { banner: place.banner }),
    external: [...service.external, ...external, ...absent],
    metafile: true,
    root,
    target: "bun" as const,
    define: {
      BUILD_ID: JSON.stringify(id),
      BUILD_NAME: JSON.stringify(name),
      BUILD_VERSION: JSON.stringify(version),
      BUILD_VERSION_PATH: JSON.stringify(versionPath),
      BUILD_OWN_PATHS: JSON.stringify(own),
      "process.env.NODE_ENV": '"production"',
      ...bundlerDefines,
      ...place?.define,
      ...publicEnv(service),
      ...service.define,
    },
  };
}

/** The variables that become part of the build, as definitions. */
export function publicEnv(service: Service): Record<string, string> {
  const found = Object.entries(publicVariables(service));
  return Object.fromEntries(
    found
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, value]) => [`process.env.${name}`, JSON.stringify(value)]),
  );
}

/** The variables whose names begin as the setting says. */
export function publicVariables({ publicEnv }: Service): Record<string, string> {
  const found = Object.entries(process.env).filter(
    ([name]) => publicEnv !== "" && name.startsWith(publicEnv),
  );
  return Object.fromEntries(found as [string, string][]);
}

/** The service's, and those that bunfig.toml names for its pages: Bun itself takes them in its development server alone. */
async function pluginsOf(service: Service): Promise<Bun.BunPlugin[]> {
  const named = bunfigPlugins(service).map(async ({ name, file }) => {
    const loaded = (await import(file)) as { default?: Bun.BunPlugin };
    if (loaded.default) return loaded.default;
    throw new PipelineError("project", `bunfig.toml's plugin ${name} has no default export`);
  });
  return [...(await Promise.all(named)), ...(service.plugins as Bun.BunPlugin[])];
}

/** Whether there is a plugin, which decides what becomes of a file. */
export function hasPlugins(service: Service): boolean {
  return service.plugins.length > 0 || bunfigPlugins(service).length > 0;
}

/** The modules that plugins come from, those of packages too. */
export function pluginModules(service: Service): string[] {
  const settings = join(service.project, "ci/pipeline.ts");
  return [...(existsSync(settings) ? [settings] : []), ...bunfigPlugins(service).map(({ file }) => file)];
}

/**
 * https://bun.sh/docs/bundler/fullstack#plugins
 *
 * @throws {PipelineError} "project" when one is not there
 */
function bunfigPlugins({ project }: Service): { name: string; file: string }[] {
  return bunfigPluginNames(project).map((name) => {
    try {
      return { name, file: Bun.resolveSync(name, project) };
    } catch (error) {
      throw new PipelineError("project", `bunfig.toml's plugin ${name} is not there`, { cause: error });
    }
  });
}

function bunfigPluginNames(project: string): string[] {
  try {
    const { serve } = Bun.TOML.parse(readFileSync(join(project, "bunfig.toml"), "utf8")) as {
      serve?: { static?: { plugins?: string[] } };
    };
    return serve?.static?.plugins ?? [];
  } catch {
    return [];
  }
}

/** The service's own entry; where there is more than that, one that is never written imports them. */
function entrypoint({ project, entry, entries, attach }: Service, pages: string[], alone: boolean) {
  const own = join(project, entry);
  const others = Object.entries(entries);
  if (!attach && others.length === 0 && pages.length === 0) return { entrypoints: [own] };
  // Beside the own one: what is relative to the main module stays where it is.
  const made = (number: number) => `${own}${number === 0 ? "" : `.${number}`}.slipway.ts`;
  // The made one is in the source map: a path from the root would make it another one in another directory.
  const relativeTo = (path: string) => {
    const found = relative(dirname(own), resolve(project, path));
    return JSON.stringify(found.startsWith("../") ? found : `./${found}`);
  };
  const isServed = !alone && others.length === 0 && hasDefault(own);
  const service = [
    ...(attach ? [`import "${ATTACH}";`] : []),
    ...(others.length > 0 ? dispatch(entry, others, relativeTo) : [pass(isServed, relativeTo(entry))]),
  ];
  // A module for each page, which imports the next: the bundler comes upon them one after the other.
  const files = [
    ...pages.map((page, at) => [`import ${relativeTo(page)};`, pass(isServed, relativeTo(made(at + 1)))]),
    alone ? [] : service,
  ];
  const plugin: Bun.BunPlugin = {
    name: "slipway",
    setup: (build) => void build.onResolve({ filter: /^slipway:attach$/ }, () => ({ path: attachment })),
  };
  return {
    entrypoints: [made(0)],
    files: Object.fromEntries(files.map((lines, at) => [made(at), `${lines.join("\n")}\n`])),
    plugins: [plugin],
  };
}

/** Bun serves the default export of the main module. */
function pass(isServed: boolean, specifier: string): string {
  return isServed ? `export { default } from ${specifier};` : `import ${specifier};`;
}

function hasDefault(file: string): boolean {
  const { exports } = new Bun.Transpiler({ loader: loaderOf(file) }).scan(readFileSync(file, "utf8"));
  return exports.includes("default");
}

/** The first argument chooses: `/NAME migrate`. */
function dispatch(
  entry: string,
  others: [name: string, path: string][],
  specifier: (path: string) => string,
): string[] {
  const table = others.map(
    ([name, path]) => `  [${JSON.stringify(name)}, () => import(${specifier(path)})],`,
  );
  return [
    // A Map knows no word that every object knows, like `constructor`.
    "const others = new Map<string, () => Promise<unknown>>([",
    ...table,
    "]);",
    'const chosen = others.get(process.argv[2] ?? "");',
    "if (chosen) {",
    "  process.argv.splice(2, 1);",
    "  await chosen();",
    "} else {",
    `  const { default: app } = (await import(${specifier(entry)})) as { default?: any };`,
    '  if (typeof app?.fetch === "function" && typeof app.stop !== "function") Bun.serve(app);',
    "}",
  ];
}

function loaderOf(file: string): Bun.JavaScriptLoader {
  return file.endsWith(".tsx") ? "tsx" : file.endsWith(".jsx") ? "jsx" : file.endsWith("ts") ? "ts" : "js";
}

const missing =
  "What a script makes before the build is named by `before` in ci/pipeline.ts, a package that the service can do without by `external`.";

/** Turns the bundler's error into one with all of its messages, each with its place. */
export async function explainBundleError<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AggregateError)) throw error;
    const isMissing = error.errors.some(({ name }: Error) => name === "ResolveMessage");
    throw new PipelineError("project", "the source does not compile", {
      output: error.errors.map((one) => Bun.inspect(one, { colors: false })).join("\n"),
      ...(isMissing && { hint: missing }),
      cause: error,
    });
  }
}
