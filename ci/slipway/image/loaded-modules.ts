/**
 * Bundles the modules that a service runs by path, such as workers, and writes them to their paths in the image.
 *
 * They are files and no part of the binary. Every way to make their path works therefore as from source.
 */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import type { Service } from "../core/resolve-service.ts";
import { APP_DIRECTORY, packageOf } from "./image-paths.ts";
import {
  findPackagePathUses,
  findPathUses,
  noPathUses,
  type PackagePathUses,
  type PathUse,
  type PathUses,
} from "./path-uses.ts";

type Metafile = NonNullable<Bun.BuildOutput["metafile"]>;

export interface LoadedModules extends PathUses {
  /** Paths that packages open, and packages that createRequire() loads. */
  packages: PackagePathUses;
  /** Modules of packages that use their path: file -> content. */
  packageSource: Map<string, Buffer>;
  /** All modules that were read: file -> content. */
  contents: Map<string, Buffer>;
  /** CommonJS modules: file -> content. */
  commonJs: Map<string, Buffer>;
  /** Files that the bundler opened for the modules that are run by path. */
  opened: Set<string>;
}

/**
 * Finds the files that the service and its packages open by path, also those of modules that are run by path.
 *
 * @param isOwn whether a file is a module of the service
 * @param bundle bundles a module. @returns the bundler's metafile
 */
export async function findLoadedModules(
  { project, entry }: Service,
  metafile: Metafile,
  isOwn: (file: string) => boolean,
  bundle: (entrypoint: string) => Promise<Metafile>,
): Promise<LoadedModules> {
  const contents = new Map<string, Buffer>();
  const found = noPathUses();
  const opened = new Set<string>();
  const commonJs = new Map<string, Buffer>();
  const bundled = new Set<string>();
  const add = (metafile: Metafile, entries: string[]) => {
    const files = serverFiles(metafile, entries);
    const fresh = files.filter((file) => !contents.has(file) && isModule(file) && existsSync(file));
    for (const file of fresh) contents.set(file, readFileSync(file));
    const added = new Set(fresh);
    for (const [path, { format }] of Object.entries(metafile.inputs)) {
      const file = resolve(path);
      if (format === "cjs" && added.has(file)) commonJs.set(file, contents.get(file)!);
    }
    const uses = findPathUses(new Map(fresh.filter(isOwn).map((file) => [file, contents.get(file)!])), project);
    for (const [path, use] of uses.code) if (isInside(path, project)) found.code.set(path, use);
    for (const string of uses.strings) found.strings.add(string);
    for (const name of uses.requiredPackages) found.requiredPackages.add(name);
    for (const [path, file] of uses.requiredData) found.requiredData.set(path, file);
    for (const key of ["data", "unknown", "unknownCode"] as const) found[key].push(...uses[key]);
  };
  add(metafile, [join(project, entry)]);
  // The loop also visits the modules that it adds.
  for (const { file } of found.code.values()) {
    if (bundled.has(file)) continue;
    bundled.add(file);
    const inputs = await bundle(file);
    for (const path of Object.keys(inputs.inputs)) opened.add(resolve(path));
    add(inputs, [file]);
  }
  const packageSource = new Map(
    [...contents].filter(([file, text]) => packageOf(file) && placeWords.some((word) => text.includes(word))),
  );
  const packages = findPackagePathUses(packageSource, project);
  for (const name of found.requiredPackages) packages.running.add(name);
  for (const [path, file] of found.requiredData) packages.data.set(path, file);
  return { ...found, packages, packageSource, contents, commonJs, opened };
}

const placeWords = ["__dirname", "__filename", "import.meta.", "createRequire", "require.resolve"];
const isModule = (file: string) => /\.[cm]?[jt]sx?$/.test(file);
const isInside = (path: string, project: string) => !relative(project, path).startsWith("..");

/** Lists the files that the server loads. Files that only a page imports run in the browser. */
function serverFiles({ inputs }: Metafile, entries: string[]): string[] {
  const all = new Map(Object.entries(inputs).map(([path, { imports }]) => [resolve(path), imports]));
  const imported = new Set([...all].flatMap(([, imports]) => imports.map(({ path }) => resolve(path))));
  const found = new Set([...entries, ...[...all.keys()].filter((file) => !imported.has(file))]);
  // The loop also visits the files that it adds.
  for (const file of found) {
    if (file.endsWith(".html")) continue;
    for (const { path } of all.get(file) ?? []) found.add(resolve(path));
  }
  return [...found];
}

/** Returns the paths in the image of modules that the service starts as a process, which its binary has to run. */
export function scriptPaths({ code }: PathUses, project: string): string[] {
  const isProcess = ({ callee }: PathUse) => /^(?:fork|spawn|exec|setup)/.test(callee);
  const found = [...code].filter(([, use]) => isProcess(use));
  return found.map(([path]) => join(APP_DIRECTORY, relative(project, path))).sort();
}

/** Options of the bundler for a module that is run by path: readable, because it has no source map. */
export const loadedModuleOptions = {
  bytecode: false,
  sourcemap: "none",
  minify: { syntax: true, whitespace: false, identifiers: false },
} as const;

/** Writes the modules. @param bundle bundles a module. @param tree the image's files */
export async function writeLoadedModules(
  { project }: Service,
  code: Map<string, { file: string }>,
  tree: string,
  bundle: (entrypoint: string) => Promise<Bun.BuildOutput>,
): Promise<void> {
  for (const [path, { file }] of code) {
    const target = join(tree, APP_DIRECTORY, relative(project, path));
    for (const output of (await bundle(file)).outputs) {
      const isEntry = output.kind === "entry-point";
      await Bun.write(isEntry ? target : join(dirname(target), output.path), output);
    }
  }
}

/** Describes what the image lacks, with file and line. @param copied paths of the image, without a leading slash */
export function describePathUses(
  { data, unknown, unknownCode }: LoadedModules,
  { project }: Service,
  copied: string[],
): string[] {
  const inImage = (path: string) => join(APP_DIRECTORY, relative(project, path)).slice(1);
  const isCopied = (path: string) => copied.some((file) => file === path || file.startsWith(`${path}/`));
  const missing = data.filter(({ path }) => !isCopied(inImage(path)));
  const beside = unknown.filter(({ path }) => !isCopied(inImage(path)));
  return [
    ...once(missing).map(({ place, path }) => {
      const file = relative(project, path);
      return `${place} opens ${file}, which is not in the image: add "${file}" to \`files\` in ci/pipeline.ts`;
    }),
    ...once(beside).map(
      ({ place, text }) =>
        `${place} makes a path of its own place that is known only at run time: ${oneLine(text)}. Add the files that it opens to \`files\` in ci/pipeline.ts`,
    ),
    ...unknownCode.map(
      ({ place, text, callee }) =>
        `${place} starts a ${callee === "fork" ? "process" : "worker"} of a path that is known only at run time and not in the image: ${text}. Write the path as a literal, like \`new URL("./worker.ts", import.meta.url)\``,
    ),
  ];
}

const oneLine = (text: string) => text.replace(/\s+/g, " ");

/** Removes repeated uses of a path in a file. */
function once(uses: PathUse[]): PathUse[] {
  const seen = new Set<string>();
  return uses.filter(({ place, path }) => {
    const key = `${place.replace(/:\d+$/, "")}\0${path}`;
    return !seen.has(key) && seen.add(key);
  });
}
