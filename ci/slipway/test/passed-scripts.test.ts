/** A test that passed is only reused if nothing has changed that it or the bundler may have read. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { CommandContext } from "../cli/context.ts";
import { runFlow } from "../cli/run-flow.ts";
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import { resolveService } from "../core/resolve-service.ts";
import { stepsOf } from "../core/step-graph.ts";
import { Report } from "../core/step-report.ts";
import { hostEngine } from "../engines/host.ts";
import type { Settings } from "../index.d.ts";

setDefaultTimeout(60_000);
const { signal } = new AbortController();
let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "passed-scripts-"))));
afterAll(() => rmSync(directory, { recursive: true }));
let count = 0;

const git = (at: string, ...args: string[]) => {
  const identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always"];
  const { exitCode, stderr } = Bun.spawnSync(["git", ...identity, ...args], { cwd: at });
  expect(exitCode, stderr.toString()).toBe(0);
};

const write = (at: string, files: Record<string, string>) => {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(at, path)), { recursive: true });
    writeFileSync(join(at, path), content);
  }
};

/** A repository a/b/service, so that `../../../` leads to a directory that the test owns. */
function project(files: Record<string, string>, settings: Settings = {}) {
  const top = join(directory, `case-${(count += 1)}`);
  const at = join(top, "a/b/service");
  write(at, {
    "package.json": JSON.stringify({ name: "small", type: "module", scripts: { test: "bun test" } }),
    ".gitignore": "node_modules/\n/made/\n*.db\n.env\ncoverage/\n",
    "src/main.ts": "export const main = 1;\n",
    ...files,
  });
  mkdirSync(join(at, "node_modules"), { recursive: true });
  git(at, "init", "--quiet");
  const service = () => resolveService(at, settings);
  // Each run has its own engine, as a new process does.
  return { top, at, run: async () => (await hostEngine(service(), signal).runScript("test")).unchanged };
}

const testOf = (expression: string, imports = "") =>
  `import { expect, test } from "bun:test";\nimport { readFileSync } from "node:fs";\nimport { join } from "node:path";\n${imports}\ntest("x", () => expect(${expression}).toBe("good"));\n`;
const module = (value: string) => `export const value: string = "${value}";\n`;

interface Row {
  /** File that is edited, relative to the directory above the repository's parents. */
  edit: string;
  text: (value: string) => string;
  files: Record<string, string>;
  before?: (top: string, at: string) => void;
}

const plain = (value: string) => value;
const rows: Record<string, Row> = {
  "a module in a directory above the repository": {
    edit: "shared/value.ts",
    text: module,
    files: { "src/x.test.ts": testOf("value", 'import { value } from "../../../../shared/value";') },
  },
  "a module that a module above the repository imports": {
    edit: "shared/deep/inner.ts",
    text: module,
    files: { "src/x.test.ts": testOf("value", 'import { value } from "../../../../shared/value.ts";') },
    before: (top) => write(top, { "shared/value.ts": 'export * from "./deep/inner.js";\n' }),
  },
  "a data file above the repository, relative to the working directory": {
    edit: "shared/value.txt",
    text: plain,
    files: { "src/x.test.ts": testOf('readFileSync("../../../shared/value.txt", "utf8")') },
  },
  "a data file whose path is joined": {
    edit: "shared/value.txt",
    text: plain,
    files: {
      "src/x.test.ts": testOf(
        'readFileSync(join(import.meta.dir, "..", "..", "..", "..", "shared", "value.txt"), "utf8")',
      ),
    },
  },
  "a file of a directory above the repository": {
    edit: "shared/more/value.txt",
    text: plain,
    files: {
      "src/x.test.ts": testOf('readFileSync(`${import.meta.dir}/../../../../shared/${"more"}/value.txt`, "utf8")'),
    },
  },
  "a module that tsconfig.json maps to a place above the repository": {
    edit: "shared/value.ts",
    text: module,
    files: {
      "tsconfig.json": '{ "compilerOptions": { "paths": { "@shared/*": ["../../../shared/*"] } } }',
      "src/x.test.ts": testOf("value", 'import { value } from "@shared/value";'),
    },
  },
  "a linked package": {
    edit: "shared/index.ts",
    text: module,
    files: { "src/x.test.ts": testOf("value", 'import { value } from "linked";') },
    before: (top, at) => symlinkSync(join(top, "shared"), join(at, "node_modules/linked")),
  },
  "a linked directory": {
    edit: "shared/value.txt",
    text: plain,
    files: { "src/x.test.ts": testOf('readFileSync("link/value.txt", "utf8")') },
    before: (top, at) => symlinkSync(join(top, "shared"), join(at, "link")),
  },
  "a module that git ignores": {
    edit: "a/b/service/made/value.ts",
    text: module,
    files: { "src/x.test.ts": testOf("value", 'import { value } from "../made/value";') },
  },
  "a data file that git ignores": {
    edit: "a/b/service/made/value.txt",
    text: plain,
    files: { "src/x.test.ts": testOf('readFileSync("made/value.txt", "utf8")') },
  },
  "a variable in .env": {
    edit: "a/b/service/.env",
    text: (value) => `VALUE=${value}\n`,
    files: { "src/x.test.ts": testOf("process.env.VALUE") },
  },
  "a module of the image in node_modules": {
    edit: "a/b/service/node_modules/package/index.js",
    text: (value) => `exports.value = "${value}";\n`,
    files: {
      "src/main.ts": 'import { value } from "package";\nconsole.log(value);\n',
      "node_modules/package/package.json": '{ "name": "package", "main": "index.js" }',
      "src/x.test.ts": testOf("value", 'import { value } from "package";'),
    },
  },
};

describe.skipIf(!Bun.which("git"))("a script that passed runs again after an edit of", () => {
  test.each(Object.entries(rows))("%s", async (_, { edit, text, files, before }) => {
    const { top, at, run } = project(files);
    write(top, { [edit]: text("good") });
    before?.(top, at);
    expect(await run()).toBe(false);
    expect(await run()).toBe(true);
    write(top, { [edit]: text("bad") });
    await expect(run()).rejects.toMatchObject({ kind: "project", message: "bun run test failed" });
    write(top, { [edit]: text("good") });
    expect(await run()).toBe(true);
  });

  test("a file of a submodule", async () => {
    const { top, at, run } = project({ "src/x.test.ts": testOf('readFileSync("sub/deep/value.txt", "utf8")') });
    const other = join(top, "other");
    write(other, { "deep/value.txt": "good" });
    git(other, "init", "--quiet");
    git(other, "add", "--all");
    git(other, "commit", "--quiet", "-m", "x");
    git(at, "submodule", "--quiet", "add", other, "sub");
    expect(await run()).toBe(false);
    expect(await run()).toBe(true);
    write(at, { "sub/deep/value.txt": "bad" });
    await expect(run()).rejects.toMatchObject({ message: "bun run test failed" });
  });
});

describe.skipIf(!Bun.which("git"))("a script that passed", () => {
  test("is reused although it writes a file that git ignores", async () => {
    const counting = `import { test } from "bun:test";\ntest("x", () => Bun.write("coverage/out.txt", String(Math.random())));\n`;
    const { run } = project({ "src/x.test.ts": counting });
    expect([await run(), await run(), await run()]).toEqual([false, true, true]);
  });

  test("is never reused if the project reads from a directory that contains it", async () => {
    // Not a literal, because this file is in a project too.
    const above = JSON.stringify("../".repeat(4).slice(0, -1));
    const path = `join(import.meta.dir, ${above}, process.env.DIRECTORY ?? "shared", "value.txt")`;
    const { top, at, run } = project({ "src/x.test.ts": testOf(`readFileSync(${path}, "utf8")`) });
    write(top, { "shared/value.txt": "good" });
    expect([await run(), await run()]).toEqual([false, false]);
    const { note } = await hostEngine(resolveService(at), signal).runScript("test");
    expect(note).toBe("runs each time, because src/x.test.ts names a directory that contains the project");
  });

  const writing = (path: string, content = "String(Math.random())") =>
    `import { test } from "bun:test";\ntest("x", () => Bun.write(${JSON.stringify(path)}, ${content}));\n`;

  test("is refused by name if it writes a file of the image, and accepted when it writes it no more", async () => {
    const formatted = JSON.stringify("export const main = 1; // formatted\n");
    const { run } = project({ "src/x.test.ts": writing("src/main.ts", formatted) });
    const error = await run().then(
      () => expect.unreachable(),
      (error: PipelineError) => error,
    );
    expect(error).toMatchObject({ kind: "project", code: "files-changed-by-script" });
    expect(error.message).toStartWith("src/main.ts changed while `bun run test` ran");
    expect(error.hint).toContain("--write");
    expect(await run()).toBe(false);
    expect(await run()).toBe(true);
  });

  test("is refused if it generates code that git ignores and the image has", async () => {
    const { run } = project({
      "src/main.ts": 'export * from "../made/routes.ts";\n',
      "made/routes.ts": "export const routes = 1;\n",
      "src/x.test.ts": writing("made/routes.ts", '"export const routes = 2;"'),
    });
    await expect(run()).rejects.toMatchObject({ message: expect.stringContaining("made/routes.ts changed") });
  });

  test("says that it runs again if it writes another file", async () => {
    const { at } = project({ "README.md": "", "src/x.test.ts": writing("README.md") });
    const result = await hostEngine(resolveService(at), signal).runScript("test");
    expect(result).toEqual({
      unchanged: false,
      note: "runs again next time, because files changed while it ran: README.md",
    });
  });

  test("runs with others: one error names all of them", async () => {
    const scripts = { check: "bun edit.ts && sleep 1", test: "sleep 1" };
    const edit = 'await Bun.sleep(300); await Bun.write("src/main.ts", "export const main = 2;\\n");\n';
    const { at } = project({
      "package.json": JSON.stringify({ name: "small", type: "module", scripts }),
      "edit.ts": edit,
    });
    const engine = hostEngine(resolveService(at), signal);
    const failures = await Promise.all(
      ["check", "test"].map((name) => engine.runScript(name).catch((error: PipelineError) => error)),
    );
    expect(failures[0]).toBe(failures[1]!);
    expect((failures[0] as PipelineError).message).toContain("while `bun run check` and `bun run test` ran");
  });

  test("is reused after an edit of a file that nothing names", async () => {
    const { top, run } = project({ "src/x.test.ts": testOf('"good"') });
    await run();
    write(top, { "shared/value.txt": "new" });
    expect(await run()).toBe(true);
  });
});

test("of a script's error and that of the build that saw its writes, the script's is the failure", async () => {
  const { step } = stepsOf<{ image: string; check: void }>();
  const fail = (code: ErrorCode) => async () => Promise.reject(new PipelineError("project", code, { code }));
  const steps = [
    step("image", { run: fail("files-changed-during-build") }),
    step("check", { run: fail("files-changed-by-script") }),
  ];
  const context = { options: { verbose: false }, signal, report: new Report(() => {}) } as unknown as CommandContext;
  const printed = spyOn(console, "error").mockImplementation(() => {});
  try {
    await expect(runFlow(context, steps, { goals: ["image", "check"] })).rejects.toMatchObject({
      code: "files-changed-by-script",
    });
    expect(printed).not.toHaveBeenCalled();
  } finally {
    printed.mockRestore();
  }
});
