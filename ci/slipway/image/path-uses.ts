/**
 * Finds the files that modules open by path, which the bundler does not see.
 *
 * Code that a service or a package runs by path, like a worker, is bundled on its own. Data of packages is copied. Data
 * of the service needs the `files` setting, because only its author knows which files may be public in the image.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { isBuiltin } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { resolveFrom } from "./module-names.ts";
import { imagePathOf, installedPath, packageOf } from "./image-paths.ts";
import { findPathExpressions, placePattern, readPathExpressions, type PathExpression } from "./path-expressions.ts";

/** A file that the service opens by path. */
export interface PathUse {
  /** File and line of the expression, relative to the project. */
  place: string;
  /** The expression. */
  text: string;
  /** Absolute path of a file or directory. If not `isExact`, the file is somewhere below it. */
  path: string;
  isExact: boolean;
  /** Function that gets the path. */
  callee: string;
}

export interface PathUses {
  /** Modules that are run by path: written path -> file. */
  code: Map<string, PathUse & { file: string }>;
  /** Existing files and directories of the project. */
  data: PathUse[];
  /** Uses of the module's own directory with an unknown rest. */
  unknown: PathUse[];
  /** Workers and processes of an unknown path. */
  unknownCode: PathUse[];
  /** Strings, which may name packages. */
  strings: Set<string>;
  /** Data files that createRequire() loads: path in the image, without a leading slash -> file. */
  requiredData: Map<string, string>;
  /** Names of packages that createRequire() loads. */
  requiredPackages: Set<string>;
}

export const noPathUses = (): PathUses => ({
  ...{ code: new Map(), data: [], unknown: [], unknownCode: [], strings: new Set() },
  ...{ requiredData: new Map(), requiredPackages: new Set() },
});

const isModule = (path: string) => /\.[cm]?[jt]sx?$/.test(path);
/** Functions that read a file and do not run it. */
const reads = /read|file|send|static|stream|stat|exists|access|open|glob|scan|watch|text|write|unlink|copy/i;
/** Functions that run a file. */
const runs = /^(?:Worker|fork|spawn\w*|execFile\w*|setup(?:Primary|Master)|Piscina|Tinypool)$/;
/** Functions that load a literal path, if it is relative to the working directory. */
const takesPath =
  /dir|path|sirv|serve|root|folder|static|public|views|assets|templates|files?$|migrat|locale|join|resolve/i;

/** Finds the paths of the service's own modules. @param source file -> content */
export function findPathUses(source: Map<string, Buffer>, project: string): PathUses {
  const uses = noPathUses();
  for (const [file, bytes] of source) {
    const text = bytes.toString();
    const place = (line: number) => `${relative(project, file)}:${line}`;
    const { found: expressions, strings, required } = readPathExpressions(text, file, project);
    for (const string of strings) uses.strings.add(string);
    for (const specifier of required) addRequired(uses, specifier, file, project);
    for (const found of expressions) {
      const module = moduleAt(found, file);
      const isCode = module !== undefined && (runs.test(found.callee) || isProgram(module));
      if (isCode) uses.code.set(found.path, { ...found, place: place(found.line), file: module });
      else if (found.isExact && found.path === file) continue;
      else if (module !== undefined || isOwnData(found, project))
        uses.data.push({ ...found, place: place(found.line), path: existingPart(found) });
      else if (isUnknownPlace(found, file)) uses.unknown.push({ ...found, place: place(found.line) });
    }
    uses.unknownCode.push(
      ...findUnknownCode(text, file, project).map(({ line, ...use }) => ({ ...use, place: place(line) })),
    );
  }
  return uses;
}

/** Adds a file that createRequire() loads. It is found at its path in the image, as from source. */
function addRequired(uses: PathUses, specifier: string, importer: string, project: string): void {
  const file = isBuiltin(specifier) ? undefined : resolveFrom(specifier, importer);
  if (file === undefined) return;
  const owner = packageOf(file);
  if (owner && isModule(file)) uses.requiredPackages.add(owner.name);
  else if (!isModule(file)) uses.requiredData.set(imagePathOf(file, project).slice(1), file);
  else {
    const place = relative(project, importer);
    uses.code.set(file, { file, path: file, place, text: specifier, isExact: true, callee: "require" });
  }
}

/** Returns the module that an expression runs. A worker may name the output of TypeScript, `./w.js` for `./w.ts`. */
function moduleAt({ path, isExact, callee }: PathExpression, importer: string): string | undefined {
  if (!isExact || reads.test(callee)) return undefined;
  const isRun = runs.test(callee);
  if (!isRun && !isModule(path)) return undefined;
  if (path === importer) return isRun ? path : undefined;
  if (isFile(path)) return isModule(path) ? path : undefined;
  if (!isRun) return undefined;
  const file = resolveFrom(path, importer);
  return file !== undefined && isModule(file) ? file : undefined;
}

/** Whether a file compiles. A file such as config.js may be JSON, which the service reads. */
function isProgram(file: string): boolean {
  const loader = file.endsWith("x") ? "tsx" : /ts$/.test(file) ? "ts" : "jsx";
  try {
    new Bun.Transpiler({ loader }).transformSync(readFileSync(file));
    return true;
  } catch {
    return false;
  }
}

const statOf = (path: string) => statSync(path, { throwIfNoEntry: false });
const isFile = (path: string) => !path.includes("\0") && (statOf(path)?.isFile() ?? false);

/** Returns the path, or the existing directory that contains the unknown rest. */
function existingPart({ path, isExact }: PathExpression): string {
  return isExact || existsSync(path) ? path : dirname(path);
}

/** Whether a path is data of the project that can be listed in `files`. */
function isOwnData(found: PathExpression, project: string): boolean {
  const { base, key, callee, text } = found;
  // A word such as "public" is a path only for a function or a property that takes one.
  const isPath = base !== "literal" || /^["'`]\.\.?\//.test(text);
  if (!isPath && ![key, callee].some((name) => takesPath.test(name)) && !reads.test(callee)) return false;
  if (found.path.includes("\0") || found.path.length > 1000) return false;
  const path = existingPart(found);
  const inProject = relative(project, path);
  if (inProject === "" || inProject.startsWith("..") || /(^|\/)(node_modules|\.[^/]*)(\/|$)/.test(inProject))
    return false;
  if (/\.(sqlite3?|db|log|lock)$/.test(inProject) || !existsSync(path)) return false;
  return !(base === "module" && !found.isExact && isModuleDirectory(found));
}

/** Whether nothing but the directory of the module is known. */
const isModuleDirectory = ({ path, text }: PathExpression) =>
  isDirectory(path) && placePattern.test(text) && !/["'`]\.*[\w/]/.test(text);
const isDirectory = (path: string) => statOf(path)?.isDirectory() ?? false;

/** Whether an expression reads beside the module by a name that is not known. */
function isUnknownPlace({ base, path, isExact, callee }: PathExpression, file: string): boolean {
  if (base !== "module" || /^(?:log|info|debug|warn|error)$/.test(callee)) return false;
  return path === dirname(file) || (!isExact && dirname(file).startsWith(path));
}

const runCall = /(?<![.\w$])(?:new\s+Worker|fork)\(\s*([\w$.]+|`[^`]*`)\s*[,)]/g;

/** Finds workers and processes of a path that is known only at run time. */
function findUnknownCode(text: string, file: string, project: string): (Omit<PathUse, "place"> & { line: number })[] {
  if (!/\bnew\s+Worker\(|\bfork\(/.test(text)) return [];
  // Other packages have classes of this name, for example for queues.
  const isOther = /import\s*\{[^}]*\bWorker\b[^}]*\}\s*from\s*["'](?!node:worker_threads|worker_threads)/.test(text);
  const known = new Set(
    findPathExpressions(text, file, project)
      .filter(({ isExact, callee }) => isExact && runs.test(callee))
      .map(({ line }) => line),
  );
  return [...text.matchAll(runCall)].flatMap(({ 0: call, index }) => {
    const line = text.slice(0, index).split("\n").length;
    const isBlob =
      /\b(?:createObjectURL|eval\s*:)/.test(text.slice(index, index + 300)) || /createObjectURL/.test(text);
    if (known.has(line) || isBlob || (isOther && call.startsWith("new"))) return [];
    return [
      {
        line,
        text: `${call.replace(/[,)]$/, "")})`,
        path: project,
        isExact: false,
        callee: call.startsWith("new") ? "Worker" : "fork",
      },
    ];
  });
}

/** Files of packages that packages open by path. */
export interface PackagePathUses {
  /** Data files to copy: path in the image -> file. */
  data: Map<string, string>;
  /** Modules that open data. */
  readers: Set<string>;
  /** Names of packages that run their own code by path, or open files by a name that is not known. */
  running: Set<string>;
}

/** Matches the resolution of a path that is known only at run time, as in a list of files. */
const resolvesComputed = /\brequire\.resolve\(\s*[^"'`\s)]/;

/** Functions that list a directory, whose files may be modules. */
const listsDirectory = /readdir|opendir|scandir|glob/i;

/** Larger modules are bundles of whole programs, whose paths are those of their source. */
const MAX_MODULE = 1_000_000;

/** Finds the paths of packages' modules. @param source file -> content */
export function findPackagePathUses(source: Map<string, Buffer>, project: string): PackagePathUses {
  const uses: PackagePathUses = { data: new Map(), readers: new Set(), running: new Set() };
  for (const [file, bytes] of source) {
    const owner = packageOf(file);
    const text = bytes.toString();
    if (!owner || bytes.length > MAX_MODULE) continue;
    const { found, required, strings } = readPathExpressions(text, file, project);
    const isOwnFile = (path: string) => /^\.\.?\//.test(path) && isFile(join(dirname(file), path));
    if (resolvesComputed.test(text) && strings.some(isOwnFile)) uses.running.add(owner.name);
    if ([...required].some((name) => !name.startsWith(".") && !isBuiltin(name))) uses.running.add(owner.name);
    for (const { path, isExact, base, callee } of found) {
      if (base !== "module" || path === file || !packageOf(path)) continue;
      const isOwn = path === owner.directory || path.startsWith(`${owner.directory}/`);
      if (!isExact || !isFile(path)) {
        const directory = isDirectory(path) ? path : dirname(path);
        const isListed = isExact && listsDirectory.test(callee) && isDirectory(path);
        const context = { owner: owner.directory, file, isRead: reads.test(callee) };
        const isData = isOwn && (isListed || hasData(directory, context));
        if (isData) uses.running.add(owner.name);
        // The files of a directory that is named are served as they are, with their source maps.
        if (isData && ![owner.directory, dirname(file)].includes(directory))
          for (const each of filesIn(directory)) uses.data.set(installedPath(each), each);
      } else if (!isModule(path) || reads.test(callee)) {
        uses.data.set(installedPath(path), path);
        uses.readers.add(file);
      } else if (isOwn) uses.running.add(owner.name);
    }
  }
  return uses;
}

/** Matches documents and code, which no program reads as data. */
const noData =
  /\.([cm]?[jt]sx?|map|md|markdown|flow|ya?ml|lock)$|^\.|^[A-Z]+$|^licen[cs]e|^(?:package|tsconfig[^/]*)\.json$/i;

/** Returns the files directly in a directory. */
const filesIn = (directory: string) =>
  readdirSync(directory)
    .map((name) => join(directory, name))
    .filter(isFile);

/**
 * Whether a directory of a package has files that the package opens.
 *
 * Code counts if a function reads it, as a script for browsers, or if the directory is named and not that of the module.
 */
function hasData(
  directory: string,
  { owner, file, isRead }: { owner: string; file: string; isRead: boolean },
): boolean {
  if (!isDirectory(directory)) return false;
  const isCodeData = isRead || ![owner, dirname(file)].includes(directory);
  const isData = (name: string) => (isCodeData && isCode(name)) || !noData.test(name);
  return filesIn(directory)
    .map((path) => basename(path))
    .some((name) => isData(name) && !(directory === owner && name.endsWith(".json")));
}

const isCode = (name: string) => /\.[cm]?js$/.test(name);
