/** Tests the prebuild scripts as a step of their own, and the warning about outputs that no prebuild script makes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { CommandContext } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { runFlow } from "../cli/run-flow.ts";
import { findStaleOutputs } from "../cli/stale-output.ts";
import { resolveService } from "../core/resolve-service.ts";
import { Report } from "../core/step-report.ts";
import { hostEngine } from "../engines/host.ts";
import type { Settings } from "../index.d.ts";

setDefaultTimeout(60_000);
const { signal } = new AbortController();
let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "prebuild-"))));
afterAll(() => rmSync(directory, { recursive: true }));
let count = 0;

const write = (at: string, files: Record<string, string>) => {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(at, path)), { recursive: true });
    writeFileSync(join(at, path), content);
  }
};

function project(files: Record<string, string> = {}): string {
  const at = join(directory, `case-${(count += 1)}`);
  write(at, {
    "package.json": JSON.stringify({ name: "small", type: "module", scripts: { build: "bun build.ts" } }),
    ".gitignore": "dist/\nruns.txt\n.env\nnode_modules/\n",
    "build.ts":
      'import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";\nappendFileSync("runs.txt", "x");\nmkdirSync("dist", { recursive: true });\nwriteFileSync("dist/page.txt", "page " + (process.env.VALUE ?? ""));\n',
    "src/main.ts": "export const main = 1;\n",
    ...files,
  });
  Bun.spawnSync(["git", "init", "--quiet"], { cwd: at });
  return at;
}

const settings: Settings = { prebuild: ["build"], files: ["dist/page.txt"] };

/** Runs a flow like a new process. @returns its report, and how often the script has run */
async function run(at: string, more: Settings = settings) {
  const service = resolveService(at, { attach: false, ...more });
  const lines: string[] = [];
  const report = new Report((line) => lines.push(line));
  const context = {
    ...{ service, signal, report, engine: hostEngine(service, signal), options: { verbose: false } },
    imageId: () => context.engine.computeId(),
  };
  const result = runFlow(context as unknown as CommandContext, buildSteps(context as unknown as CommandContext), {
    goals: ["check", "test", "id"],
  });
  const { id } = await result;
  const runs = existsSync(join(at, "runs.txt")) ? readFileSync(join(at, "runs.txt"), "utf8").length : 0;
  return { id, runs, step: lines.find((line) => line.trim().startsWith("prebuild")) ?? "", lines };
}

describe.skipIf(!Bun.which("git"))("the prebuild scripts", () => {
  test("are a step with its own time, before all others, and are reused on the same files", async () => {
    const at = project();
    const first = await run(at);
    expect(first.step).toMatch(/^ {2}prebuild ok +[\d.]+ s {2}bun run build$/);
    expect(first.lines[0]).toBe(first.step);
    const second = await run(at);
    expect(second.step).toContain("reused");
    expect([first.runs, second.runs]).toEqual([1, 1]);
    expect(second.id).toBe(first.id);
  });

  test.each([
    ["a source file, which any tool may read", "src/main.ts", "export const main = 2;\n"],
    ["a new file", "tailwind.config.ts", "export default {};\n"],
    [".env, which git ignores", ".env", "VALUE=2\n"],
  ])("run again after an edit of %s", async (_, path, text) => {
    const at = project();
    await run(at);
    write(at, { [path]: text });
    const { runs, step } = await run(at);
    expect([runs, step.includes("reused")]).toEqual([2, false]);
  });

  test("run again if their output is gone", async () => {
    const at = project();
    const { id } = await run(at);
    rmSync(join(at, "dist"), { recursive: true });
    expect(await run(at)).toMatchObject({ runs: 2, id });
  });

  test("are no step of a service that has none", async () => {
    expect((await run(project(), {})).step).toBe("");
  });
});

describe.skipIf(!Bun.which("git"))("a directory of `files` that git ignores", () => {
  const output = { "dist/index.html": "page", "public/a.txt": "a", "web/dist/b.txt": "b", dist2: "x" };
  test.each<[string, Settings, string[]]>([
    ["is warned of without `prebuild`", { files: ["dist"] }, ["`files` contains dist, which git ignores"]],
    ["is warned of as a pattern", { files: ["./web/dist/**/*.txt"] }, ["`files` contains web/dist, which"]],
    ["is made by `prebuild`", { files: ["dist"], prebuild: ["build"] }, []],
    ["and one that git has", { files: ["public", "dist2", "public/*.txt"] }, []],
  ])("%s", async (_, more, expected) => {
    const found = await findStaleOutputs(resolveService(project(output), more), signal);
    expect(found).toEqual(expected.map((text) => expect.stringContaining(text)));
    for (const warning of found) expect(warning).toContain('for example `prebuild: ["build"]`');
  });

  test("is shown in the deploy, and counted", async () => {
    const at = project(output);
    const { lines } = await run(at, { files: ["dist"] });
    expect(lines.filter((line) => line.includes("which git ignores"))).toHaveLength(1);
  });
});
