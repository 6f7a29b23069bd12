/**
 * Finds CommonJS modules that need sloppy mode. From source, Bun runs them in it. The bundle is a module and therefore strict.
 *
 * - An assignment to a name that no scope declares creates a global variable. The binary declares it before the service runs.
 * - `with`, `delete name` and `arguments.callee` have no strict form. A package with them is unbundled, and runs as from
 *   source. A module of the service gets a warning.
 *
 * https://tc39.es/ecma262/#sec-strict-mode-of-ecmascript
 */
import { relative } from "node:path";
import { packageOf } from "./image-paths.ts";

export interface SloppyModules {
  /** Names that modules assign without a declaration, sorted. */
  globals: string[];
  /** Names of packages that cannot run in strict mode. */
  packages: Set<string>;
  /** Warnings for modules of the service. */
  warnings: string[];
}

/** Prefix of a name that no scope of a module declares. */
const FREE = "__slipway_free_";
/** Assignments to a name, and loops that assign it. */
const assignment = /(?<![.\w$#])([A-Za-z_$][\w$]*)\s*=(?![=>])|(?<![.\w$#])([A-Za-z_$][\w$]*)\s+(?:in|of)\b/g;
/** Names in a pattern, `[a, b] =` or `{ a } =`. */
const pattern = /[[{]([^()=;]*)[\]}]\s*=(?![=>])/g;
const freeAssignment = new RegExp(
  `${FREE}([\\w$]+)\\s*=(?![=>])|\\bfor\\s*\\(\\s*${FREE}([\\w$]+)\\s+(?:in|of)\\b|${FREE}([\\w$]+)(?=[^=;()]*[\\]}]\\s*=(?![=>]))`,
  "g",
);
const constants = new Set(["true", "false", "null", "this", "undefined", "NaN", "Infinity"]);

const sloppySyntax = /(?<![.\w$])(?:with\s*\(|delete\s+[\w$]+(?!\s*[.[\w$])|arguments\s*\.\s*callee\b)/g;

/** @param modules modules in CommonJS: file -> content */
export function findSloppyModules(modules: Iterable<[string, Buffer]>, project: string): SloppyModules {
  const globals = new Set<string>();
  const packages = new Set<string>();
  const warnings: string[] = [];
  for (const [file, bytes] of modules) {
    const source = bytes.toString();
    if (isStrict(source)) continue;
    for (const name of findFreeAssignments(source, file)) if (!(name in globalThis)) globals.add(name);
    const found = source.search(sloppySyntax) >= 0 ? findSloppySyntax(source, file) : undefined;
    const owner = packageOf(file);
    if (found && owner) packages.add(owner.name);
    else if (found) {
      const place = `${relative(project, file)}:${found.line}`;
      warnings.push(`${place} uses \`${found.text}\`, which fails in the image: the bundle is in strict mode`);
    }
  }
  return { globals: [...globals].sort(), packages, warnings };
}

/** Generates code that declares global variables. Each one becomes an ordinary variable at its first assignment. */
export function declareGlobals(names: string[]): string {
  if (names.length === 0) return "";
  return `for (const name of ${JSON.stringify(names)}) {
  const define = (more) => Object.defineProperty(globalThis, name, { configurable: true, ...more });
  if (!(name in globalThis)) {
    define({ get: () => undefined, set: (value) => define({ value, writable: true, enumerable: true }) });
  }
}
`;
}

/** Whether a module begins with the directive "use strict". */
function isStrict(source: string): boolean {
  let at = source.startsWith("#!") ? Math.max(0, source.indexOf("\n")) : 0;
  for (;;) {
    while (/\s/.test(source[at] ?? "")) at += 1;
    const end = source.startsWith("//", at) ? "\n" : source.startsWith("/*", at) ? "*/" : undefined;
    if (end === undefined) return /^["']use strict["']/.test(source.slice(at, at + 12));
    const next = source.indexOf(end, at);
    if (next < 0) return false;
    at = next + end.length;
  }
}

/** Finds names that are assigned in no scope that declares them. The bundler's own definitions decide which these are. */
function findFreeAssignments(source: string, file: string): string[] {
  const names = new Set<string>();
  for (const [, assigned, looped] of source.matchAll(assignment)) names.add((assigned ?? looped)!);
  for (const [, list] of source.matchAll(pattern))
    for (const [name] of list!.matchAll(/[A-Za-z_$][\w$]*/g)) names.add(name);
  const define = Object.fromEntries([...names].filter(isName).map((name) => [name, FREE + name]));
  if (Object.keys(define).length === 0) return [];
  const text = transpile(source, file, define);
  return [...new Set([...text.matchAll(freeAssignment)].map(([, ...found]) => found.find(Boolean)!))];
}

const isName = (name: string) => !constants.has(name) && !/^(?:var|let|const|return|typeof|case|in|of)$/.test(name);

/** Finds an expression that strict mode refuses. Text of strings and comments is none. */
function findSloppySyntax(source: string, file: string): { text: string; line: number } | undefined {
  const text = transpile(source, file);
  const callee = /\barguments\.callee\b/.exec(text)?.[0];
  const isRefused = callee === undefined && isRefusedInStrictMode(text);
  if (!callee && !isRefused) return undefined;
  const found = [...source.matchAll(sloppySyntax)].find(([match]) => (callee ? match.includes("callee") : true))!;
  return { text: found[0].replace(/\s*\($/, ""), line: source.slice(0, found.index).split("\n").length };
}

function isRefusedInStrictMode(text: string): boolean {
  try {
    // Parses the module, and never runs it.
    new Function(`"use strict";${text}`);
    return false;
  } catch (error) {
    return /'with' statement|unqualified property/.test((error as Error).message);
  }
}

function transpile(source: string, file: string, define: Record<string, string> = {}): string {
  const loader = /\.tsx$/.test(file) ? "tsx" : /\.[cm]?ts$/.test(file) ? "ts" : "jsx";
  try {
    return new Bun.Transpiler({ loader, target: "bun", define, deadCodeElimination: false }).transformSync(source);
  } catch {
    // The bundler reports the error.
    return "";
  }
}
