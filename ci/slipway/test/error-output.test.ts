/** Printed part of a failed tool's output, and the file with the whole output. */
import { afterAll, afterEach, describe, expect, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf } from "../core/resolve-service.ts";
import { excerptFromFirstError, printError } from "../cli/error-output.ts";
import { service } from "./helloapp-service.ts";

const LINES = 30;
const nameFile = () => "all.log";
const unexpected = (): string => expect.unreachable("no line was cut");
const numbered = (count: number, line: (n: number) => string) => Array.from({ length: count }, (_, n) => line(n + 1));

describe("excerpt", () => {
  test("short output is whole, without trailing line breaks", () => {
    expect(excerptFromFirstError("one\n\ntwo\n\n\n", unexpected)).toBe("one\n\ntwo");
    const most = numbered(LINES, (n) => `line ${n}`).join("\n");
    expect(excerptFromFirstError(`${most}\n`, unexpected)).toBe(most);
    expect(excerptFromFirstError("", unexpected)).toBe("");
  });

  test("of 458 type errors, prints the first 30, the number of the others, and the file", () => {
    const errors = numbered(458, (n) => `src/a.ts(${n},1): error TS2322: Type 'string' is no number.`);
    const lines = excerptFromFirstError(`${errors.join("\n")}\n`, nameFile).split("\n");
    expect(lines).toEqual([...errors.slice(0, LINES), "… 428 more lines: all.log"]);
  });

  test("leaves out lines before the first error", () => {
    const before = numbered(100, (n) => `(pass) test ${n}`);
    const lines = excerptFromFirstError(
      [...before, "src/a.ts(1,1): error TS2322: no", ...before].join("\n"),
      nameFile,
    ).split("\n");
    // Up to eight lines above belong to the error, unless an empty line separates them.
    expect(lines.slice(0, 9)).toEqual([...before.slice(-8), "src/a.ts(1,1): error TS2322: no"]);
    expect(lines).toHaveLength(LINES + 1);
    expect(lines.at(-1)).toBe("… 171 more lines: all.log");
  });

  test("prints a failing assertion among hundreds of passed tests, with its code, values, location and name", () => {
    const assertion = [
      "241 |   test('sum', () => {",
      "242 |     const x = 1 + 1;",
      "243 |     expect(x).toBe(3);",
      "                        ^",
      "error: expect(received).toBe(expected)",
      "",
      "Expected: 3",
      "Received: 2",
      "",
      "      at <anonymous> (/x/test/src/sum.test.ts:243:24)",
      "(fail) sum > is three [0.12ms]",
    ];
    const passed = numbered(300, (n) => `(pass) is ${n} [0.01ms]`);
    const text = ["bun test v1.4.5", "", ...passed, "", "test/src/sum.test.ts:", ...assertion, ...passed].join("\n");
    const lines = excerptFromFirstError(text, nameFile).split("\n");
    const names = ["failed tests:", "  sum > is three", ""];
    expect(lines.slice(0, assertion.length + 4)).toEqual([...names, "test/src/sum.test.ts:", ...assertion]);
    expect(lines).toHaveLength(LINES + 1);
  });

  // Regression: a passed test with "error" in its name counted as the first error.
  test('ignores passed tests with "error" in their names', () => {
    const passed = numbered(100, (n) => `(pass) error ${n} is reported [0.01ms]`);
    const text = [...passed, "", "error: expect(received).toBe(expected)", "(fail) sum", ...passed].join("\n");
    expect(excerptFromFirstError(text, nameFile)).toContain("(fail) sum");
  });

  test("prints the assertion of a real run of Bun's test runner", () => {
    const directory = mkdtempSync(join(tmpdir(), "slipway-failure-"));
    const good = numbered(60, (n) => `test("good ${n}", () => {});`).join("\n");
    const red = 'test("sum is three", () => {\n  const sum = 1 + 1;\n  expect(sum).toBe(3);\n});';
    writeFileSync(join(directory, "a.test.ts"), `import { expect, test } from "bun:test";\n${good}\n${red}\n${good}\n`);
    const { stdout, stderr } = Bun.spawnSync([process.execPath, "test"], {
      cwd: directory,
      env: { ...process.env, NO_COLOR: "1", CLAUDECODE: undefined, AGENT: undefined },
    });
    rmSync(directory, { recursive: true });
    const text = excerptFromFirstError(stdout.toString() + stderr.toString(), nameFile);
    expect(text).toContain("expect(sum).toBe(3)");
    expect(text).toContain("Received: 2");
    expect(text).toContain("(fail) sum is three");
  });

  test.each([
    ["an exception", "TypeError: undefined is not an object"],
    ["an error of the bundler", "error: Could not resolve: ./nowhere.ts"],
    ["a finding of the formatter", "src/a.ts is not formatted"],
    ["a crash of Bun's", "panic(main thread): Segmentation fault"],
  ])("the excerpt begins at %s", (_, line) => {
    const before = [...numbered(60, (n) => `quiet line ${n}`), ""];
    expect(excerptFromFirstError([...before, line, ...before].join("\n"), nameFile)).toStartWith(line);
  });

  test("names the failed tests first, although the service logs errors in tests that pass", () => {
    const log = numbered(40, (n) => `{"level":"error","msg":"request ${n} failed"}`);
    const red = (name: string) => [
      "3 |   expect(1).toBe(2);",
      "error: expect(received).toBe(expected)",
      `(fail) ${name} [0.30ms]`,
    ];
    const text = [...log, "(pass) logs an error", ...log, ...red("cart > adds"), ...log, ...red("cart > removes")].join(
      "\n",
    );
    const lines = excerptFromFirstError(text, nameFile).split("\n");
    expect(lines.slice(0, 4)).toEqual(["failed tests:", "  cart > adds", "  cart > removes", ""]);
    expect(lines).toContain("error: expect(received).toBe(expected)");
    expect(lines.length).toBe(LINES + 1);
  });

  test.each([
    ["✗ sum is three", "sum is three", " 1 fail"],
    [" FAIL  src/a.test.ts > sum", "src/a.test.ts > sum", " Test Files  1 failed (1)"],
    ["not ok 7 - sum", "sum", "# fail 1"],
    ["  ● cart › adds", "cart › adds", "Tests:       1 failed, 2 passed, 3 total"],
    ["✖ sum (0.5ms)", "sum (0.5ms)", "ℹ fail 1"],
  ])("names the failed test of another runner: %s", (line, name, count) => {
    const quiet = numbered(40, (n) => `quiet line ${n}`);
    expect(excerptFromFirstError([...quiet, line, ...quiet, count].join("\n"), nameFile)).toStartWith(
      `failed tests:\n  ${name}\n\n`,
    );
  });

  test.each([
    ["ESLint", "✖ 12 problems (12 errors, 0 warnings)"],
    ["Biome", "  × Formatter would have printed the following content:"],
    ["a code generator", "✗ routes.gen.ts is out of date"],
  ])("finds no failed test in the output of %s", (_, line) => {
    const quiet = numbered(40, (n) => `quiet line ${n}`);
    const text = excerptFromFirstError([...quiet, "", line, ...quiet].join("\n"), nameFile);
    expect(text).not.toContain("failed tests");
    expect(text).toStartWith(line);
  });

  test("without an error, prints the beginning", () => {
    const lines = numbered(100, (n) => `quiet line ${n}`);
    expect(excerptFromFirstError(lines.join("\n"), nameFile).split("\n").slice(0, LINES)).toEqual(
      lines.slice(0, LINES),
    );
  });

  test("prints an error in the last line", () => {
    const text = [...numbered(100, (n) => `quiet line ${n}`), "error: the last word"].join("\n");
    expect(excerptFromFirstError(text, nameFile)).toContain("error: the last word");
  });

  test("cuts a long line and prints its length, without writing a file", () => {
    const text = excerptFromFirstError(`error: ${"x".repeat(100_000)}`, unexpected);
    expect(text.length).toBeLessThan(300);
    expect(text).toStartWith(`error: ${"x".repeat(100)}`);
    expect(text).toEndWith("… (100007 characters)");
  });
});

describe("printError", () => {
  const project = mkdtempSync(join(tmpdir(), "slipway-failure-"));
  const own = { ...service, project };
  const printed = spyOn(console, "error").mockImplementation(() => {});
  afterEach(() => printed.mockClear());
  afterAll(() => {
    printed.mockRestore();
    rmSync(project, { recursive: true });
  });
  const page = relative(process.cwd(), join(import.meta.dir, "../docs/reference/troubleshooting.md"));
  const text = () => printed.mock.calls.flat().join("\n");
  const output = numbered(458, (n) => `src/a.ts(${n},1): error TS2322: no`).join("\n");

  test("prints the output, then a paragraph with cause and hint", () => {
    const error = new PipelineError("project", "bun run check failed", {
      code: "script-failed",
      output: "a: no\n",
      hint: "Correct it.",
    });
    printError(error, false, own);
    expect(text()).toBe(`a: no\n\nerror: bun run check failed. Correct it.\nMore: ${page}#script-failed`);
    printed.mockClear();
    printError(new PipelineError("project", "is it so?", { code: undefined }), false, own);
    expect(text()).toBe("\nerror: is it so?");
    expect(existsSync(cacheDirectoryOf(own))).toBe(false);
  });

  test("saves long output to a file, with another file for the next error", () => {
    const files = [1, 2].map(() => {
      printed.mockClear();
      printError(new PipelineError("project", "bun run check failed", { code: "script-failed", output }), false, own);
      expect(text().split("\n")).toHaveLength(LINES + 1 + 3);
      const [, file] = /^… 428 more lines: (.*)$/m.exec(text())!;
      expect(file).toStartWith(`${cacheDirectoryOf(own)}/`);
      expect(readFileSync(file!, "utf8")).toBe(`${output}\n`);
      return file!;
    });
    expect(files).toEqual(["failure.log", "failure-1.log"].map((name) => join(cacheDirectoryOf(own), name)));
  });

  test("--verbose prints the whole output and the stack", () => {
    printError(new PipelineError("project", "bun run check failed", { code: "script-failed", output }), true, own);
    expect(text()).toStartWith(`${output}\n\nerror: bun run check failed.\nMore: ${page}#script-failed\n`);
    expect(text()).toContain("    at ");
  });

  test("suggests --verbose if no file can be written", () => {
    for (const given of [undefined, { ...service, project: "/dev/null" }]) {
      printed.mockClear();
      printError(new PipelineError("project", "x", { code: undefined, output }), false, given);
      expect(text()).toContain("… 428 more lines: add --verbose to print them");
    }
  });

  test("prints an unexpected error unchanged", () => {
    const error = new Error("unforeseen");
    printError(error, false, own);
    expect(printed.mock.calls).toEqual([[error]]);
  });
});
