/**
 * What goes into an image, and its id: the first 12 hex digits of SHA-256 over all of it. Same inputs, same id, same
 * bytes; it is known before anything is compiled.
 *
 * Which files the binary is made of, the bundler knows alone, so it is asked: bundling without compiling takes some
 * milliseconds. Beside what it opened, wherever that lies, goes in what decides how: package.json and lockfile of
 * project and workspace, the tsconfig of every directory with what it extends, bunfig, the compiler's options, the
 * image's settings, slipway's own build code, which Bun, the C library, the platform; and what lies beside the binary. What
 * nothing reads does not: the git commit, tests, documentation; a change there deploys nothing.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, normalize, relative, resolve } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import {
  bundleOptions,
  explainBundleError,
  hasPlugins,
  pluginModules,
  publicEnv,
  type BundleInputs,
} from "./bundle.ts";
import { compileOptions, createImageSpec, withAddonLibraries, type RuntimeLibraries } from "./image-spec.ts";
import { filesOfPackages, findNativePackages } from "./native-packages.ts";
import { findHtmlImports, type HtmlImports } from "./html-order.ts";
import { APP_DIRECTORY } from "./module-paths.ts";
import { findTsconfigs } from "./tsconfig.ts";
import { findMissingPackages, describeMissing, findDynamicLoads } from "./dynamic-imports.ts";

/** Lockfiles: Bun's, its former one, and those of others that Bun reads. */
export const lockfiles = ["bun.lock", "bun.lockb", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"];

export interface ImageInputs {
  /** Every file that decides what the binary is: the path that counts -> where it is. */
  files: Map<string, string>;
  /** Of those, the service's own modules as they were when they were looked at: file -> content. */
  source: Map<string, Buffer>;
  /** What lies beside the binary: path in the image, without a slash in front -> where it is. */
  beside: Map<string, string>;
  /** The runtime, with what native addons link. */
  runtime: RuntimeLibraries;
  /** Of the paths that would be attached, those that stand in the service's source: it answers them itself. */
  own: string[];
  /** Packages that are loaded from beside the binary, and where they are. */
  external: string[];
  /** Those that are not installed, and that a package asks for only when it comes to that. */
  absent: string[];
  packages: Map<string, string>;
  /** Where there are several pages: in which order they come. */
  pages: HtmlImports | undefined;
  /** Where there are macros or plugins: SHA-256 of what is bundled, because what they read is not seen in any other way. */
  output: string | undefined;
  /** What the bundler has to say of source that it takes. */
  warnings: string[];
}

/** @throws {PipelineError} "project", with the bundler's messages as output, when the source does not bundle */
export async function collectInputs(service: Service, runtime: RuntimeLibraries): Promise<ImageInputs> {
  const { project, root } = service;
  const { bundle, absent } = await bundleOf(service);
  // Its paths are relative to the working directory; a plugin's own modules, `namespace:name`, are no files.
  const opened = Object.keys(bundle.metafile!.inputs).map((path) => resolve(path));
  const files = new Set(opened.filter((path) => existsSync(path)));
  const source = new Map(ownSource(files).map((file) => [file, readFileSync(file)]));
  const native = findNativePackages(files, service.nativePackages, runtime.platform.architecture);
  const [external, without] = [[...native.packages.keys()], [...absent.keys()]];
  const again = (given: BundleInputs, ...plugins: Bun.BunPlugin[]) =>
    explainBundleError(() => bundleWith(service, { external, absent: without, ...given }, plugins));
  const pages = await findHtmlImports(bundle, root, (pages, plugin) => again({ pages, alone: true }, plugin));
  const isMade = hasMacros(source.values()) || hasPlugins(service);
  const output = isMade ? await bundleDigest((pages ? await again({ pages }) : bundle).outputs) : undefined;
  const own = service.attach ? findOwnPaths(service, source.values()) : [];

  for (const directory of new Set([...files].filter((file) => !isInstalled(file)).map(dirname))) {
    for (const file of findTsconfigs(directory, root)) files.add(file);
    const manifest = nearest("package.json", directory, root);
    if (manifest) files.add(manifest);
  }
  for (const directory of new Set([project, root])) {
    for (const name of ["package.json", "bunfig.toml", ...lockfiles]) {
      const file = join(directory, name);
      if (existsSync(file)) files.add(file);
    }
  }
  // A plugin decides what becomes of a file: its code is that of the pipeline, or a package that the lockfile names.
  if (hasPlugins(service)) for (const file of await pluginCode(service)) files.add(file);
  return {
    files: new Map([...files].map((file) => [nameIn(root, file), file])),
    source,
    beside: new Map([...filesOfPackages(native), ...filesFor(service)]),
    runtime: withAddonLibraries(runtime, native.objects),
    own,
    external,
    absent: without,
    packages: native.packages,
    pages,
    output,
    warnings: [
      ...bundle.logs.map((log) => Bun.inspect(log, { colors: false })),
      ...describeMissing(absent),
      ...findDynamicLoads(source, project),
    ],
  };
}

/** The service, bundled without what is not there and need not be. */
async function bundleOf(service: Service) {
  const absent = new Map<string, string>();
  for (;;) {
    try {
      return { bundle: await bundleWith(service, { absent: [...absent.keys()] }), absent };
    } catch (error) {
      const more = [...findMissingPackages(error)].filter(([name]) => !absent.has(name));
      if (more.length === 0) return explainBundleError(() => Promise.reject(error));
      for (const [name, by] of more) absent.set(name, by);
    }
  }
}

/** In milliseconds: without compiling. */
async function bundleWith(service: Service, given: BundleInputs, first: Bun.BunPlugin[] = []) {
  const options = await bundleOptions(service, given);
  const plugins = [...first, ...options.plugins];
  return Bun.build({ ...options, plugins, bytecode: false, sourcemap: "none" });
}

/** The files that the service wants in the image, by their paths in the project. @throws {PipelineError} "project": there are none */
function filesFor({ project, files }: Service): [string, string][] {
  return files.flatMap((given) => {
    const pattern = normalize(given).replace(/\/$/, "");
    if (pattern === ".." || pattern.startsWith("../") || isAbsolute(pattern)) {
      throw new PipelineError("project", `\`files\` names ${given}, which is not in ${project}`);
    }
    const isDirectory = statSync(join(project, pattern), { throwIfNoEntry: false })?.isDirectory() ?? false;
    const glob = new Bun.Glob(isDirectory ? join(pattern, "**") : pattern);
    const found = [...glob.scanSync({ cwd: project, dot: true })].filter((file) => !isInstalled(`/${file}`));
    const inImage = (file: string) => join(APP_DIRECTORY, file).slice(1);
    if (found.length > 0) return found.map((file): [string, string] => [inImage(file), join(project, file)]);
    throw new PipelineError("project", `\`files\` names ${given}, and there is no such file in ${project}`);
  });
}

/** The code of plugins: modules of ci/pipeline.ts and of what bunfig.toml names, a workspace's other members too. */
async function pluginCode(service: Service): Promise<string[]> {
  const entrypoints = pluginModules(service).filter((file) => !isInstalled(file));
  if (entrypoints.length === 0) return [];
  // What is installed, the lockfile names.
  const external: Bun.BunPlugin = {
    name: "external packages",
    setup(build) {
      build.onResolve({ filter: /^[^./]/ }, ({ path, importer }) => {
        const file = resolveFrom(path, importer);
        const isOwn = file !== undefined && isAbsolute(file) && !isInstalled(file) && !isSlipways(file);
        return isOwn ? undefined : { path, external: true };
      });
    },
  };
  const { metafile } = await explainBundleError(() =>
    Bun.build({ entrypoints, plugins: [external], target: "bun", metafile: true }),
  );
  return Object.keys(metafile!.inputs).map((path) => resolve(path));
}

function resolveFrom(name: string, importer: string): string | undefined {
  try {
    return Bun.resolveSync(name, dirname(importer));
  } catch {
    return undefined;
  }
}

/** The bundler has the files of several pages in one order here and in another there. */
export async function bundleDigest(outputs: Bun.BuildArtifact[]): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for (const output of outputs.toSorted((a, b) => (a.path < b.path ? -1 : 1)))
    hash.update(`\n${output.size}\0`).update(await output.arrayBuffer());
  return hash.digest("hex");
}

function nearest(name: string, directory: string, root: string): string | undefined {
  for (let at = directory; ; at = dirname(at)) {
    const file = join(at, name);
    if (existsSync(file)) return file;
    if (at === root || at === dirname(at)) return undefined;
  }
}

const isInstalled = (file: string) => file.includes("/node_modules/");

const slipway = dirname(import.meta.dir);
const isSlipways = (file: string) => file.startsWith(`${slipway}/`);

/** The service's own modules. */
function ownSource(files: Set<string>): string[] {
  return [...files].filter((file) => /\.[cm]?[jt]sx?$/.test(file) && !isInstalled(file) && !isSlipways(file));
}

/** https://bun.sh/docs/bundler/macros */
function hasMacros(source: Iterable<Buffer>): boolean {
  const isMacro = /\btype\s*:\s*["']macro["']/;
  return Iterator.from(source).some((text) => text.includes("macro") && isMacro.test(text.toString()));
}

/** Looks for the paths as text: a router's table cannot be seen before it runs. */
function findOwnPaths({ versionPath }: Service, source: Iterable<Buffer>): string[] {
  const wanted = [versionPath, "/readyz", "/healthz"];
  const found = new Set<string>();
  for (const text of source) {
    for (const path of wanted) {
      if (text.includes(path) && ['"', "'", "`"].some((q) => text.includes(q + path + q))) found.add(path);
    }
  }
  return wanted.filter((path) => found.has(path));
}

/**
 * The image's id.
 *
 * @param inputs default: they are looked up
 * @throws {PipelineError} as inputsOf()
 */
export async function computeImageId(
  service: Service,
  runtime: RuntimeLibraries,
  inputs: Promise<ImageInputs> | ImageInputs = collectInputs(service, runtime),
): Promise<string> {
  const found = await inputs;
  const files: [path: string, file: string][] = [
    ...found.files,
    ...[...found.beside].map(([path, file]): [string, string] => [`/${path}`, file]),
    ...found.runtime.files,
    ...buildCode().map((file): [string, string] => [nameIn("", file), file]),
  ];
  const hash = new Bun.CryptoHasher("sha256");
  const { entry, entries, external, define, attach, versionPath } = service;
  const settings = {
    compileOptions,
    service: { entry, entries, external, define: { ...publicEnv(service), ...define } },
    attach: attach && versionPath,
    beside: found.external,
    absent: found.absent.toSorted(),
    image: createImageSpec(service),
    platform: runtime.platform,
    bun: [Bun.version, runtime.bunBuildId],
    output: found.output,
  };
  hash.update(JSON.stringify(settings));
  // Sorted by code unit: a locale must not change the id. Lengths are hashed too, so that no two lists look the same.
  for (const [path, file] of files.sort(([a], [b]) => (a < b ? -1 : 1))) {
    // One after the other and without a promise each: of thousands of small files that is the quickest.
    const content = found.source.get(file) ?? readFileSync(file);
    hash.update(`\n${path}\0${content.length}\0`);
    hash.update(content);
  }
  return hash.digest("hex").slice(0, 12);
}

/** A file's place in the workspace; of a package that is installed outside of it, in that. */
function nameIn(root: string, file: string): string {
  // slipway's own, in this repository and in node_modules alike.
  if (isSlipways(file)) return `slipway:${relative(slipway, file)}`;
  const path = relative(root, file);
  const installed = file.lastIndexOf("/node_modules/");
  return path.startsWith("../") && installed >= 0 ? file.slice(installed + 1) : path;
}

/** The code that makes the image: another one may make another image of the same source. */
function buildCode(): string[] {
  return readdirSync(import.meta.dir)
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(import.meta.dir, name));
}
