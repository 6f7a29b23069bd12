/**
 * Evaluates the paths that a module makes of constants: literals, its own place, and functions of node:path and URL.
 *
 * An expression with an unknown rest, like `"./public" + name`, has a known beginning. A name that is bound once
 * stands for its value. Everything else is unknown.
 */
import { resolve } from "node:path";
import { PathEvaluator, type PathBase } from "./path-evaluator.ts";
import { tokenize } from "./tokens.ts";

/** A path that a module makes. */
export interface PathExpression {
  line: number;
  /** Absolute path on this machine. */
  path: string;
  /** Whether the whole path is known. Otherwise `path` is its beginning. */
  isExact: boolean;
  /** Base of the path: the module's place, the working directory, or nothing but a literal. */
  base: PathBase;
  /** Name of the function that gets the path, such as `Worker`. Empty if there is none. */
  callee: string;
  /** Key of the nearest property that has the path. Empty if there is none. */
  key: string;
  /** The source of the expression. */
  text: string;
}

/** Matches every expression of a module for its own place. */
export const placePattern = /\bimport\.meta\.(?:dir(?:name)?|url|path|filename)\b|(?<![.\w$])__(?:dirname|filename)\b/;

/**
 * Finds the paths that a module makes, except specifiers of imports.
 *
 * @param project directory that `./` and process.cwd() mean
 */
export function findPathExpressions(source: string, file: string, project: string): PathExpression[] {
  return readPathExpressions(source, file, project).found;
}

/** Like findPathExpressions(). @returns also the strings that are no specifiers, and the specifiers that createRequire() loads */
export function readPathExpressions(source: string, file: string, project: string) {
  const tokens = tokenize(source);
  const evaluate = new PathEvaluator(tokens, file, project);
  const found: PathExpression[] = [];
  for (let at = 0; at < tokens.length;) {
    const isSeed = evaluate.isSeed(at);
    const result = isSeed ? evaluate.expression(at) : undefined;
    if (!result?.value || result.end <= at) {
      at += 1;
      continue;
    }
    const { value, end } = result;
    const binding = evaluate.bindingAt(at, end);
    if (!evaluate.isSpecifier(at) && !(binding && evaluate.isUsed(binding))) {
      const { callee, key } = evaluate.context(at);
      const isFile = value.form === undefined || value.form === "url";
      // Most literals are no paths.
      const isText = value.base === "literal" && !/^(?:\.[^\n]{1,300}|[^\s:]{2,300})$/.test(value.text);
      if (isFile && !isText)
        found.push({
          line: tokens[at]!.line,
          path: resolve(project, value.text),
          isExact: value.isExact,
          base: value.base,
          callee,
          key,
          text: source.slice(tokens[at]!.start, tokens[end - 1]!.end),
        });
    }
    at = end;
  }
  const strings = tokens.flatMap(({ kind, text }, at) =>
    kind === "string" && !evaluate.isSpecifier(at) ? [text] : [],
  );
  return { found, required: evaluate.required, strings };
}
