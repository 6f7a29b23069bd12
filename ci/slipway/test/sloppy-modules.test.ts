/** Tests CommonJS modules that need sloppy mode: from source, and as a binary. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { declareGlobals, findSloppyModules } from "../image/sloppy-modules.ts";
import { build, createProject, removeProjects, run, runImage, runSource, type Files } from "./built-service.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

const find = (code: string, file = "/project/src/a.cjs") => findSloppyModules([[file, Buffer.from(code)]], "/project");

describe("an assignment without a declaration", () => {
  test.each([
    ["module.exports = () => { counter = 1; };", ["counter"]],
    ["for (i = 0; i < 3; i++) exports.i = i;", ["i"]],
    ["for (key in {}) exports.key = key;", ["key"]],
    ["for (item of []) exports.item = item;", ["item"]],
    ["[first, second] = [1, 2];", ["first", "second"]],
    ["({ a, b: { c } } = require('./x'));", ["a", "c"]],
    ["var i; (function () { var j; i = j = 1; k = 2; })();", ["k"]],
    ["(function () { var i; i = 1; })(); (function () { i = 2; })();", ["i"]],
  ])("is found in %s", (code, globals) => {
    expect(find(code)).toEqual({ globals, packages: new Set(), warnings: [] });
  });

  test("is found in TypeScript", () => {
    const code = "const a: number = 1; leaked = a as any; module.exports = a;";
    expect(find(code, "/project/src/a.ts").globals).toEqual(["leaked"]);
  });

  test.each([
    "'use strict';\nmodule.exports = () => { counter = 1; };",
    '/* licence */\n// more\n"use strict";\ncounter = 1;',
    "var a, b = 1, c; a = b; function d(e = 1, { f = 2 } = {}) { e = f = 3; } class G { h = 4; }",
    "const text = 'counter = 1'; // counter = 1",
    "let key; for (key in {}); for (const other of []); exports.counter = 1; this.other = 2;",
    "try { undefined_ == 1 } catch (error) { error = 1 }",
  ])("is none in %s", (code) => {
    expect(find(code).globals).toEqual([]);
  });

  test("becomes an ordinary global variable", () => {
    const code = `${declareGlobals(["leaked"])}console.log(typeof leaked, Object.keys(globalThis).includes("leaked"));
leaked = () => 1; leaked.a = 2; delete globalThis.none;
console.log(leaked.name, Object.keys(globalThis).includes("leaked"), delete globalThis.leaked, typeof leaked);`;
    expect(run([process.execPath, "-e", code])).toBe("undefined false\nleaked true true undefined\n");
  });
});

/** Builds a service, and compares the binary with the source. */
async function check(files: Files, output: string): Promise<{ at: string; warnings: string[] }> {
  const at = createProject(files);
  expect(runSource(at, "src/main.ts")).toBe(output);
  const { binary, warnings } = await build(at, { entry: "src/main.ts", attach: false });
  expect(runImage(binary)).toBe(output);
  return { at, warnings };
}

describe("in the binary, the same happens as from source", () => {
  test("for a module of the service, a package and a worker", async () => {
    const { warnings } = await check(
      {
        "src/main.ts": `import { count } from "./count.cjs";
import { each } from "pack";
console.log(typeof counter, count(), counter, each());
new Worker(new URL("./worker.ts", import.meta.url)).onmessage = ({ data }) => { console.log(data); process.exit(); };
declare const counter: number;
`,
        "src/count.cjs": "exports.count = () => { counter = 1; counter += 1; return counter; };\n",
        "src/worker.ts": 'import { count } from "./count.cjs";\npostMessage(count());\n',
        "node_modules/pack/package.json": '{"name":"pack","version":"1.0.0"}',
        "node_modules/pack/index.js": "exports.each = () => { for (k in { a: 1 }); return k; };\n",
      },
      "undefined 2 2 a\n2\n",
    );
    expect(warnings).toEqual([]);
  });

  test("for a package that has no strict form, because it is unbundled", async () => {
    const { at } = await check(
      {
        "src/main.ts": 'import { value } from "pack";\nconsole.log(value());\n',
        "node_modules/pack/package.json": '{"name":"pack","version":"1.0.0"}',
        "node_modules/pack/index.js": "exports.value = () => { with ({ a: 5 }) return a; };\n",
      },
      "5\n",
    );
    expect(existsSync(join(at, "dist/app/node_modules/pack/index.js"))).toBe(true);
  });
});

describe("an expression without a strict form", () => {
  test.each([
    ["exports.a = () => {\n  with ({ a: 1 }) return a;\n};", "src/a.cjs:2 uses `with`"],
    ["exports.a = () => { var x = 1; return delete x; };", "src/a.cjs:1 uses `delete x`"],
    [
      "// arguments\n\nexports.a = (function () { return arguments.callee; })();",
      "src/a.cjs:3 uses `arguments.callee`",
    ],
  ])("is warned of with file and line: %s", (code, warning) => {
    expect(find(code).warnings).toEqual([expect.stringContaining(warning)]);
    expect([...find(code, "/project/node_modules/old/index.js").packages]).toEqual(["old"]);
  });

  test.each([
    "'use strict'; exports.a = function () { return arguments.callee; };",
    "exports.render = new Function('o', 'with (o) { return a }');",
    "exports.a = { with(x) { return x; } }; delete exports.b; delete exports['c'];",
    "// with (a) delete b\nexports.a = 1;",
  ])("is none in %s", (code) => {
    expect(find(code)).toEqual({ globals: [], packages: new Set(), warnings: [] });
  });
});
