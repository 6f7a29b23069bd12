/** Finds modules that the bundler cannot resolve or cannot see, because their path is computed at run time. */
import { relative } from "node:path";
import { withoutComments } from "../core/imported-modules.ts";

/** Bun's error for a module that cannot be resolved. */
interface ResolveError {
  name: string;
  specifier: string;
  importKind: string;
  position: { file: string } | null;
}

/**
 * Finds packages that are not installed and that an installed package loads lazily, for example unused database drivers.
 *
 * Running from source fails only when the load is reached. The image behaves the same way.
 *
 * @param error the bundler's error
 * @returns name of the missing package -> name of the package that loads it
 */
export function findMissingPackages(error: unknown): Map<string, string> {
  const errors = error instanceof AggregateError ? (error.errors as ResolveError[]) : [];
  const found = errors.flatMap(({ name, specifier, importKind, position }): [string, string][] => {
    const [, by] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(position?.file ?? "") ?? [];
    const isLazy = importKind === "require-call" || importKind === "dynamic-import";
    const isPackage = name === "ResolveMessage" && /^[^./]/.test(specifier);
    return by && isLazy && isPackage ? [[specifier, by]] : [];
  });
  return new Map(found);
}

/** Formats a warning about packages that are not in the image. Returns an empty list if all are installed. */
export function describeMissing(missing: Map<string, string>): string[] {
  if (missing.size === 0) return [];
  const loaders = [...new Set(missing.values())].sort().join(", ");
  return [`not installed, and left out: ${[...missing.keys()].sort().join(", ")} (${loaders} can load them)`];
}

/** Matches imports of computed paths, and calls of the bundler, which needs the source at run time. */
const dynamicLoad =
  /(?<![.\w$#])(?:import|require)\(\s*(?:`[^`]*\$\{|"[^"\n]*"\s*\+|'[^'\n]*'\s*\+|[^"'`\s)/])[^\n]*|(?<![.\w$])Bun\.build\(/g;

const LOAD_HINT =
  "Write the path of each module as a literal, or add a package that is found by its name to `nativePackages` in ci/pipeline.ts";

/**
 * Finds dynamic loads in the service's own modules, with their locations. The loaded modules are not in the image.
 *
 * @param root base directory of the reported file names
 * @param resolved places of loads whose module is in the image
 */
export function findDynamicLoads(source: Map<string, Buffer>, root: string, resolved = new Set<string>()): string[] {
  return [...source].flatMap(([file, text]) => {
    if (!["import(", "require(", "Bun.build("].some((word) => text.includes(word))) return [];
    const code = withoutComments(text.toString());
    return [...code.matchAll(dynamicLoad)].flatMap(({ 0: found, index }) => {
      const line = code.slice(0, index).split("\n").length;
      const place = `${relative(root, file)}:${line}`;
      if (found.startsWith("Bun.build"))
        return `${place} bundles at run time, but the image has no source: use a script in \`prebuild\` instead`;
      if (resolved.has(place)) return [];
      const load = extractCall(found);
      // A method definition named `import` or `require` is not a load.
      if (/^\s*[{:]/.test(found.slice(load.length))) return [];
      return `${place} loads a path that is known only at run time and not in the image: ${load.replace(/\(\s+/, "(")}. ${LOAD_HINT}`;
    });
  });
}

/** Returns the start of the text up to the matching closing bracket. */
function extractCall(text: string): string {
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "(") depth += 1;
    if (text[at] === ")" && --depth === 0) return text.slice(0, at + 1);
  }
  return text.trim();
}
