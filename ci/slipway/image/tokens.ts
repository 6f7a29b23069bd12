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

const pattern =
  /(?<space>\s+|\/\/[^\n]*|\/\*[^]*?\*\/)|(?<name>[\p{ID_Start}$_#][\p{ID_Continue}$\u200c\u200d]*)|(?<string>"(?:\\[^]|[^"\\\n])*"|'(?:\\[^]|[^'\\\n])*')|(?<other>\d[\w.]*)|(?<mark>\?\?=?|\|\|=?|&&=?|[=!]==?|=>|[+\-*/%&|^<>]=|\+\+|--|\*\*|\?\.|\.\.\.|[^])/uy;
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
      const { line } = this;
      if (source[start] === "`") {
        const parts = this.template();
        tokens.push({ kind: "template", text: "", parts, line, start, end: this.at });
        continue;
      }
      if (isInTemplate && source[start] === "}" && depth === 0) return tokens;
      if (source[start] === "/" && !/^\/[/*]/.test(source.slice(start, start + 2)) && canStartRegex(tokens.at(-1))) {
        regex.lastIndex = start;
        const found = regex.exec(source);
        if (found) {
          tokens.push({ kind: "other", text: found[0], line, start, end: (this.at = start + found[0].length) });
          continue;
        }
      }
      pattern.lastIndex = start;
      const { 0: text, groups = {} } = pattern.exec(source)!;
      this.at = start + text.length;
      this.count(text);
      if (groups.space !== undefined) continue;
      if (text === "{") depth += 1;
      if (text === "}") depth -= 1;
      const kind = (["name", "string", "other", "mark"] as const).find((one) => groups[one] !== undefined)!;
      tokens.push({ kind, text: kind === "string" ? unquote(text) : text, line, start, end: this.at });
    }
    return tokens;
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
  return text.slice(1, -1).replace(/\\(u\{[\da-fA-F]+\}|u[\da-fA-F]{4}|x[\da-fA-F]{2}|[^])/g, (_, code: string) => {
    if (/^[ux]./.test(code)) return String.fromCodePoint(Number.parseInt(code.replace(/[ux{}]/g, ""), 16));
    return { n: "\n", t: "\t", r: "\r", "\n": "" }[code] ?? code;
  });
}
