/** Reads the source of a project without bundling: the modules that its entry imports, and code without comments. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

const MAX_MODULES = 300;
const IMPORT = /\b(?:from|import|require)\b\s*\(?\s*["'`](\.[^"'`\n]*)["'`]/g;
const ENDINGS = ["", ".ts", ".tsx", ".mts", ".js", ".jsx", ".mjs", ".cjs", "/index.ts", "/index.js"];

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

/** Replaces comments by spaces, so that line numbers stay correct. */
export function withoutComments(source: string): string {
  return source.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\/\/.*|\/\*[^]*?\*\//g,
    (all, string?: string) => string ?? all.replace(/[^\n]/g, " "),
  );
}
