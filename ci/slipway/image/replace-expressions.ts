/** Replaces expressions like `import.meta.dir` and free names like `__dirname` in a module's text, on the same line. */
import { tokenize, type Token } from "./tokens.ts";

/**
 * Replaces expressions outside of strings and comments.
 *
 * A name that the module declares itself stays, everywhere in the module.
 *
 * @param values expression -> code, for example `import.meta.dir` -> `"/srv/src"`
 */
export function replaceExpressions(source: string, values: Map<string, string>): string {
  const lists = tokenLists(tokenize(source));
  const changes = [...values].flatMap(([expression, code]) => {
    const pattern = tokenize(expression).map(({ text }) => text);
    const found = lists.flatMap((tokens) => findExpression(tokens, pattern));
    return found.some(({ isDeclared }) => isDeclared) ? [] : found.map((use) => ({ ...use, code }));
  });
  let text = source;
  for (const { start, end, code, isShorthand } of changes.sort((a, b) => b.start - a.start)) {
    text = text.slice(0, start) + (isShorthand ? `${source.slice(start, end)}:${code}` : code) + text.slice(end);
  }
  return text;
}

/** Returns the tokens of a module, and those of each expression in a template. */
function tokenLists(tokens: Token[]): Token[][] {
  const nested = tokens.flatMap(({ parts = [] }) => parts.filter((part) => typeof part !== "string"));
  return [tokens, ...nested.flatMap(tokenLists)];
}

interface Use {
  start: number;
  end: number;
  /** Whether the module declares the name here. */
  isDeclared: boolean;
  /** Whether the name is a property and its value, `{ __dirname }`. */
  isShorthand: boolean;
}

function findExpression(tokens: Token[], pattern: string[]): Use[] {
  return tokens.flatMap((token, at): Use[] => {
    const isMatch = pattern.every(
      (text, more) => tokens[at + more]?.kind !== "string" && tokens[at + more]?.text === text,
    );
    if (!isMatch || isMark(tokens[at - 1], [".", "?."])) return [];
    const last = tokens[at + pattern.length - 1]!;
    const next = tokens[at + pattern.length];
    const use = { start: token.start, end: last.end, isDeclared: false, isShorthand: false };
    if (pattern.length > 1) return [use];
    const { open, close, isFirst } = brackets(tokens, at);
    const isItem = isFirst || isMark(tokens[at - 1], [","]);
    const isWhole = isItem && isMark(next, [",", "}", ")", "="]);
    const isTyped = isItem && open?.text === "(" && isMark(next, [":"]);
    const isDeclared =
      isTyped || isDeclaration(tokens, at) || (isWhole && open !== undefined && isPattern(tokens, open, close));
    // A key of an object, or of a type.
    if (!isDeclared && isItem && open?.text === "{" && isMark(next, [":"])) return [];
    if (isMark(next, [":", ";", "="]) && isDeclaredType(tokens, at)) return [];
    return [{ ...use, isDeclared, isShorthand: isWhole && isObject(tokens, open) }];
  });
}

const isMark = (token: Token | undefined, texts: string[]) => token?.kind === "mark" && texts.includes(token.text);

const declarations = new Set(["const", "let", "var", "import", "as", "function", "class", "catch"]);

/** Whether the name follows a keyword that declares it, also as a further name of the statement: `const a = 1, b = 2`. */
function isDeclaration(tokens: Token[], at: number): boolean {
  let depth = 0;
  for (let i = at - 1; i >= 0; i -= 1) {
    const { kind, text } = tokens[i]!;
    if (kind === "string" || kind === "template" || kind === "other") {
      if (i === at - 1) return false;
      continue;
    }
    if (kind === "name" && depth === 0 && declarations.has(text)) {
      const isName = i === at - 1 || isMark(tokens[at - 1], [","]);
      return isName && tokens[i - 1]?.text !== "declare";
    }
    if (i === at - 1 && text !== ",") return false;
    if (")]}".includes(text)) depth += 1;
    else if ("([{".includes(text) && --depth < 0) return false;
    else if (text === ";" && depth === 0) return false;
  }
  return false;
}

/** Whether the name is that of `declare const NAME: string`, which declares nothing in the module. */
const isDeclaredType = (tokens: Token[], at: number) => tokens[at - 2]?.text === "declare";

/** Whether a brace begins an object, and not a block or an expression of JSX. */
function isObject(tokens: Token[], open: Token | undefined): boolean {
  if (open?.text !== "{") return false;
  const at = tokens.indexOf(open);
  const before = tokens[at - 1];
  if (before?.kind === "name") return before.text === "return";
  if (!isMark(before, ["(", "[", ",", ":", "=", "?", "&&", "||", "??"])) return false;
  const [name, attribute] = [tokens[at - 3], tokens[at - 2]];
  const isAttribute = attribute?.kind === "name" && (name?.kind === "string" || name?.kind === "name");
  return before?.text !== "=" || !isAttribute || declarations.has(name!.text);
}

/** Returns the brackets around a token, and whether it is the first in them. */
function brackets(tokens: Token[], at: number): { open?: Token; close: number; isFirst: boolean } {
  let depth = 0;
  let open = -1;
  for (let i = at - 1; i >= 0 && open < 0; i -= 1) {
    if (isMark(tokens[i], [")", "]", "}"])) depth += 1;
    else if (isMark(tokens[i], ["(", "[", "{"])) depth === 0 ? (open = i) : (depth -= 1);
  }
  depth = 0;
  let close = tokens.length;
  for (let i = at + 1; i < tokens.length; i += 1) {
    if (isMark(tokens[i], ["(", "[", "{"])) depth += 1;
    else if (isMark(tokens[i], [")", "]", "}"]) && --depth < 0) {
      close = i;
      break;
    }
  }
  return { ...(open >= 0 && { open: tokens[open]! }), close, isFirst: open >= 0 && open === at - 1 };
}

/** Keywords whose condition in parentheses is followed by a block. */
const conditions = new Set(["if", "for", "while", "switch", "with"]);

/** Whether brackets hold parameters, or names that an import or an assignment sets. */
function isPattern(tokens: Token[], open: Token, close: number): boolean {
  const next = tokens[close + 1];
  if (open.text !== "(") return isMark(next, ["="]) || (open.text === "{" && next?.text === "from");
  const before = tokens[tokens.indexOf(open) - 1];
  const isCondition = before?.kind === "name" && conditions.has(before.text);
  return !isCondition && isMark(next, ["{", "=>"]);
}
