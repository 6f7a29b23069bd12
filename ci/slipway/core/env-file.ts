/** Parses .env files. Values are literal: `$NAME` in a value stays as it is. */

export interface EnvEntry {
  name: string;
  value: string;
  /** Number of its first line, from 1. */
  line: number;
}

/** Matches blank lines, comments, and assignments whose value may be quoted and then span lines. */
const ENTRY =
  /[ \t]*(?:(?:#.*)?|(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=[ \t]*(?:"((?:\\[^]|[^"\\])*)"|'([^']*)'|`([^`]*)`|([^\r\n"'`#](?:(?![ \t]#)[^\r\n])*)?)[ \t]*(?:#.*)?)(?:\r?\n|$)/y;

/** Finds the name at the start of a line that is no assignment. */
const NAME = /^\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*=/;

/**
 * Parses a .env file. In double quotes, `\n` is a newline.
 *
 * @returns the entries, or the number of the first line that is neither an assignment, nor a comment, nor blank. A line may hold a
 *   value, so its text is not returned, apart from a name before `=`.
 */
export function parseEnvFile(text: string): { entries: EnvEntry[] } | { badLine: number; name: string | undefined } {
  const entries: EnvEntry[] = [];
  const source = text.replace(/^\uFEFF/, "");
  const lineAt = (index: number) => source.slice(0, index).split("\n").length;
  ENTRY.lastIndex = 0;
  while (ENTRY.lastIndex < source.length) {
    const start = ENTRY.lastIndex;
    const match = ENTRY.exec(source);
    if (!match) return { badLine: lineAt(start), name: NAME.exec(source.slice(start))?.[1] };
    const [, name, double, single, backtick, plain = ""] = match;
    if (name === undefined) continue;
    const value = double === undefined ? (single ?? backtick ?? plain.trimEnd()) : unescapeQuoted(double);
    entries.push({ name, value, line: lineAt(start) });
  }
  return { entries };
}

const escapes: Record<string, string> = { n: "\n", r: "\r", t: "\t", '"': '"', "\\": "\\", $: "$" };

function unescapeQuoted(text: string): string {
  return text.replace(/\\([^])/g, (whole, character: string) => escapes[character] ?? whole);
}
