/** Evaluates expressions that make paths of constants, without running code. */
import { dirname, join, resolve } from "node:path";
import { TokenReader } from "./token-reader.ts";
import type { Token } from "./tokens.ts";

/** Base of a path: the module's place, the working directory, or nothing but a literal. */
export type PathBase = "module" | "directory" | "literal";

/** A known or partly known text. */
interface PathValue {
  text: string;
  isExact: boolean;
  base: PathBase;
  /** Whether the value is a URL of a file or a function from createRequire(), and `text` its path. */
  form?: "url" | "require";
  /** Whether another value can replace it, as in `process.env.X ?? "a"`. */
  isDefault?: boolean;
}

/** Names that can begin a path. */
const beginnings = new Set(["import", "new", "process", "require", "__dirname", "__filename"]);

/** Evaluates the expressions of a module for paths. */
export class PathEvaluator extends TokenReader {
  /** Names that are bound once -> index of the first token of their value. */
  private bindings = new Map<string, number>();
  private values = new Map<string, PathValue | undefined>();
  private uses = new Map<string, number>();
  private active = new Set<string>();
  /** Specifiers that functions of createRequire() load, or their beginnings. */
  required = new Set<string>();

  constructor(
    tokens: Token[],
    private file: string,
    private project: string,
  ) {
    super(tokens);
    const all = new Map<string, number[]>();
    for (const [at, { kind, text }] of tokens.entries()) {
      if (kind !== "name" || this.is(at - 1, ".")) continue;
      this.uses.set(text, (this.uses.get(text) ?? 0) + 1);
      if (this.is(at + 1, "=") && this.isDeclared(at)) all.set(text, [...(all.get(text) ?? []), at + 2]);
    }
    for (const [name, [first, ...more]] of all) if (more.length === 0) this.bindings.set(name, first!);
  }

  /** Whether a path can begin here. */
  isSeed(at: number): boolean {
    const { kind, text } = this.tokens[at]!;
    if (kind === "string" || kind === "template") return true;
    if (text === "(") return this.pathFunctionAt(at) !== undefined;
    if (kind !== "name" || this.is(at - 1, ".")) return false;
    if (this.is(at + 1, "=") || this.is(at + 1, ":")) return false;
    return beginnings.has(text) || this.bindings.has(text) || this.pathFunctionAt(at) !== undefined;
  }

  /** Returns the name that the value is bound to. */
  bindingAt(at: number, end: number): string | undefined {
    if (!this.is(at - 1, "=") || this.tokens[at - 2]?.kind !== "name") return undefined;
    // A value with an unknown rest ends before that.
    return end > at && this.bindings.has(this.tokens[at - 2]!.text) ? this.tokens[at - 2]!.text : undefined;
  }

  isUsed(name: string): boolean {
    return (this.uses.get(name) ?? 0) > 1;
  }

  /** Evaluates an expression: operands with + or || or ??. @returns the index after it */
  expression(at: number): { value: PathValue | undefined; end: number } {
    let { value, end } = this.operand(at);
    for (;;) {
      const isSum = this.is(end, "+");
      const isChoice = this.is(end, "||") || this.is(end, "??");
      if (!isSum && !isChoice) return { value, end };
      const next = this.operand(end + 1);
      if (isChoice) value = value ?? (next.value && { ...next.value, isDefault: true });
      else if (value && next.value) value = concat(value, next.value);
      else if (value) value = { ...value, isExact: false };
      else value = undefined;
      if (next.end <= end + 1) return { value, end: this.skip(end + 1) };
      end = next.end;
    }
  }

  private operand(at: number): { value: PathValue | undefined; end: number } {
    let { value, end } = this.primary(at);
    if (end === at) end = this.unknown(at);
    for (;;) {
      if (this.is(end, "!")) end += 1;
      else if (this.is(end, ".") && ["pathname", "href"].includes(this.tokens[end + 1]?.text ?? "")) end += 2;
      else if (this.is(end, ".") && this.is(end + 1, "toString") && this.is(end + 2, "(")) end += 4;
      else if (this.is(end, "as") && this.tokens[end + 1]?.kind === "name") end += 2;
      else if (value?.form === "require" && this.is(end, "(")) {
        const call = this.call(end);
        const [specifier] = call.values;
        if (specifier) this.required.add(specifier.text);
        const isPath = specifier?.isExact && /^\.\.?\//.test(specifier.text);
        value = isPath ? { ...value, form: "url", text: join(dirname(value.text), specifier.text) } : undefined;
        end = call.end;
      } else return { value, end };
    }
  }

  private primary(at: number): { value: PathValue | undefined; end: number } {
    const token = this.tokens[at];
    const unknown = { value: undefined, end: at };
    if (!token) return unknown;
    if (token.kind === "string") return { value: { text: token.text, isExact: true, base: "literal" }, end: at + 1 };
    if (token.kind === "template") return { value: this.template(token), end: at + 1 };
    const called = this.pathFunctionAt(at);
    if (called) return this.pathCall(called.name, called.open);
    if (token.text === "(") {
      const inner = this.expression(at + 1);
      return this.is(inner.end, ")") ? { value: inner.value, end: inner.end + 1 } : unknown;
    }
    if (token.kind !== "name") return unknown;
    const own = { isExact: true, base: "module" } as const;
    if (token.text === "__dirname") return { value: { ...own, text: dirname(this.file) }, end: at + 1 };
    if (token.text === "__filename") return { value: { ...own, text: this.file }, end: at + 1 };
    if (token.text === "import" && this.is(at + 2, "meta")) {
      const name = this.tokens[at + 4]?.text ?? "";
      const end = at + 5;
      if (/^dir(name)?$/.test(name)) return { value: { ...own, text: dirname(this.file) }, end };
      if (/^(path|filename)$/.test(name)) return { value: { ...own, text: this.file }, end };
      if (name === "url") return { value: { ...own, text: this.file, form: "url" }, end };
      if (name.startsWith("resolve") && this.is(end, "(")) return this.relative(end);
    }
    if (token.text === "process" && this.is(at + 2, "cwd") && this.is(at + 3, "("))
      return { value: { text: this.project, isExact: true, base: "directory" }, end: at + 5 };
    if (token.text === "require" && this.is(at + 2, "resolve") && this.is(at + 3, "(")) return this.relative(at + 3);
    if (token.text === "new" && this.is(at + 1, "URL") && this.is(at + 2, "(")) return this.url(at + 2);
    const bound = this.bindings.get(token.text);
    if (bound === undefined || this.active.has(token.text) || this.is(at + 1, "=")) return unknown;
    const value = this.boundValue(token.text, bound);
    // Other properties and calls of the value are unknown.
    return value ? { value, end: at + 1 } : unknown;
  }

  /** Evaluates a name that is bound once. Only a value that needs no value under evaluation is remembered. */
  private boundValue(name: string, bound: number): PathValue | undefined {
    if (this.values.has(name)) return this.values.get(name);
    this.active.add(name);
    const { value } = this.expression(bound);
    this.active.delete(name);
    if (this.active.size === 0) this.values.set(name, value);
    return value;
  }

  private template({ parts = [] }: Token): PathValue | undefined {
    let value: PathValue = { text: "", isExact: true, base: "literal" };
    for (const part of parts) {
      const next =
        typeof part === "string"
          ? ({ text: part, isExact: true, base: "literal" } satisfies PathValue)
          : this.nested(part);
      if (!next) return value.text === "" ? undefined : { ...value, isExact: false };
      value = value.text === "" ? next : concat(value, next);
    }
    return value;
  }

  private nested(tokens: Token[]): PathValue | undefined {
    if (tokens[0]?.kind === "name" && this.bindings.has(tokens[0].text) && tokens.length === 1) {
      const [{ text }] = tokens;
      return this.active.has(text) ? undefined : this.boundValue(text, this.bindings.get(text)!);
    }
    const inner = new PathEvaluator(tokens, this.file, this.project);
    const { value, end } = inner.expression(0);
    return end === tokens.length ? value : undefined;
  }

  /** Evaluates arguments. @param at index of the opening bracket */
  private call(at: number): { values: (PathValue | undefined)[]; end: number } {
    const values: (PathValue | undefined)[] = [];
    let next = at + 1;
    while (next < this.tokens.length && !this.is(next, ")")) {
      const { value, end } = this.expression(next);
      const isWhole = this.is(end, ",") || this.is(end, ")");
      // The rest of an argument may change its value.
      values.push(isWhole ? value : undefined);
      next = isWhole ? end : this.skip(end);
      while (this.is(next, "+")) next = this.skip(next + 1);
      if (this.is(next, ",")) next += 1;
      else if (!this.is(next, ")")) break;
    }
    return { values, end: next + 1 };
  }

  private relative(at: number): { value: PathValue | undefined; end: number } {
    const { values, end } = this.call(at);
    const [specifier] = values;
    if (!specifier || !/^\.\.?\//.test(specifier.text)) return { value: undefined, end };
    return { value: { ...specifier, base: "module", text: join(dirname(this.file), specifier.text) }, end };
  }

  private url(at: number): { value: PathValue | undefined; end: number } {
    const { values, end } = this.call(at);
    const [path, base] = values;
    if (base?.form !== "url") return { value: undefined, end };
    if (!path) return { value: { ...base, text: dirname(base.text), isExact: false }, end };
    if (/^[a-z]+:/i.test(path.text)) return { value: undefined, end };
    return { value: { ...base, isExact: path.isExact, text: resolve(dirname(base.text), path.text) }, end };
  }

  private pathCall(name: string, at: number): { value: PathValue | undefined; end: number } {
    const { values, end } = this.call(at);
    const [first] = values;
    if (!first) return { value: undefined, end };
    if (name === "dirname") return { value: { ...first, text: dirname(first.text) }, end };
    if (name === "pathToFileURL") return { value: { ...first, form: "url" }, end };
    if (name === "createRequire") return { value: { ...first, form: "require" }, end };
    if (name === "fileURLToPath") {
      const { form: _, ...path } = first;
      return { value: path, end };
    }
    let value = first;
    for (const next of value.isExact ? values.slice(1) : []) {
      if (!next) return { value: { ...value, isExact: false }, end };
      const text = name === "resolve" ? resolve(this.project, value.text, next.text) : join(value.text, next.text);
      value = { ...value, text, isExact: next.isExact, isDefault: (value.isDefault || next.isDefault) ?? false };
      if (!value.isExact) break;
    }
    if (name !== "resolve") return { value, end };
    const base = value.base === "literal" ? "directory" : value.base;
    return { value: { ...value, base, text: resolve(this.project, value.text) }, end };
  }
}

/** Appends a text. Text after an unknown part is not known to be at its place. */
function concat(value: PathValue, next: PathValue): PathValue {
  if (!value.isExact) return value;
  if (next.isDefault) return { ...value, isExact: false };
  return { ...value, text: value.text + next.text, isExact: next.isExact };
}
