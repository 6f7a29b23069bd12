/** What the bundler does not see, or cannot find, of what a service loads. */
import { relative } from "node:path";

/** What Bun says of a module that is not there. */
interface Missing {
  name: string;
  specifier: string;
  importKind: string;
  position: { file: string } | null;
}

/**
 * Packages that are not installed, and that an installed one asks for only when it comes to that: the drivers of databases that
 * nobody uses, for example. From source that works until it is reached, so it does in the image.
 *
 * @param error what the bundler ended with
 * @returns name -> the package that asks for it
 */
export function findMissingPackages(error: unknown): Map<string, string> {
  const errors = error instanceof AggregateError ? (error.errors as Missing[]) : [];
  const found = errors.flatMap(({ name, specifier, importKind, position }): [string, string][] => {
    const [, by] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(position?.file ?? "") ?? [];
    const isLate = importKind === "require-call" || importKind === "dynamic-import";
    const isPackage = name === "ResolveMessage" && /^[^./]/.test(specifier);
    return by && isLate && isPackage ? [[specifier, by]] : [];
  });
  return new Map(found);
}

/** The packages that were left out, as a sentence. */
export function describeMissing(absent: Map<string, string>): string[] {
  if (absent.size === 0) return [];
  const asking = [...new Set(absent.values())].sort().join(", ");
  return [`not installed, and left out: ${[...absent.keys()].sort().join(", ")} (${asking} can load them)`];
}

/** An import of what is only known when it runs; and the bundler itself, which would need the source. */
const unseen = /(?<![.\w$#])(?:import|require)\(\s*(?:`[^`]*\$\{|[^"'`\s)/])[^\n]*|(?<![.\w$])Bun\.build\(/g;

/**
 * What of a service's own modules the bundler passes over, with its place: what is loaded there is no part of the image.
 *
 * @param root the directory that files are named from
 */
export function findDynamicLoads(source: Map<string, Buffer>, root: string): string[] {
  return [...source].flatMap(([file, text]) => {
    if (!["import(", "require(", "Bun.build("].some((word) => text.includes(word))) return [];
    const code = withoutComments(text.toString());
    return [...code.matchAll(unseen)].flatMap(({ 0: found, index }) => {
      const line = code.slice(0, index).split("\n").length;
      const place = `${relative(root, file)}:${line}`;
      if (found.startsWith("Bun.build"))
        return `${place} bundles when it runs, and the image has no source: \`before\` runs a script in the build`;
      const loads = call(found);
      // A method may have that name.
      if (/^\s*[{:]/.test(found.slice(loads.length))) return [];
      return `${place} loads what is known only when it runs, which is not in the image: ${loads.replace(/\(\s+/, "(")}`;
    });
  });
}

/** From the name to the bracket that closes it. */
function call(text: string): string {
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "(") depth += 1;
    if (text[at] === ")" && --depth === 0) return text.slice(0, at + 1);
  }
  return text.trim();
}

/** Lines stay where they are. */
function withoutComments(source: string): string {
  return source.replace(
    /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\/\/.*|\/\*[^]*?\*\//g,
    (all, string?: string) => string ?? all.replace(/[^\n]/g, " "),
  );
}
