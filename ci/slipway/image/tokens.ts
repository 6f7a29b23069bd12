/** Splits JavaScript and TypeScript into tokens, without comments. Enough to find expressions, not to parse. */

export interface Token {
  kind: "name" | "string" | "template" | "mark" | "other";
  /** The value of a string, else the source. */
  text: string;
  /** Of a template: its texts and the tokens of its expressions. */
  parts?: (string | Token[])[];
  line: number;
  start: number;
  end: number;
}

/** Marks of two characters that differ in meaning from their first one. */
const pairs = new Set("?? || && => == != ++ -- ** ?. += -= *= /= %= &= |= ^= <= >=".split(" "));
const [NEWLINE, SPACE, QUOTE, APOSTROPHE, SLASH, STAR, BACKTICK, BACKSLASH] = [10, 32, 34, 39, 47, 42, 96, 92];
const [DOLLAR, HASH, UNDERSCORE, OPEN, CLOSE] = [36, 35, 95, 123, 125];

const isDigit = (code: number) => code >= 48 && code <= 57;
const isName = (code: number) =>
  (code >= 97 && code <= 122) ||
  (code >= 65 && code <= 90) ||
  code === DOLLAR ||
  code === UNDERSCORE ||
  code === HASH ||
  (code > 127 && code !== 160 && code !== 0xfeff);

/** Names after which a slash begins a regular expression. */
const operators = new Set(["return", "typeof", "case", "in", "of", "do", "else", "void", "delete", "throw", "await"]);
const regex = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*/uy;

export function tokenize(source: string): Token[] {
  return new Tokenizer(source).read();
}

class Tokenizer {
  private at = 0;
  private line = 1;

  constructor(private source: string) {}

  /** Reads to the end, or to the brace that closes a template's expression. */
  read(isInTemplate = false): Token[] {
    const { source } = this;
    const tokens: Token[] = [];
    let depth = 0;
    if (this.at === 0 && source.startsWith("#!")) this.at = Math.max(0, source.indexOf("\n"));
    while (this.at < source.length) {
      const start = this.at;
      const code = source.charCodeAt(start);
      const { line } = this;
      if (code === NEWLINE) this.line += 1;
      if (code <= SPACE || code === 160 || code === 0xfeff) {
        this.at += 1;
      } else if (isName(code) || isDigit(code)) {
        const isNumber = isDigit(code);
        let end = start + 1;
        for (let next = source.charCodeAt(end); isName(next) || isDigit(next) || (isNumber && next === 46);) {
          next = source.charCodeAt((end += 1));
        }
        this.at = end;
        tokens.push({ kind: isNumber ? "other" : "name", text: source.slice(start, end), line, start, end });
      } else if (code === QUOTE || code === APOSTROPHE) {
        const end = this.endOfString(start, code);
        const text = end === undefined ? source[start]! : unquote(source.slice(start, end));
        this.at = end ?? start + 1;
        tokens.push({ kind: end === undefined ? "mark" : "string", text, line, start, end: this.at });
      } else if (code === BACKTICK) {
        const parts = this.template();
        tokens.push({ kind: "template", text: "", parts, line, start, end: this.at });
      } else if (code === SLASH && source.charCodeAt(start + 1) === SLASH) {
        const end = source.indexOf("\n", start);
        this.at = end < 0 ? source.length : end;
      } else if (code === SLASH && source.charCodeAt(start + 1) === STAR) {
        const end = source.indexOf("*/", start + 2);
        this.at = end < 0 ? source.length : end + 2;
        this.count(source.slice(start, this.at));
      } else {
        if (isInTemplate && code === CLOSE && depth === 0) return tokens;
        if (code === OPEN) depth += 1;
        if (code === CLOSE) depth -= 1;
        const pattern = code === SLASH && canStartRegex(tokens.at(-1)) ? this.regexAt(start) : undefined;
        const text = pattern ?? this.markAt(start);
        this.at = start + text.length;
        tokens.push({ kind: pattern ? "other" : "mark", text, line, start, end: this.at });
      }
    }
    return tokens;
  }

  private regexAt(start: number): string | undefined {
    regex.lastIndex = start;
    return regex.exec(this.source)?.[0];
  }

  private markAt(start: number): string {
    const two = this.source.slice(start, start + 2);
    if (!pairs.has(two)) return this.source[start]!;
    return this.source[start + 2] === "=" && /^[=!?|&*]/.test(two) ? this.source.slice(start, start + 3) : two;
  }

  /** Returns the index after a string, or undefined if it does not end in its line, like an apostrophe in JSX. */
  private endOfString(start: number, quote: number): number | undefined {
    const { source } = this;
    for (let at = start + 1; at < source.length; at += 1) {
      const code = source.charCodeAt(at);
      if (code === quote) return at + 1;
      if (code === NEWLINE) return undefined;
      if (code !== BACKSLASH) continue;
      at += 1;
      if (source.charCodeAt(at) === NEWLINE) this.line += 1;
    }
    return undefined;
  }

  private template(): (string | Token[])[] {
    const { source } = this;
    const parts: (string | Token[])[] = [];
    let text = "";
    for (this.at += 1; this.at < source.length && source[this.at] !== "`"; this.at += 1) {
      const char = source[this.at]!;
      if (char === "\n") this.line += 1;
      if (char === "\\") text += source[(this.at += 1)] ?? "";
      else if (char === "$" && source[this.at + 1] === "{") {
        this.at += 2;
        if (text !== "") parts.push(text);
        parts.push(this.read(true));
        text = "";
      } else text += char;
    }
    this.at += 1;
    if (text !== "" || parts.length === 0) parts.push(text);
    return parts;
  }

  private count(text: string): void {
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) this.line += 1;
  }
}

function canStartRegex(before: Token | undefined): boolean {
  if (before === undefined) return true;
  if (before.kind === "name") return operators.has(before.text);
  return before.kind === "mark" && ![")", "]", "}"].includes(before.text);
}

function unquote(text: string): string {
  const content = text.slice(1, -1);
  if (!content.includes("\\")) return content;
  return content.replace(/\\(u\{[\da-fA-F]+\}|u[\da-fA-F]{4}|x[\da-fA-F]{2}|[^])/g, (_, code: string) => {
    if (/^[ux]./.test(code)) return String.fromCodePoint(Number.parseInt(code.replace(/[ux{}]/g, ""), 16));
    return { n: "\n", t: "\t", r: "\r", "\n": "" }[code] ?? code;
  });
}
