/** Options of the bundler for a service. The image ID and the binary use the same options. */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { readStartOptions } from "../core/start-options.ts";
import { createEntryPoints, loadedModuleEntry } from "./entry-points.ts";
import { compileOptions } from "./image-spec.ts";
import { createStyleOrderPlugin, type HtmlImports } from "./html-order.ts";
import { createResolvePlugin } from "./require-resolve.ts";
import { APP_DIRECTORY, imagePathOf } from "./image-paths.ts";
import { declareGlobals } from "./sloppy-modules.ts";
import { bundlerDefines, rewriteModules } from "./rewrite-modules.ts";

/** Placeholder until the ID is known. */
const UNKNOWN_ID = "0".repeat(12);

/** Bundler inputs that are found by reading the service's source. */
export interface BundleInputs {
  /** Image ID. Default: a placeholder. */
  id?: string;
  /** The service's own modules: file -> content. */
  source?: Map<string, Buffer>;
  /** Packages that are copied into the image unbundled. */
  externalPackages?: string[];
  /** Main modules in the image of packages that pino finds by name: name -> path. */
  transports?: Record<string, string>;
  /** Global variables that modules assign without a declaration. */
  globals?: string[];
  /** Paths in the image of modules that the service starts as a process. */
  scripts?: string[];
  /** Optional packages that are not installed. */
  missingPackages?: string[];
  /** Specifiers that are passed to `require.resolve()`. */
  resolvedSpecifiers?: string[];
  /** Several HTML imports, in a fixed order. */
  htmlImports?: HtmlImports | undefined;
  /** Module to bundle in place of the service, because the service runs it by path. */
  entrypoint?: string;
  /** Whether only the HTML imports are bundled, without the service. */
  isHtmlOnly?: boolean;
}

export async function bundleOptions(
  service: Service,
  {
    id = UNKNOWN_ID,
    source = new Map<string, Buffer>(),
    externalPackages = [],
    missingPackages = [],
    transports = {},
    globals = [],
    scripts = [],
    resolvedSpecifiers = [],
    htmlImports,
    entrypoint,
    isHtmlOnly = false,
  }: BundleInputs = {},
) {
  const { autoloadBunfig: _, autoloadDotenv: __, ...options } = compileOptions;
  const { root, name, version, versionPath } = service;
  const start = readStartOptions(service);
  const preloadCode = declareGlobals(globals) + transportCode(transports);
  const { plugins, rewrites, ...entry } = entrypoint
    ? loadedModuleEntry(entrypoint, scripts.includes(imagePathOf(entrypoint, service.project)))
    : createEntryPoints(service, {
        pages: htmlImports?.files ?? [],
        ...{ isHtmlOnly, scripts, preloadCode },
        ...{ preloads: start.preloads, execArgv: start.execArgv },
      });
  const styleOrder = htmlImports && !isHtmlOnly && createStyleOrderPlugin(htmlImports);
  const mains = entrypoint ? [entrypoint] : [service.entry, ...Object.values(service.entries)];
  const rewriting = rewriteModules(
    source,
    service.project,
    rewrites,
    mains.map((file) => resolve(service.project, file)),
  );
  return {
    ...options,
    // The bundler writes the build path of modules that are generated for pages into comments.
    minify: { ...options.minify, whitespace: htmlImports !== undefined },
    ...entry,
    // The service's plugins come before the path rewriting, so that their output is not rewritten.
    plugins: [
      ...(styleOrder ? [styleOrder] : []),
      ...plugins,
      ...(resolvedSpecifiers.length > 0 ? [createResolvePlugin(resolvedSpecifiers, service.project)] : []),
      ...(await loadPlugins(service)),
      ...(rewriting ? [rewriting] : []),
    ],
    // A banner of the service would be in its browser code too.
    ...(entrypoint && { banner: preloadCode }),
    external: [...service.external, ...externalPackages, ...missingPackages],
    metafile: true,
    ...(start.conditions.length > 0 && { conditions: start.conditions }),
    ...(start.drop.length > 0 && { drop: start.drop }),
    ...(Object.keys(start.loader).length > 0 && { loader: start.loader }),
    root,
    target: "bun" as const,
    define: {
      BUILD_ID: JSON.stringify(id),
      BUILD_NAME: JSON.stringify(name),
      BUILD_VERSION: JSON.stringify(version),
      BUILD_VERSION_PATH: JSON.stringify(versionPath),
      BUILD_PORT: JSON.stringify(service.port),
      BUILD_ENTRY: JSON.stringify(join(APP_DIRECTORY, service.entry)),
      BUILD_ENTRIES: JSON.stringify([...Object.keys(service.entries), ...scripts]),
      "process.env.NODE_ENV": '"production"',
      ...bundlerDefines,
      ...publicEnvDefines(service),
      ...start.define,
      ...service.define,
    },
  };
}

/**
 * Generates code that tells pino the paths of transports. It resolves their names from the caller's file, which has a
 * relative path in a binary. https://github.com/pinojs/pino/blob/main/docs/bundling.md
 */
function transportCode(transports: Record<string, string>): string {
  if (Object.keys(transports).length === 0) return "";
  return `globalThis.__bundlerPathsOverrides={...${JSON.stringify(transports)},...globalThis.__bundlerPathsOverrides};`;
}

/** Returns the public variables as bundler definitions, sorted by name. */
export function publicEnvDefines(service: Service): Record<string, string> {
  const found = Object.entries(findPublicVariables(service));
  return Object.fromEntries(
    found.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => [`process.env.${name}`, JSON.stringify(value)]),
  );
}

/** Returns the environment variables whose names start with the `publicEnv` setting. */
export function findPublicVariables({ publicEnv }: Service): Record<string, string> {
  const found = Object.entries(process.env).filter(([name]) => publicEnv !== "" && name.startsWith(publicEnv));
  return Object.fromEntries(found as [string, string][]);
}

/** Loads the plugins of the settings and of bunfig.toml. Bun itself uses the latter in its development server only. */
async function loadPlugins(service: Service): Promise<Bun.BunPlugin[]> {
  const named = bunfigPlugins(service).map(async ({ name, file }) => {
    const loaded = (await import(file)) as { default?: Bun.BunPlugin };
    if (loaded.default) return loaded.default;
    throw new PipelineError("project", `bunfig.toml's plugin ${name} has no default export`, {
      code: "plugin-unusable",
    });
  });
  return [...(await Promise.all(named)), ...(service.plugins as Bun.BunPlugin[])];
}

/** Whether the service has plugins. A plugin can change the content of any file. */
export function hasPlugins(service: Service): boolean {
  return service.plugins.length > 0 || bunfigPlugins(service).length > 0;
}

/** Returns the modules that define plugins, including modules of packages. */
export function pluginModules(service: Service): string[] {
  const settings = join(service.project, "ci/pipeline.ts");
  return [...(existsSync(settings) ? [settings] : []), ...bunfigPlugins(service).map(({ file }) => file)];
}

/**
 * Resolves the plugins that bunfig.toml names. https://bun.sh/docs/bundler/fullstack#plugins
 *
 * @throws {PipelineError} "project" if a plugin cannot be resolved
 */
function bunfigPlugins({ project }: Service): { name: string; file: string }[] {
  return bunfigPluginNames(project).map((name) => {
    try {
      return { name, file: Bun.resolveSync(name, project) };
    } catch (error) {
      throw new PipelineError("project", `bunfig.toml's plugin ${name} was not found`, {
        code: "plugin-unusable",
        cause: error,
      });
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

const MISSING_MODULE_HINT =
  "If a script generates the file, add the script to `prebuild` in ci/pipeline.ts. If the package is optional, add it to `external`.";

/** Converts a bundler error into a PipelineError with all messages and their locations. */
export async function explainBundleError<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AggregateError)) throw error;
    const isMissing = error.errors.some(({ name }: Error) => name === "ResolveMessage");
    throw new PipelineError("project", "the source does not compile", {
      code: "source-does-not-compile",
      output: error.errors.map((one) => Bun.inspect(one, { colors: false })).join("\n"),
      ...(isMissing && { hint: MISSING_MODULE_HINT }),
      cause: error,
    });
  }
}
