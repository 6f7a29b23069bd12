/** Adds lines to existing files of a service and keeps every other character. */
import { applyEdits, findNodeAtLocation, modify, parse, parseTree, type Node } from "jsonc-parser";
import type { PackageJson } from "../core/resolve-service.ts";
import type { ProjectFacts } from "./project-facts.ts";

/** Patterns for .gitignore: files that slipway writes. */
const gitPatterns = ["node_modules/", "dist/", "*.tar", "*.tar.part", "*.cdx.json", "*.cdx.json.part", ".*.bun-build"];
/** Patterns for .dockerignore: files that an image build does not need. */
const dockerPatterns = [".git", "**/node_modules", "**/dist", "**/*.tar", "**/*.cdx.json", "**/.env*"];

/** Adds missing patterns to an ignore file. @param text undefined if the file does not exist */
export function addPatterns(text: string | undefined, patterns: string[]): string {
  const existing = new Set(text?.split("\n").map(normalize));
  const missing = patterns.filter((pattern) => !existing.has(normalize(pattern)));
  if (missing.length === 0) return text ?? "";
  const end = detectLineEnding(text);
  const before = text && !text.endsWith("\n") ? `${text}${end}` : (text ?? "");
  return `${before}${missing.join(end)}${end}`;
}

/** Returns the line ending of a text. */
export function detectLineEnding(text = ""): string {
  return text.includes("\r\n") ? "\r\n" : "\n";
}

/** Strips slashes, because `/dist`, `dist/` and `dist` are equivalent here. */
function normalize(pattern: string): string {
  return pattern.trim().replace(/^\/|\/$/g, "");
}

export const addToGitignore = (text: string | undefined) => addPatterns(text, gitPatterns);

export function isAllowlistGitignore(text: string): boolean {
  return text.split("\n").some((line) => /^(\*|\*\*|\*\/\*)\s*$/.test(line));
}

/** Adds patterns to .dockerignore. An allow-list, which ignores `*` first, is returned unchanged. */
export function addToDockerignore(text: string | undefined): string {
  if (text !== undefined && isAllowlistGitignore(text)) return text;
  return addPatterns(text, dockerPatterns);
}

/** Adds missing scripts and the dependency on slipway to package.json. */
export function addToPackage(text: string, { hasTests, service, slipway }: ProjectFacts): string {
  const manifest = (parse(text.replace(/^\uFEFF/, "")) ?? {}) as PackageJson;
  const scripts: Record<string, string> = {
    dev: `bun --watch ${service.entry}`,
    ...(hasTests && { test: "bun test" }),
    build: "bun ci/pipeline.ts build",
    // `up` has to work in a fresh clone too.
    up: "bun install --silent && bun ci/pipeline.ts up",
  };
  // If the package is published under another name, an alias keeps the import `slipway`.
  const version = slipway.name === "slipway" ? `^${slipway.version}` : `npm:${slipway.name}@^${slipway.version}`;
  let changed = text.replace(/^\uFEFF/, "");
  const byteOrderMark = text.slice(0, text.length - changed.length);
  const add = (path: [section: string, name: string], value: string) => {
    changed = addProperty(changed, path, value);
  };
  for (const [name, script] of Object.entries(scripts)) {
    if (manifest.scripts?.[name] === undefined) add(["scripts", name], script);
  }
  if (!manifest.devDependencies?.slipway && !manifest.dependencies?.slipway)
    add(["devDependencies", "slipway"], version);
  return byteOrderMark + changed;
}

/** Adds a property. Existing lines stay unchanged if every property has its own line. */
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

/** @returns undefined if the object is empty or on a single line */
function addLines(text: string, { children = [] }: Node, lines: string[]): string | undefined {
  const last = children.at(-1);
  const indent = last && /\n([\t ]*)$/.exec(text.slice(0, last.offset))?.[1];
  if (!last || indent === undefined) return undefined;
  const at = last.offset + last.length;
  const end = detectLineEnding(text);
  return `${text.slice(0, at)},${lines.map((line) => `${end}${indent}${line}`).join("")}${text.slice(at)}`;
}

/** Detects indentation and line ending. */
function formatOf(text: string): { unit: string; end: string } {
  return { unit: /^\{\s*?\n([\t ]+)/.exec(text)?.[1] ?? "  ", end: detectLineEnding(text) };
}
