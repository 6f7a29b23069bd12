/** Moves in the tokens of a module: names, brackets, and the place of an expression. */
import type { Token } from "./tokens.ts";

/** Functions that make or convert a path. */
const pathFunctions = ["join", "resolve", "normalize", "dirname", "fileURLToPath", "pathToFileURL", "createRequire"];

/** Tokens between a path and the function that gets it. */
const MAX_CONTEXT = 200;

export class TokenReader {
  constructor(protected tokens: Token[]) {}

  protected is(at: number, text: string): boolean {
    const token = this.tokens[at];
    return token !== undefined && token.kind !== "string" && token.text === text;
  }

  /** Whether a statement sets a name. A default of a parameter is no constant. */
  protected isDeclared(at: number): boolean {
    const before = this.tokens[at - 1];
    if (before === undefined || /^(?:const|let|var|[;{}])$/.test(before.text)) return true;
    if (!this.is(at - 1, ",")) return before.line < this.tokens[at]!.line && before.text !== "(";
    let depth = 0;
    for (let i = at - 2; i >= 0; i -= 1) {
      const { kind, text } = this.tokens[i]!;
      if (kind === "string" || kind === "template") continue;
      if (")]}".includes(text)) depth += 1;
      else if ("([{".includes(text) && --depth < 0) return false;
      else if (depth === 0 && /^(?:const|let|var)$/.test(text)) return true;
      else if (text === ";" && depth === 0) return false;
    }
    return false;
  }

  /** Whether the value is the specifier of an import, which the bundler resolves. */
  isSpecifier(at: number): boolean {
    if (this.is(at - 1, "from") || this.is(at - 1, "import") || this.is(at - 1, "case")) return true;
    const isLiteral = this.tokens[at]!.kind === "string" || this.tokens[at]!.parts?.length === 1;
    return isLiteral && this.is(at - 1, "(") && (this.is(at - 2, "import") || this.is(at - 2, "require"));
  }

  /** Returns the function and the property that get the value, also those of a name that is bound to a choice. */
  context(at: number, isUse = false): { callee: string; key: string } {
    let depth = 0;
    let key = "";
    let isChoice = false;
    for (let i = at - 1; i >= Math.max(0, at - MAX_CONTEXT); i -= 1) {
      const { kind, text } = this.tokens[i]!;
      if (kind === "string" || kind === "template") continue;
      if (depth === 0 && key === "" && text === ":" && this.tokens[i - 1]?.kind !== "mark")
        key = this.tokens[i - 1]!.text;
      if (depth === 0 && text === "?") isChoice = true;
      if (depth === 0 && text === "=" && isChoice && !isUse) {
        const use = this.useOf(i - 1);
        if (use !== undefined) return this.context(use, true);
      }
      if (")]}".includes(text)) depth += 1;
      else if (";".includes(text) && depth === 0) break;
      else if ("([{".includes(text)) {
        if (depth > 0) depth -= 1;
        else if (text === "(") {
          const callee = this.calleeBefore(i);
          if (callee !== undefined) return { callee, key };
        }
      }
    }
    return { callee: "", key };
  }

  /** Returns the name that is called: `read(`, `fs.read?.(`, `new Worker<Data>(` or, as compilers write, `(0, fs_1.read)(`. */
  private calleeBefore(open: number): string | undefined {
    let at = open - 1;
    if (this.is(at, "?.")) at -= 1;
    if (this.is(at, ">")) at = this.opening(at, "<", ">") - 1;
    if (this.is(at, ")")) {
      const start = this.opening(at, "(", ")");
      if (!this.is(start + 1, "0") || !this.is(start + 2, ",")) return undefined;
      at -= 1;
    }
    return this.tokens[at]?.kind === "name" ? this.tokens[at]!.text : undefined;
  }

  /** Returns the index of the bracket that a closing one ends, or -1. */
  private opening(at: number, open: string, close: string): number {
    let depth = 0;
    for (let i = at; i >= Math.max(0, at - MAX_CONTEXT); i -= 1) {
      if (this.is(i, close)) depth += 1;
      else if (this.is(i, open) && --depth === 0) return i;
    }
    return -1;
  }

  /** Returns the index of the first use of the name that is declared here. */
  private useOf(at: number): number | undefined {
    const declared = this.tokens[at];
    if (declared?.kind !== "name" || !this.isDeclared(at)) return undefined;
    const isUse = ({ kind, text }: Token, i: number) =>
      i > at && kind === "name" && text === declared.text && !this.is(i - 1, ".") && !this.is(i + 1, ":");
    const use = this.tokens.findIndex(isUse);
    return use < 0 ? undefined : use;
  }

  /** Returns the index after the rest of an argument or statement. */
  protected skip(at: number): number {
    let depth = 0;
    for (let i = at; i < this.tokens.length; i += 1) {
      const { kind, text } = this.tokens[i]!;
      if (kind === "string" || kind === "template") continue;
      if ("([{".includes(text)) depth += 1;
      else if (")]}".includes(text) && --depth < 0) return i;
      else if (depth === 0 && (text === "," || text === ";" || text === "+")) return i;
      // Without a semicolon, a statement ends with its line.
      else if (depth === 0 && i > at && this.tokens[i]!.line > this.tokens[i - 1]!.line && kind === "name") return i;
    }
    return this.tokens.length;
  }

  /** Returns the index after a name with its properties and calls. */
  protected unknown(at: number): number {
    if (this.tokens[at]?.kind !== "name") return at;
    let end = at + 1;
    for (;;) {
      if (this.is(end, ".") || this.is(end, "?.")) end += 2;
      else if (this.is(end, "(") || this.is(end, "[")) end = this.closing(end) + 1;
      else return end;
    }
  }

  protected closing(at: number): number {
    let depth = 0;
    for (let i = at; i < this.tokens.length; i += 1) {
      const { kind, text } = this.tokens[i]!;
      if (kind === "string" || kind === "template") continue;
      if ("([{".includes(text)) depth += 1;
      else if (")]}".includes(text) && --depth === 0) return i;
    }
    return this.tokens.length;
  }

  /** Finds a call of a path function, as `join()`, `path.join()`, `require("path").join()` or `(0, path_1.join)()`. */
  protected pathFunctionAt(at: number): { name: string; open: number } | undefined {
    const isPossible = this.is(at + 1, ".") || this.is(at + 1, "(") || this.is(at, "(");
    if (!isPossible) return undefined;
    const isRequire = this.is(at, "require") && this.is(at + 1, "(") && this.is(at + 3, ")");
    const isBare = this.is(at, "(") && this.is(at + 1, "0") && this.is(at + 2, ",");
    const object = isBare ? at + 3 : isRequire ? at + 3 : at;
    const index = this.is(object + 1, ".") ? object + 2 : object;
    const open = isBare ? index + 2 : index + 1;
    const name = this.tokens[index]?.text ?? "";
    const isCalled = pathFunctions.includes(name) && this.is(open, "(") && (!isBare || this.is(index + 1, ")"));
    const isOther = this.is(at, "Promise") || (this.is(at, "require") && !isRequire);
    return isCalled && !isOther ? { name, open } : undefined;
  }
}
