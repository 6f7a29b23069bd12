/** Detects the port in the entry and in the modules that it imports. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { findPort, findServerPortOf, hasHardcodedPort } from "./port-detection.ts";

export interface DetectedPort {
  port: number | undefined;
  /** The module with the port, relative to the project. */
  portModule: string | undefined;
  /** Whether a node:http server ignores $PORT. */
  isFixed: boolean;
}

/** The result for a source that names no port. */
export const NO_PORT: DetectedPort = { port: undefined, portModule: undefined, isFixed: false };

const MAX_MODULES = 300;
const IMPORT = /\b(?:from|import|require)\b\s*\(?\s*["'`](\.[^"'`\n]*)["'`]/g;
const ENDINGS = ["", ".ts", ".tsx", ".mts", ".js", ".jsx", ".mjs", ".cjs", "/index.ts", "/index.js"];

/** Reads the modules in the order of their imports, so that the one nearest to the entry counts. */
export function detectPort(project: string, entry: string): DetectedPort {
  for (const [at, file] of modulesImportedBy(project, entry).entries()) {
    const source = readFileSync(file, "utf8");
    const isEntry = at === 0;
    const port = isEntry ? findPort(source) : findServerPortOf(source);
    if (port !== undefined)
      return { port, portModule: relative(project, file), isFixed: hasHardcodedPort(source, !isEntry) };
  }
  return NO_PORT;
}

/** Lists the entry and the modules of the project that it imports, in the order of their imports. */
export function modulesImportedBy(project: string, entry: string): string[] {
  const queue = [join(project, entry)];
  for (const file of queue) {
    for (const [, path = ""] of readFileSync(file, "utf8").matchAll(IMPORT)) {
      const found = resolveModule(join(dirname(file), path));
      if (found && !queue.includes(found) && queue.length < MAX_MODULES) queue.push(found);
    }
  }
  return queue;
}

function resolveModule(path: string): string | undefined {
  const bases = [path, path.replace(/\.([cm]?)js$/, ".$1ts")];
  const candidates = bases.flatMap((base) => ENDINGS.map((ending) => base + ending));
  return candidates.find((file) => existsSync(file) && statSync(file).isFile() && /\.[cm]?[jt]sx?$/.test(file));
}
