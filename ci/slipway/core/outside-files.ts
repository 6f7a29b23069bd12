/**
 * Finds the files outside a project that its files import or name: imports in all forms, and literal paths that lead upwards or
 * are absolute. Literals in configuration files count too, such as `extends` in tsconfig.json.
 */
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";

export interface ReferenceOptions {
  root: string;
  /** Working directory of the scripts, to which run-time paths are relative. */
  project: string;
  /** The project's own files. */
  known: Set<string>;
}

export interface References {
  files: string[];
  /** Whether the file names a directory above the project, which may hold anything. */
  isUnknown: boolean;
}

/** Larger files hold data. */
const MAX_TEXT_BYTES = 2 ** 20;
/** Larger directories outside the project count as unknown. */
const MAX_FILES = 5000;

const MODULE = /\.[cm]?[jt]sx?$/;
const DOCUMENT = /\.(md|mdx|txt|html?|svg|lock|lockb)$/;
const EXTENSIONS = ["", ".ts", ".tsx", ".mts", ".cts", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".json"];
/** Imports of all forms, also of types. A match in a comment only adds an input. */
const IMPORT = /\b(?:from|import|require|mock|module|resolve)\b\s*\(?\s*["'`]([^"'`\n]+)["'`]/g;
/** `../../shared/x.json`. */
const UPWARDS = /\.\.\/(?:\.\.\/)*[\w@.-][\w@./-]*/g;
/** `"..", "..", "shared"`, the arguments of join(). */
const SEGMENTS = /["'`]\.\.["'`](?:\s*,\s*["'`][^"'`\n]*["'`])+/g;
const ABSOLUTE = /(?<=["'`])\/[\w@.-]+\/[\w@./-]+(?=["'`])/g;
/** Paths of the system, which are not a project's files. */
const SYSTEM = /^\/(proc|sys|dev|bin|sbin|usr|lib|lib64|run|tmp)\//;

/** Returns a function that finds the references of a file. It remembers what it has resolved. */
export function createReferenceFinder({ root, project, known }: ReferenceOptions) {
  const resolved = new Map<string, string | undefined>();
  const existing = new Map<string, boolean>();

  return (file: string, content: Buffer): References => {
    if (content.length > MAX_TEXT_BYTES || DOCUMENT.test(file)) return { files: [], isUnknown: false };
    const text = content.toString("utf8");
    const files = new Set(MODULE.test(file) ? importedFiles(file, text) : []);
    let isUnknown = false;
    for (const path of literalPaths(text)) {
      for (const from of new Set([dirname(file), project])) {
        const target = isAbsolute(path) ? path : resolve(from, path);
        if (isWithin(root, target)) continue;
        if (isWithin(target, root)) {
          // A path upwards is usually relative to its file, and ends in the project from there.
          if (from === dirname(file)) isUnknown = true;
          continue;
        }
        const found = filesAt(target);
        if (found.length > MAX_FILES) isUnknown = true;
        else for (const each of found) files.add(each);
      }
    }
    return { files: [...files], isUnknown };
  };

  /** Returns the file, the module without its ending, or the files of the directory. Empty if there is none. */
  function filesAt(target: string): string[] {
    const parent = dirname(target);
    if (!existing.has(parent)) existing.set(parent, existsSync(parent));
    if (!existing.get(parent)) return [];
    const isDirectory = statSync(target, { throwIfNoEntry: false })?.isDirectory() ?? false;
    if (isDirectory) return listFiles(target).map((name) => join(target, name));
    return [findModule(target)].filter((path) => path !== undefined);
  }

  /** Returns imported files that are not the project's own: generated modules, linked packages, paths of tsconfig.json. */
  function importedFiles(file: string, text: string): string[] {
    const directory = dirname(file);
    const paths = new Set([...text.matchAll(IMPORT)].map(([, path]) => path!));
    return [...paths].flatMap((path) => {
      const isPath = path.startsWith(".") || path.startsWith("/");
      const found = isPath ? findModule(resolve(directory, path), known) : resolveBare(path, directory);
      return found === undefined || known.has(found) ? [] : [found];
    });
  }

  /** Resolves a name that is a path in tsconfig.json or package.json, or a linked package. The lockfile covers other packages. */
  function resolveBare(path: string, directory: string): string | undefined {
    if (/^(node|bun|data|https?):|^bun$/.test(path)) return undefined;
    const key = `${directory}\0${path}`;
    if (!resolved.has(key)) resolved.set(key, tryResolve(path, directory, root));
    return resolved.get(key);
  }
}

function tryResolve(path: string, directory: string, root: string): string | undefined {
  try {
    const found = isInstalledPackage(path, directory, root) ? undefined : Bun.resolveSync(path, directory);
    return found !== undefined && isAbsolute(found) ? found : undefined;
  } catch {
    return undefined;
  }
}

function literalPaths(text: string): string[] {
  const isUpwards = text.includes("..");
  return [
    ...(isUpwards ? [...text.matchAll(UPWARDS)].flatMap((found) => (isStart(text, found.index) ? found[0] : [])) : []),
    ...(isUpwards
      ? [...text.matchAll(SEGMENTS)].map(([list]) =>
          list
            .split(/\s*,\s*/)
            .map(unquote)
            .join("/"),
        )
      : []),
    ...[...text.matchAll(ABSOLUTE)].map(([path]) => path).filter((path) => !SYSTEM.test(path) && isFile(path)),
  ];
}

/** Whether a path starts here, or follows `${directory}/`. Else it is the rest of a path such as `a/../b`. */
function isStart(text: string, at: number): boolean {
  const before = text[at - 1] === "/" ? text[at - 2] : text[at - 1];
  return before === undefined || !/[\w@./-]/.test(before);
}

const unquote = (text: string) => text.slice(1, -1);

/** Returns whether a package of this name is a copy in node_modules. A link is not. */
function isInstalledPackage(path: string, directory: string, root: string): boolean {
  const name = /^(@[^/]+\/)?[^/]+/.exec(path)?.[0];
  for (let at = directory; name !== undefined; at = dirname(at)) {
    const found = join(at, "node_modules", name);
    if (existsSync(found)) return realpathSync(found).includes("/node_modules/");
    if (at === root || at === dirname(at)) break;
  }
  return false;
}

/** Finds a module as the bundler does: with an ending, or as an index in a directory. */
function findModule(path: string, known = new Set<string>()): string | undefined {
  if (known.has(path)) return path;
  // TypeScript imports `./x.js` of x.ts.
  const bases = [path, join(path, "index"), ...(/\.[cm]?jsx?$/.test(path) ? [path.replace(/js(x?)$/, "ts$1")] : [])];
  const candidates = bases.flatMap((base) => EXTENSIONS.map((extension) => base + extension));
  return candidates.find((each) => known.has(each)) ?? candidates.find(isFile);
}

/** Lists the files below a directory, relative to it, without packages and repositories. */
export function listFiles(directory: string): string[] {
  const found: string[] = [];
  const queue = [""];
  while (queue.length > 0 && found.length <= MAX_FILES) {
    const at = queue.pop()!;
    for (const entry of entriesOf(join(directory, at))) {
      const path = join(at, entry.name);
      if (!entry.isDirectory()) found.push(path);
      else if (entry.name !== "node_modules" && entry.name !== ".git") queue.push(path);
    }
  }
  return found.sort();
}

function entriesOf(directory: string) {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch {
    return [];
  }
}

function isFile(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
  } catch {
    return false;
  }
}

/** Returns whether a path is a directory or inside it. */
const isWithin = (directory: string, path: string) =>
  path === directory || path.startsWith(directory === "/" ? "/" : `${directory}/`);
