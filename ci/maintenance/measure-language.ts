/**
 * Measures the language of documents, comments and messages.
 *
 *     bun ci/maintenance/measure-language.ts        prints the figures
 *
 * ci/maintenance/test/project-language.test.ts holds documents, help texts and messages to the rules of CONTRIBUTING.md.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");

/** Words with a private sense in this project's past, and their standard terms. They are allowed in code spans. */
export const privateWords: [RegExp, string][] = [
  [/\bsurroundings\b/i, "environment"],
  [/\bhalfway\b/i, "partial failure"],
  [/\bway back\b/i, "rollback"],
  [/\bdepots?\b/i, "containerd, image store"],
  [/\bparcels?\b/i, "upload"],
  [/\blast words\b/i, "log tail"],
  [/\brehears(?:e|es|ed|al|als|ing)\b/i, "smoke test"],
  [/\b(?:come|comes|came) up\b/i, "become ready"],
  [/\bhold(?:s|ing)? out\b/i, "stay healthy"],
  [/\bproven\b/i, "verified"],
  [/\bstands? back\b/i, "runs at lower priority"],
  [/\bhurry\b/i, "stop waiting"],
  [/\bthe version before\b/i, "the previous version"],
  [/\bof before\b/i, "previous"],
  [/\bkept versions?\b/i, "stored version"],
  [/\bthe same bytes\b/i, "reproducible"],
  [/\bnobody'?s?\b/i, "a named subject"],
  [/\bsomebody\b/i, "a named subject"],
  [/\bis no [a-z]+\b(?!\s+longer)/i, "is not a"],
];

/** The documents of the project. */
export function documents(): string[] {
  const patterns = ["*.md", "src/*.md", "k8s/**/*.md", "test/**/*.md", "ci/**/*.md", ".github/**/*.md"];
  const found = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root, dot: true })]);
  return [...new Set(found)].filter((path) => !path.includes("node_modules")).sort();
}

/** The source files of the package and the service, without tests. */
export function sources(): string[] {
  const patterns = ["ci/slipway/**/*.ts", "ci/maintenance/**/*.ts", "ci/*.ts", "src/**/*.ts"];
  const found = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: root })]);
  return found.filter((path) => !/node_modules|\/test\//.test(path)).sort();
}

export const read = (path: string): string => readFileSync(join(root, path), "utf8");

/** Prose of a Markdown text: paragraphs and list items, without code blocks, tables, headings and HTML. */
export function proseOf(markdown: string): string[] {
  const blocks: string[] = [];
  let block: string[] = [];
  const end = () => {
    if (block.length > 0) blocks.push(block.join(" "));
    block = [];
  };
  let isCode = false;
  for (const line of markdown.replaceAll(/<!--[^]*?-->/g, "").split("\n")) {
    if (/^\s*(```|~~~)/.test(line)) {
      isCode = !isCode;
      end();
    } else if (isCode || /^\s*(\||<|#|!\[|\[[^\]]+\]:)/.test(line) || line.trim() === "") end();
    else {
      if (/^\s*(?:[-*+]|\d+\.)\s/.test(line)) end();
      block.push(line.replace(/^\s*(?:[-*+>]|\d+\.)\s+/, "").trim());
    }
  }
  end();
  return blocks.map(plain);
}

/** Text without markup. A code span counts as one word, because it is one name. */
function plain(text: string): string {
  return text
    .replaceAll(/`+[^`]*`+/g, "CODE")
    .replaceAll(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replaceAll(/\[([^\]]*)\]\[[^\]]*\]/g, "$1")
    .replaceAll(/https?:\/\/\S+/g, "LINK")
    .replaceAll(/[*_]{1,3}(?=\S)|(?<=\S)[*_]{1,3}/g, "");
}

export function sentencesOf(text: string): string[] {
  return text
    .split(/(?<=[.!?]["')\]]?)\s+(?=["'([]?[A-Z0-9])/)
    .map((sentence) => sentence.trim())
    .filter((sentence) => /[a-z]/i.test(sentence));
}

export const wordsOf = (text: string): string[] => text.match(/[\p{L}\p{N}][\p{L}\p{N}'’./:@%_-]*/gu) ?? [];

/** Comments of a TypeScript file, one text each. */
export function commentsOf(code: string): string[] {
  const blocks = [...code.matchAll(/\/\*\*([^]*?)\*\//g)].map(([, text]) =>
    text!
      .split("\n")
      .map((line) => line.replace(/^\s*\*? ?/, ""))
      .join(" "),
  );
  const lines = [...code.matchAll(/^[ \t]*\/\/ ?(.*)$|(?<=[;,{] )\/\/ (.*)$/gm)].map(
    ([, line, trailing]) => line ?? trailing ?? "",
  );
  return [...blocks, ...lines].map(plain);
}

/** Texts for a user in a TypeScript file: the literals of errors, hints, log lines and help. An expression counts as a word. */
export function messagesOf(code: string): string[] {
  const calls =
    /new PipelineError\(|usageError\(|\babout: |\bhint: |\bhint = |\bmessage = |\blog\(|\bdetail: |recordState\(/g;
  return [...code.matchAll(calls)].flatMap(({ index, 0: call }) => {
    const from = index + call.length;
    return call.endsWith("(") ? literalsIn(code.slice(from, closing(code, from))) : firstLiteral(code, from);
  });
}

const LITERAL = /"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`/g;
function literalsIn(code: string): string[] {
  const texts = [...code.matchAll(LITERAL)].map(([, quoted, template]) => cleaned(quoted ?? template ?? ""));
  return texts.filter((text) => /\s/.test(text));
}
function firstLiteral(code: string, from: number): string[] {
  const end = code.indexOf("\n", from);
  return literalsIn(code.slice(from, end < 0 ? undefined : end));
}
function cleaned(text: string): string {
  return plain(text.replaceAll("\\`", "`").replaceAll(/\$\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}/g, "X"));
}
/** Index of the parenthesis that closes the one before `from`. */
function closing(code: string, from: number): number {
  for (let depth = 1, at = from; at < code.length; at += 1) {
    if (code[at] === "(") depth += 1;
    else if (code[at] === ")") depth -= 1;
    if (depth === 0) return at;
  }
  return code.length;
}

const per1000 = (texts: string[], pattern: RegExp): number => {
  const words = texts.reduce((sum, text) => sum + wordsOf(text).length, 0);
  const hits = texts.reduce((sum, text) => sum + (text.match(pattern)?.length ?? 0), 0);
  return words === 0 ? 0 : (hits / words) * 1000;
};
/** "What is there", "for who …": clauses in the place of a noun. A question is none. */
const CLAUSES =
  /\b(?:what|whatever|whoever)\b(?![^.!?]*\?)|(?:^|[.;:] )who\b(?![^.!?]*\?)|\b(?:for|by|of|to|from) who\b/gi;
const NEGATIONS = /\b(?:not|no|never|none|nothing|nobody|nowhere|neither|nor|without|cannot)\b|\b\w+n['’]t\b/gi;

export interface LanguageFigures {
  words: number;
  sentences: number;
  longSentencesPercent: number;
  median: number;
  percentile90: number;
  youPer1000: number;
  clausesPer1000: number;
  negationsPer1000: number;
  semicolonsPer1000: number;
}

export function measure(texts: string[]): LanguageFigures {
  const lengths = texts
    .flatMap(sentencesOf)
    .map((sentence) => wordsOf(sentence).length)
    .filter((length) => length > 1)
    .sort((a, b) => a - b);
  const at = (quantile: number) => lengths[Math.floor((lengths.length - 1) * quantile)] ?? 0;
  return {
    words: texts.reduce((sum, text) => sum + wordsOf(text).length, 0),
    sentences: lengths.length,
    longSentencesPercent: (lengths.filter((length) => length > 30).length / lengths.length) * 100,
    median: at(0.5),
    percentile90: at(0.9),
    youPer1000: per1000(texts, /\byou(?:rs?|rself)?\b/gi),
    clausesPer1000: per1000(texts, CLAUSES),
    negationsPer1000: per1000(texts, NEGATIONS),
    semicolonsPer1000: per1000(texts, /;/g),
  };
}

if (import.meta.main) {
  const rounded = (figures: LanguageFigures) =>
    Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, Number(value.toFixed(1))]));
  console.table({
    documents: rounded(measure(documents().flatMap((path) => proseOf(read(path))))),
    comments: rounded(measure(sources().flatMap((path) => commentsOf(read(path))))),
    messages: rounded(measure(sources().flatMap((path) => messagesOf(read(path))))),
  });
}
