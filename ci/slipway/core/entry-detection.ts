/** Finds the module that starts the service, from package.json, usual names, and the pages that name browser code. */
import { existsSync, readdirSync, readFileSync, type Dirent } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { modulesImportedBy, withoutComments } from "./imported-modules.ts";
import type { PackageJson } from "./package-json.ts";

export interface EntryCandidate {
  /** Relative to the project. */
  path: string;
  /** Where it was found, in a few words. */
  source: string;
}

/** Entry points to try if neither the settings nor package.json name the entry. */
const usualEntries = [
  ...["src/main", "src/index", "src/server", "index", "main", "server", "src/app", "app"],
  ...["server/index", "server/main", "src/server/index", "src/server/main", "api/index", "backend/index"],
].flatMap((name) => ["ts", "tsx", "mts", "js", "mjs", "cjs"].map((ending) => `${name}.${ending}`));

/** Options that load a module before the entry. */
const PRELOADS = /\s(?:-r|--(?:preload|require|import))[= ]\S+/g;
const BUILD_OUTPUT = /^(dist|build|out)\//;
const MODULE = /\.[cm]?[jt]sx?$/;
const SKIPPED = /(^|\/)(node_modules|dist|build|out|coverage|public|scripts)\/|\.config\./;
/** Files of test runners: `test.js`, `a.test.ts`, `a_spec.ts`, and all in their directories. Tests start servers too. */
const TEST =
  /(^|\/)((tests?|specs?|e2e|cypress|fixtures|__\w+__)\/|(tests?|specs?|e2e|bench)\.\w+$)|[._-](tests?|spec|e2e|bench|stories)\.\w+$/;
/** Scripts that may start the service, besides `start` and `dev`: `start:server`, `server`, `dev:api`. */
const START_SCRIPT = /^(?:(?:start|dev|serve)[:-].+|serve|server|(?:server|api|backend)[:-].+)$/;
/** Calls that start a server, and a default export that Bun serves. */
export const STARTS_SERVER =
  /\bBun\.serve\s*[(<]|\bserve\s*\(\s*(?:\{|\w+\s*,)|\.listen\s*\(|\bexport\s+default\s+\{[^}]*\bfetch\b|\bNestFactory\.create/;
/** Limits of the search in the source. */
const MAX_FILES = 3000;
/** A page that loads the browser's code is near the project's root, and every command looks for it. */
const PAGE_DEPTH = 2;

/** Returns the candidates in order of preference, without browser code. */
export function findEntryCandidates(project: string, { scripts = {}, module, main }: PackageJson): EntryCandidate[] {
  const runBy = (runner: string, names: string[]) => {
    const file = new RegExp(`(?:^|[\\s/])(?:${runner})\\b.*?\\s((?:\\./)?[\\w@./-]+\\.[cm]?[jt]sx?)(?=\\s|$|["';&])`);
    const bare = new RegExp(
      `(?:^|[\\s/])(?:${runner})(?: run| --?[\\w-]+(?:=\\S+)?| watch)* ((?:\\./)?[\\w@./-]+)(?=\\s|$|["';&])`,
    );
    return names.map((name) => {
      const command = (scripts[name] ?? "").replace(PRELOADS, "");
      const path = file.exec(command)?.[1] ?? resolveModule(project, bare.exec(command)?.[1]);
      return { path, source: `the script ${name}` };
    });
  };
  const others = Object.keys(scripts).filter((name) => START_SCRIPT.test(name));
  const runners = "node|tsx|ts-node|nodemon";
  const found: { path: string | undefined; source: string }[] = [
    ...runBy("bun", ["start", "dev", ...others]),
    { path: resolveModule(project, module), source: "`module` in package.json" },
    { path: resolveModule(project, main), source: "`main` in package.json" },
    // A name such as start:server is a better hint than a usual file name.
    ...runBy(runners, others),
    ...usualEntries.map((path) => ({ path, source: "its name" })),
    // In a project for Node, only its scripts may name the entry.
    ...runBy(runners, ["start", "dev"]),
  ];
  const clients = findClientModules(project);
  const candidates = found
    .flatMap(({ path, source }) => (path ? [{ path: path.replace(/^\.\//, ""), source }] : []))
    .filter(({ path }) => MODULE.test(path) && existsSync(join(project, path)) && !clients.has(normalize(path)))
    // `"dev": "bun test src/a.test.ts"` starts no service, but `"start": "bun test.js"` may.
    .filter(({ path, source }) => !TEST.test(path) || (source === "the script start" && !isTestRun(scripts.start)));
  const unique = candidates.filter(({ path }, at) => candidates.findIndex((one) => one.path === path) === at);
  // Build outputs are missing in a fresh clone.
  const isOutput = ({ path }: EntryCandidate) => BUILD_OUTPUT.test(path);
  return preferServers(project, [...unique.filter((one) => !isOutput(one)), ...unique.filter(isOutput)]);
}

/**
 * Moves the first candidate that starts a server to the front, unless a script of Bun names the entry.
 *
 * `main` may be the library of a package whose server is another module, and a usual name that of browser code.
 */
function preferServers(project: string, candidates: EntryCandidate[]): EntryCandidate[] {
  const [first] = candidates;
  if (!first || first.source.startsWith("the script") || startsServer(project, first.path)) return candidates;
  const servers = findServerModules(project)
    .filter((path) => !path.includes("/") && !candidates.some((one) => one.path === path))
    .map((path) => ({ path, source: "the server that it starts" }));
  const all = [...candidates, ...servers];
  const server = all.find(({ path }) => startsServer(project, path));
  return server ? [server, ...all.filter((one) => one !== server)] : candidates;
}

/** Whether a module, or a module that it imports, starts a server. */
function startsServer(project: string, path: string): boolean {
  return modulesImportedBy(project, path).some(hasServer);
}

/** Whether the module itself starts a server. */
function hasServer(file: string): boolean {
  return STARTS_SERVER.test(withoutComments(readFileSync(file, "utf8")));
}

const isTestRun = (command = "") => /\bbun (?:run )?(?:--\S+ )*test\b(?!\.)|\bnode\b.* --test\b/.test(command);

/** Adds the ending that the runtime adds: `node src/bin/server` runs `src/bin/server.js`, and a directory its index. */
function resolveModule(project: string, path: string | undefined): string | undefined {
  if (path === undefined || MODULE.test(path)) return path;
  const endings = ["js", "mjs", "cjs", "ts", "tsx", "mts"];
  return [path, join(path, "index")]
    .flatMap((name) => endings.map((ending) => `${name}.${ending}`))
    .map((name) => normalize(name))
    .find((name) => !name.startsWith("..") && existsSync(join(project, name)));
}

/** Finds the module that starts the service, relative to the project. */
export function findEntry(project: string, manifest: PackageJson): string | undefined {
  return findEntryCandidates(project, manifest)[0]?.path;
}

/** Returns the modules that pages load with `<script src>`: they run in a browser. */
function findClientModules(project: string): Set<string> {
  const clients = new Set<string>();
  for (const page of scan(project, /\.html$/, /(^|\/)(node_modules|dist|build|out|coverage)\//, PAGE_DEPTH)) {
    const text = readFileSync(join(project, page), "utf8");
    for (const [, source = ""] of text.matchAll(/<script\b[^>]*\bsrc\s*=\s*["']?([^"'\s>]+)/gi)) {
      const path = source.replace(/[?#].*$/, "");
      // Vite's root is the page's directory, or the project's for a page in a subdirectory.
      const places = path.startsWith("/") ? [dirname(page), "."] : [dirname(page)];
      for (const place of places) clients.add(normalize(join(place, path)));
    }
  }
  return clients;
}

/** Lists the project's modules that start a server, in order of their depth. */
export function findServerModules(project: string): string[] {
  const clients = findClientModules(project);
  return [...scan(project, MODULE, new RegExp(`${SKIPPED.source}|${TEST.source}`))]
    .filter((path) => !clients.has(path) && hasServer(join(project, path)))
    .sort((a, b) => a.split("/").length - b.split("/").length || (a < b ? -1 : 1));
}

/** Lists files by name, nearest first. Directories of packages are not entered. */
function* scan(project: string, name: RegExp, skipped: RegExp, maxDepth = Infinity): Generator<string> {
  let count = 0;
  const queue = [{ at: "", depth: 0 }];
  for (const { at, depth } of queue) {
    for (const entry of readDirectory(join(project, at))) {
      const path = join(at, entry.name);
      if (skipped.test(entry.isDirectory() ? `${path}/` : path)) continue;
      if ((count += 1) > MAX_FILES) return;
      if (entry.isFile() && name.test(entry.name)) yield path;
      if (entry.isDirectory() && !entry.name.startsWith(".") && depth < maxDepth)
        queue.push({ at: path, depth: depth + 1 });
    }
  }
}

function readDirectory(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch {
    return [];
  }
}
