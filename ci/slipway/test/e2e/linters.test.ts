/** The files that `init` writes pass the linters and formatters of a project, with their recommended settings. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { resolveService } from "../../core/resolve-service.ts";
import { generatedFiles } from "../../init/files.ts";
import { findFacts } from "../../init/project-facts.ts";

setDefaultTimeout(120_000);
const versions = {
  "@biomejs/biome": "2.6.8",
  "@eslint/js": "10.0.1",
  eslint: "10.15.0",
  prettier: "3.10.1",
  typescript: "5.9.3",
  "typescript-eslint": "8.74.0",
};
const run = (cwd: string, ...command: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { cwd, stdin: "ignore" });
  return exitCode === 0 ? "passed" : stdout.toString() + stderr.toString();
};

const tools = realpathSync(mkdtempSync(join(tmpdir(), "linters-")));
writeFileSync(join(tools, "package.json"), JSON.stringify({ private: true, dependencies: versions }));
const installed = run(tools, process.execPath, "install", "--ignore-scripts", "--no-progress");
if (installed !== "passed" && process.env.E2E === "required") throw new Error(installed);
afterAll(() => rmSync(tools, { recursive: true }));

/** Creates a project, and writes the files of `init` that linters read. */
async function project(name: string, files: Record<string, string>): Promise<string> {
  const at = join(tools, "projects", name);
  const all = { "src/index.ts": "Bun.serve({ port: 4000, fetch: () => new Response() });\n", ...files };
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(at, path)), { recursive: true });
    writeFileSync(join(at, path), text);
  };
  for (const [path, text] of Object.entries(all)) write(path, text);
  symlinkSync(join(tools, "node_modules"), join(at, "node_modules"));
  const generated = generatedFiles(await findFacts(resolveService(at), new AbortController().signal));
  for (const [path, text] of generated) if (/^ci\//.test(path)) write(path, text);
  return at;
}

const eslint = `import js from "@eslint/js";
import tseslint from "typescript-eslint";
export default tseslint.config(js.configs.recommended, tseslint.configs.recommended);
`;
const opened = ["migrations", "public", "templates", "translations", "views"];
/** A project whose settings need several lines. */
const large = (length: number): Record<string, string> =>
  Object.fromEntries([
    ...opened.map((name) => [`${name}${"x".repeat(length)}/a.txt`, "a"]),
    [
      "src/index.ts",
      `${opened.map((name) => `serveStatic({ root: "./${name}${"x".repeat(length)}" });`).join("\n")}\nBun.serve({ port: 4000 });\n`,
    ],
  ]);
const manifest = { "package.json": '{"name":"shop","version":"1.0.0"}\n' };
const commonJs = { "tsconfig.json": '{ "compilerOptions": { "module": "nodenext" } }\n' };

describe.skipIf(installed !== "passed")("the files of init pass", () => {
  const bin = (name: string) => join(tools, "node_modules/.bin", name);
  beforeAll(() => mkdirSync(join(tools, "projects")));

  test.each<[string, Record<string, string>]>([
    ["a few settings", {}],
    ["many files", large(0)],
    ["long names of files", large(20)],
    ["a CommonJS package", commonJs],
  ])("with %s", async (name, files) => {
    const at = await project(name.replaceAll(" ", "-"), { ...manifest, ...files, "eslint.config.mjs": eslint });
    expect(run(at, bin("eslint"), "ci")).toBe("passed");
    expect(run(at, bin("prettier"), "--check", "ci")).toBe("passed");
    const biome = await project(`${name.replaceAll(" ", "-")}-biome`, { ...manifest, ...files, "biome.json": "{}\n" });
    expect(run(biome, bin("biome"), "check", "ci")).toBe("passed");
  });

  test("and the linters find faults", async () => {
    const at = await project("faults", { ...manifest, "biome.json": "{}\n", "eslint.config.mjs": eslint });
    writeFileSync(join(at, "ci/pipeline.ts"), "var x: any = {a:1}\n");
    for (const command of [
      ["eslint", "ci"],
      ["prettier", "--check", "ci"],
      ["biome", "check", "ci"],
    ])
      expect(run(at, bin(command[0]!), ...command.slice(1))).not.toBe("passed");
  });
});
