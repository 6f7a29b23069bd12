/** Additions to files that a service has already: what is there stays as it is, to the letter. */
import { applyEdits, modify, parse } from "jsonc-parser";
import type { Package } from "../ground/service.ts";
import type { Facts } from "./facts.ts";

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
  const before = text && !text.endsWith("\n") ? `${text}\n` : (text ?? "");
  return `${before}${missing.join("\n")}\n`;
}

/** `/dist`, `dist/` and `dist` ignore the same, as far as it matters here. */
function bare(pattern: string): string {
  return pattern.trim().replace(/^\/|\/$/g, "");
}

export const addToGitignore = (text: string | undefined) => addPatterns(text, ignored);

/** An allow-list, which begins with a `*`, is left alone: it says what is sent. */
export function addToDockerignore(text: string | undefined): string {
  if (text?.split("\n").some((line) => /^(\*|\*\*|\*\/\*)\s*$/.test(line))) return text;
  return addPatterns(text, notSent);
}

/** package.json with the scripts and the dependency that it lacks. */
export function addToPackage(text: string, { hasTests, service, slipway }: Facts): string {
  const own = (parse(text) ?? {}) as Package;
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
  let changed = text;
  const options = { formattingOptions: formatOf(text) };
  const add = (path: string[], value: string) => {
    changed = applyEdits(changed, modify(changed, path, value, options));
  };
  for (const [name, script] of Object.entries(scripts)) {
    if (own.scripts?.[name] === undefined) add(["scripts", name], script);
  }
  if (!own.devDependencies?.slipway && !own.dependencies?.slipway)
    add(["devDependencies", "slipway"], version);
  return changed;
}

/** As the file is indented: with tabs, or so many spaces. */
function formatOf(text: string) {
  const indent = /^\{\s*?\n([\t ]+)/.exec(text)?.[1] ?? "  ";
  return {
    insertSpaces: !indent.startsWith("\t"),
    tabSize: indent.startsWith("\t") ? 1 : indent.length,
    eol: "\n",
  };
}
