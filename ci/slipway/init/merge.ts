/** Additions to files that a service has already: what is there stays as it is, to the letter. */
import { applyEdits, findNodeAtLocation, modify, parse, parseTree, type Node } from "jsonc-parser";
import type { PackageJson } from "../core/service-config.ts";
import type { ProjectFacts } from "./project-facts.ts";

/** What the pipeline leaves behind, and what no image build needs. */
const ignored = [
  "node_modules/",
  "dist/",
  "*.tar",
  "*.tar.part",
  "*.cdx.json",
  "*.cdx.json.part",
  ".*.bun-build",
];
const notSent = [".git", "**/node_modules", "**/dist", "**/*.tar", "**/*.cdx.json", "**/.env*"];

/** The text of an ignore file with the patterns that it lacks. @param text undefined: there is none yet */
export function addPatterns(text: string | undefined, patterns: string[]): string {
  const has = new Set(text?.split("\n").map(bare));
  const missing = patterns.filter((pattern) => !has.has(bare(pattern)));
  if (missing.length === 0) return text ?? "";
  const end = detectLineEnding(text);
  const before = text && !text.endsWith("\n") ? `${text}${end}` : (text ?? "");
  return `${before}${missing.join(end)}${end}`;
}

/** As the file's own lines end. */
export function detectLineEnding(text = ""): string {
  return text.includes("\r\n") ? "\r\n" : "\n";
}

/** `/dist`, `dist/` and `dist` ignore the same, as far as it matters here. */
function bare(pattern: string): string {
  return pattern.trim().replace(/^\/|\/$/g, "");
}

export const addToGitignore = (text: string | undefined) => addPatterns(text, ignored);

export function isAllowlistGitignore(text: string): boolean {
  return text.split("\n").some((line) => /^(\*|\*\*|\*\/\*)\s*$/.test(line));
}

/** An allow-list, which begins with a `*`, is left alone: it says what is sent. */
export function addToDockerignore(text: string | undefined): string {
  if (text !== undefined && isAllowlistGitignore(text)) return text;
  return addPatterns(text, notSent);
}

/** package.json with the scripts and the dependency that it lacks. */
export function addToPackage(text: string, { hasTests, service, slipway }: ProjectFacts): string {
  const own = (parse(text.replace(/^\uFEFF/, "")) ?? {}) as PackageJson;
  const scripts: Record<string, string> = {
    dev: `bun --watch ${service.entry}`,
    ...(hasTests && { test: "bun test" }),
    build: "bun ci/pipeline.ts build",
    // A fresh clone has nothing installed yet.
    up: "bun install --silent && bun ci/pipeline.ts up",
  };
  // Published under another name, it is still imported and run as `slipway`.
  const version =
    slipway.name === "slipway" ? `^${slipway.version}` : `npm:${slipway.name}@^${slipway.version}`;
  let changed = text.replace(/^\uFEFF/, "");
  const mark = text.slice(0, text.length - changed.length);
  const add = (path: [section: string, name: string], value: string) => {
    changed = addProperty(changed, path, value);
  };
  for (const [name, script] of Object.entries(scripts)) {
    if (own.scripts?.[name] === undefined) add(["scripts", name], script);
  }
  if (!own.devDependencies?.slipway && !own.dependencies?.slipway)
    add(["devDependencies", "slipway"], version);
  return mark + changed;
}

/** Adds a line, or some, and touches no other, where properties stand on lines of their own. */
function addProperty(text: string, path: [section: string, name: string], value: string): string {
  const tree = parseTree(text);
  const section = tree && findNodeAtLocation(tree, [path[0]]);
  const { unit, end } = formatOf(text);
  const property = `${JSON.stringify(path[1])}: ${JSON.stringify(value)}`;
  const lines = [`${JSON.stringify(path[0])}: {`, `${unit}${property}`, "}"];
  const added = section ? addLines(text, section, [property]) : tree && addLines(text, tree, lines);
  if (added !== undefined) return added;
  const formattingOptions = {
    insertSpaces: !unit.startsWith("\t"),
    tabSize: unit.startsWith("\t") ? 1 : unit.length,
    eol: end,
  };
  return applyEdits(text, modify(text, path, value, { formattingOptions }));
}

/** @returns undefined where the object is empty or stands on one line */
function addLines(text: string, { children = [] }: Node, lines: string[]): string | undefined {
  const last = children.at(-1);
  const indent = last && /\n([\t ]*)$/.exec(text.slice(0, last.offset))?.[1];
  if (!last || indent === undefined) return undefined;
  const at = last.offset + last.length;
  const end = detectLineEnding(text);
  return `${text.slice(0, at)},${lines.map((line) => `${end}${indent}${line}`).join("")}${text.slice(at)}`;
}

/** What the file is indented with, and how its lines end. */
function formatOf(text: string): { unit: string; end: string } {
  return { unit: /^\{\s*?\n([\t ]+)/.exec(text)?.[1] ?? "  ", end: detectLineEnding(text) };
}
