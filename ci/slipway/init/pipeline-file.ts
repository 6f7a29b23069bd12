/** Writes ci/pipeline.ts in the form that the formatters Biome and Prettier leave unchanged, and linters accept. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ProjectFacts } from "./project-facts.ts";

/** Default line width of both formatters. */
const MAX_WIDTH = 80;

/** Returns ci/pipeline.ts with the settings that differ from the defaults. */
export function pipelineFile({ service, port, writtenIdentity, openedFiles, environment }: ProjectFacts): string {
  const settings: [name: string, value: unknown][] = [
    ...(port === undefined || port === 8080 ? [] : [["port", port] as [string, number]]),
    ...(writtenIdentity === undefined ? [] : [["identity", writtenIdentity] as [string, string]]),
    ...(openedFiles.length === 0 ? [] : [["files", openedFiles] as [string, string[]]]),
    ...(environment.secrets.length === 0 ? [] : [["secrets", environment.secrets] as [string, string[]]]),
  ];
  return `/** Settings of ${service.name} for slipway. Its type Settings documents them. */
import { pipeline } from "slipway";

${callOf(settings, detectIndent([service.project, service.root]))}
`;
}

/** Writes the call on one line if it fits, else each setting on a line of its own. */
function callOf(settings: [name: string, value: unknown][], indent: string): string {
  if (settings.length === 0) return "await pipeline(import.meta);";
  const line = `await pipeline(import.meta, { ${settings.map(([name, value]) => `${name}: ${inline(value)}`).join(", ")} });`;
  if (line.length <= MAX_WIDTH) return line;
  const lines = settings.map(([name, value]) => {
    const property = `${name}: ${inline(value)},`;
    if (2 + property.length <= MAX_WIDTH || !Array.isArray(value)) return `${indent}${property}\n`;
    const items = value.map((item) => `${indent}${indent}${inline(item)},\n`);
    return `${indent}${name}: [\n${items.join("")}${indent}],\n`;
  });
  return `await pipeline(import.meta, {\n${lines.join("")}});`;
}

const inline = (value: unknown): string =>
  Array.isArray(value) ? `[${value.map(inline).join(", ")}]` : JSON.stringify(value);

/** Returns the indentation of the project's formatter. Biome's default is a tab, and Prettier's are two spaces. */
export function detectIndent(directories: string[]): string {
  const read = (names: string[]) =>
    directories
      .flatMap((directory) => names.map((name) => join(directory, name)))
      .filter((file) => existsSync(file))
      .map((file) => readFileSync(file, "utf8"))[0];
  const biome = read(["biome.json", "biome.jsonc"]);
  if (biome !== undefined) return /"indentStyle"\s*:\s*"space"/.test(biome) ? "  " : "\t";
  const prettier = read([
    ".prettierrc",
    ".prettierrc.json",
    ".prettierrc.yaml",
    ".prettierrc.yml",
    "prettier.config.js",
  ]);
  return prettier !== undefined && /\buseTabs["']?\s*:\s*true/.test(prettier) ? "\t" : "  ";
}
