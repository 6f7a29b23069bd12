/**
 * Collects the inputs of an image and computes its ID, the first 12 hex digits of SHA-256 over all inputs.
 *
 * Equal inputs give an equal ID and a bit-identical image. The ID is known before the compilation.
 *
 * The inputs are:
 *
 * - every file that the bundler opens, found by bundling without compiling, which takes some milliseconds
 * - package.json, lockfile and bunfig of project and workspace, and each source directory's tsconfig with its bases
 * - the compiler's options, the image's settings and slipway's build code
 * - the Bun build, the C library and the platform
 * - the files and packages that are copied into the image unbundled
 *
 * Other files, such as tests and documentation, and the git commit do not affect the ID.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { addNamedFile } from "../core/hash.ts";
import type { Service } from "../core/resolve-service.ts";
import { readStartOptions } from "../core/start-options.ts";
import {
  explainBundleError,
  hasPlugins,
  pluginModules,
  publicEnvDefines,
  type BundleInputs,
} from "./bundle-options.ts";
import { findConfiguredFiles } from "./configured-files.ts";
import { compileOptions, createImageSpec, withAddonLibraries, type RuntimeLibraries } from "./image-spec.ts";
import { resolveFrom } from "./module-names.ts";
import { findNamedPackages, findTransports } from "./named-packages.ts";
import { findNativePackages, listPackageFiles } from "./native-packages.ts";
import { findHtmlImports, type HtmlImports } from "./html-order.ts";
import { bundleOnly, bundleWithoutMissing } from "./trial-bundle.ts";
import { describePathUses, findLoadedModules, scriptPaths } from "./loaded-modules.ts";
import { moduleDirectories } from "./image-paths.ts";
import type { PathUses } from "./path-uses.ts";
import { findTsconfigs } from "./find-tsconfigs.ts";
import { findSloppyModules } from "./sloppy-modules.ts";
import { describeMissing, findDynamicLoads } from "./dynamic-imports.ts";
import { findSelfStarts } from "./find-self-spawns.ts";
import { findResolvedSpecifiers } from "./require-resolve.ts";

/** Lockfiles that Bun reads: its current and former format, and those of other package managers. */
export const lockfiles = ["bun.lock", "bun.lockb", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"];

export interface ImageInputs {
  /** Files that determine the binary: hashed path -> file. */
  files: Map<string, string>;
  /** Content of the service's own modules, and of packages' modules that use their path: file -> content. */
  source: Map<string, Buffer>;
  /** Content of all modules, read once: file -> content. */
  contents: Map<string, Buffer>;
  /** Modules that the service runs by path. */
  loaded: PathUses["code"];
  /** Directories of modules that use their path. */
  directories: Set<string>;
  /** Files that are copied into the app layer: path in the image, without a leading slash -> file. */
  appFiles: Map<string, string>;
  /** Shared libraries of Bun and of native addons. */
  runtime: RuntimeLibraries;
  /** Names of packages that are copied into the image unbundled. */
  externalPackages: string[];
  /** Packages that pino finds by name: name -> path of the main module in the image. */
  transports: Record<string, string>;
  /** Global variables that modules assign without a declaration. */
  globals: string[];
  /** Paths in the image of modules that the service starts as a process. */
  scripts: string[];
  /** Names of packages that are not installed and that another package loads lazily. */
  missingPackages: string[];
  /** Specifiers that are passed to `require.resolve()`. */
  resolvedSpecifiers: string[];
  /** Unbundled packages: path in the image, without a leading slash -> directory. */
  packages: Map<string, string>;
  /** Several HTML imports, in a fixed order. */
  htmlImports: HtmlImports | undefined;
  /** SHA-256 of the bundle if there are macros or plugins, because files that they read are not reported. */
  bundleDigest: string | undefined;
  /** Warnings of the bundler. */
  warnings: string[];
}

/** @throws {PipelineError} "project" if the source does not bundle, with the bundler's messages as output */
export async function collectInputs(service: Service, runtime: RuntimeLibraries): Promise<ImageInputs> {
  const { project, root } = service;
  const { bundle, missing } = await bundleWithoutMissing(service);
  // The paths are relative to the working directory. A plugin's virtual modules, `namespace:name`, are not files.
  const opened = Object.keys(bundle.metafile!.inputs).map((path) => resolve(path));
  const files = new Set(opened.filter((path) => existsSync(path)));
  const specifiers = new Set(findResolvedSpecifiers(bundle));
  const modules = await findLoadedModules(service, bundle.metafile!, isOwnModule, async (entrypoint) => {
    const { bundle, missing: more } = await bundleWithoutMissing(service, { entrypoint });
    for (const [name, by] of more) missing.set(name, by);
    for (const specifier of findResolvedSpecifiers(bundle)) specifiers.add(specifier);
    return bundle.metafile!;
  });
  for (const file of modules.opened) if (existsSync(file)) files.add(file);
  const { contents, packages, packageSource } = modules;
  const source = new Map(
    [...files].filter(isOwnModule).map((file) => [file, contents.get(file) ?? readFileSync(file)]),
  );
  const named = findNamedPackages(service, modules.strings, files);
  const sloppy = findSloppyModules(modules.commonJs, project);
  const { globals } = sloppy;
  const hoisting = [...missing.values()].flatMap(({ by, isHoisted }) => (isHoisted ? [by] : []));
  const requested = [
    ...new Set([...service.nativePackages, ...packages.running, ...sloppy.packages, ...hoisting, ...named]),
  ];
  const native = findNativePackages(files, requested, runtime.platform.architecture, project);
  const externalPackages = native.external;
  const scripts = scriptPaths(modules, project);
  const resolved = new Set([...modules.code.values()].map(({ place }) => place));
  const transports = findTransports(native, [...service.nativePackages, ...named]);
  const missingPackages = [...missing.keys()];
  const configured = findConfiguredFiles(service);
  const rewritten = new Map([...source, ...packageSource]);
  const resolvedSpecifiers = [...specifiers].sort();
  const rebundle = (inputs: BundleInputs, ...plugins: Bun.BunPlugin[]) =>
    explainBundleError(() =>
      bundleOnly(
        service,
        { externalPackages, transports, globals, scripts, missingPackages, resolvedSpecifiers, ...inputs },
        plugins,
      ),
    );
  const htmlImports = await findHtmlImports(bundle, root, (htmlImports, plugin) =>
    rebundle({ htmlImports, isHtmlOnly: true }, plugin),
  );
  const isGenerated = hasMacros(source.values()) || hasPlugins(service);
  const bundleDigest = isGenerated
    ? await computeBundleDigest(
        (htmlImports || resolvedSpecifiers.length > 0 ? await rebundle({ htmlImports }) : bundle).outputs,
      )
    : undefined;

  for (const directory of new Set([...files].filter((file) => !isInstalled(file)).map(dirname))) {
    for (const file of findTsconfigs(directory, root)) files.add(file);
    const manifest = findUpwards("package.json", directory, root);
    if (manifest) files.add(manifest);
  }
  for (const directory of new Set([project, root])) {
    for (const name of ["package.json", "bunfig.toml", ...lockfiles]) {
      const file = join(directory, name);
      if (existsSync(file)) files.add(file);
    }
  }
  // A plugin can change the content of any file. The lockfile covers plugins of packages.
  if (hasPlugins(service)) for (const file of await findPluginCode(service)) files.add(file);
  return {
    files: new Map([...files].map((file) => [hashedPath(root, file), file])),
    source: rewritten,
    contents: new Map([...contents, ...source]),
    loaded: modules.code,
    directories: moduleDirectories(
      [...source, ...[...packageSource].filter(([file]) => packages.readers.has(file))],
      project,
    ),
    appFiles: new Map([...packages.data, ...listPackageFiles(native), ...configured]),
    runtime: withAddonLibraries(runtime, native.objects),
    externalPackages,
    transports,
    globals,
    scripts,
    missingPackages,
    resolvedSpecifiers,
    packages: native.packages,
    htmlImports,
    bundleDigest,
    warnings: [
      ...bundle.logs.map((log) => Bun.inspect(log, { colors: false })),
      ...describeMissing(missing),
      ...readStartOptions(service).warnings,
      ...sloppy.warnings,
      ...findDynamicLoads(source, project, resolved),
      ...describePathUses(
        modules,
        service,
        configured.map(([path]) => path),
      ),
      ...findSelfStarts(source, project).filter((warning) => !resolved.has(warning.slice(0, warning.indexOf(" ")))),
    ],
  };
}

/** Finds the modules of plugins in ci/pipeline.ts and bunfig.toml, including those of other workspace members. */
async function findPluginCode(service: Service): Promise<string[]> {
  const entrypoints = pluginModules(service).filter((file) => !isInstalled(file));
  if (entrypoints.length === 0) return [];
  // The lockfile covers installed packages.
  const external: Bun.BunPlugin = {
    name: "external packages",
    setup(build) {
      build.onResolve({ filter: /^[^./]/ }, ({ path, importer }) => {
        const file = resolveFrom(path, importer);
        const isOwn = file !== undefined && isAbsolute(file) && !isInstalled(file) && !isSlipwayCode(file);
        return isOwn ? undefined : { path, external: true };
      });
    },
  };
  const { metafile } = await explainBundleError(() =>
    Bun.build({ entrypoints, plugins: [external], target: "bun", metafile: true }),
  );
  return Object.keys(metafile!.inputs).map((path) => resolve(path));
}

/** Hashes a bundle's files sorted by path, because the bundler's order of several pages varies. */
export async function computeBundleDigest(outputs: Bun.BuildArtifact[]): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for (const output of outputs.toSorted((a, b) => (a.path < b.path ? -1 : 1)))
    hash.update(`\n${output.size}\0`).update(await output.arrayBuffer());
  return hash.digest("hex");
}

function findUpwards(name: string, directory: string, root: string): string | undefined {
  for (let at = directory; ; at = dirname(at)) {
    const file = join(at, name);
    if (existsSync(file)) return file;
    if (at === root || at === dirname(at)) return undefined;
  }
}

const isInstalled = (file: string) => file.includes("/node_modules/");

const slipwayRoot = dirname(import.meta.dir);
const isSlipwayCode = (file: string) => file.startsWith(`${slipwayRoot}/`);

/** Whether a file is one of the service's own modules. */
const isOwnModule = (file: string) => /\.[cm]?[jt]sx?$/.test(file) && !isInstalled(file) && !isSlipwayCode(file);

/** https://bun.sh/docs/bundler/macros */
function hasMacros(source: Iterable<Buffer>): boolean {
  const isMacro = /\btype\s*:\s*["']macro["']/;
  return Iterator.from(source).some((text) => text.includes("macro") && isMacro.test(text.toString()));
}

/**
 * Computes the image ID.
 *
 * @param inputs default: the result of collectInputs()
 * @throws {PipelineError} "project" if the source does not bundle
 */
export async function computeImageId(
  service: Service,
  runtime: RuntimeLibraries,
  inputs: Promise<ImageInputs> | ImageInputs = collectInputs(service, runtime),
): Promise<string> {
  const found = await inputs;
  const files: [path: string, file: string][] = [
    ...found.files,
    ...[...found.appFiles].map(([path, file]): [string, string] => [`/${path}`, file]),
    ...found.runtime.files,
    ...listBuildCode().map((file): [string, string] => [hashedPath("", file), file]),
  ];
  const hash = new Bun.CryptoHasher("sha256");
  const { entry, entries, external, define, attach, versionPath } = service;
  const settings = {
    compileOptions,
    service: { entry, entries, external, define: { ...publicEnvDefines(service), ...define } },
    attach: attach && versionPath,
    externalPackages: found.externalPackages,
    missingPackages: found.missingPackages.toSorted(),
    loaded: [...found.loaded].map(([path, { file }]) => [path, file].map((at) => hashedPath(service.root, at))).sort(),
    image: createImageSpec(service),
    platform: runtime.platform,
    bun: [Bun.version, runtime.bunBuildId],
    bundleDigest: found.bundleDigest,
  };
  hash.update(JSON.stringify(settings));
  // Sorted by code unit, so that the locale does not affect the ID.
  for (const [path, file] of files.sort(([a], [b]) => (a < b ? -1 : 1))) {
    // Synchronous reads are the fastest for thousands of small files.
    addNamedFile(hash, path, found.contents.get(file) ?? readFileSync(file));
  }
  return hash.digest("hex").slice(0, 12);
}

/** Returns a path that does not depend on the machine: relative to the workspace, or to an outside node_modules. */
function hashedPath(root: string, file: string): string {
  // slipway can be in this repository or in node_modules.
  if (isSlipwayCode(file)) return `slipway:${relative(slipwayRoot, file)}`;
  const path = relative(root, file);
  const installed = file.lastIndexOf("/node_modules/");
  return path.startsWith("../") && installed >= 0 ? file.slice(installed + 1) : path;
}

/** Lists slipway's build code, because a change of it can change the image. */
function listBuildCode(): string[] {
  return readdirSync(import.meta.dir)
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(import.meta.dir, name));
}
