/** Finds the tsconfig of a module. The bundler reads paths, JSX and decorator settings from it. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/** Finds the nearest tsconfig of a directory, upwards to `root`, and the files that it extends. */
export function findTsconfigs(directory: string, root: string): string[] {
  for (let at = directory; ; at = dirname(at)) {
    const found = ["tsconfig.json", "jsconfig.json"].map((name) => join(at, name)).find(existsSync);
    if (found) return withBases(found);
    if (at === root || at === dirname(at)) return [];
  }
}

function withBases(file: string, seen: string[] = []): string[] {
  if (seen.includes(file) || !existsSync(file)) return seen;
  const { extends: bases = [] } = parseJsonc(readFileSync(file, "utf8"));
  const all = [...seen, file];
  return [bases].flat().reduce((known: string[], base) => withBases(resolveBase(file, base), known), all);
}

/** Resolves the `extends` of a tsconfig. https://www.typescriptlang.org/tsconfig/#extends */
function resolveBase(file: string, base: string): string {
  const path = base.startsWith(".") || base.startsWith("/") ? resolve(dirname(file), base) : undefined;
  if (path) {
    const isFile = statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
    return isFile || path.endsWith(".json") ? path : `${path}.json`;
  }
  try {
    return Bun.resolveSync(base, dirname(file));
  } catch {
    return base;
  }
}

function parseJsonc(text: string): { extends?: string | string[] } {
  try {
    return Object(Bun.JSONC.parse(text));
  } catch {
    // The bundler reports the syntax error.
    return {};
  }
}
