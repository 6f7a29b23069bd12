/** The service's main module is the main module of the binary, as it is from source. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Settings } from "../index.d.ts";
import { build, createProject, removeProjects, run, runSource, type Files } from "./built-service.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

const helper = 'if (import.meta.main) console.log("helper is main");\nexport const help = (name: string) => name;\n';
const main = 'import { help } from "./helper.ts";\nif (import.meta.main) console.log(help("main"));\n';
const files: Files = {
  "src/main.ts": main,
  "src/helper.ts": helper,
  "src/migrate.ts":
    'import "./main.ts";\nif (import.meta.main) console.log("migrate", process.argv.slice(2).join());\n',
  "src/seed.cjs": 'const { x } = require("./common.cjs");\nif (require.main === module) console.log("seed", x);\n',
  "src/common.cjs": 'exports.x = 1;\nif (require.main === module) console.log("common is main");\n',
  "src/path.ts": 'console.log("path", Bun.main === import.meta.path, process.argv[1] === import.meta.path);\n',
};
const entries = { migrate: "src/migrate.ts", seed: "src/seed.cjs", path: "src/path.ts" };

describe.each<[string, Settings]>([
  ["with the attachment", {}],
  ["without the attachment", { attach: false }],
])("%s", (_, settings) => {
  test.each<[string, string, Files]>([
    ["import.meta.main", "src/main.ts", {}],
    ["require.main === module in CommonJS", "src/main.cjs", { "src/main.cjs": files["src/seed.cjs"]! }],
    [
      "require.main === module in a module",
      "src/main.ts",
      {
        "src/main.ts": 'import { help } from "./helper.ts";\nif (require.main === module) console.log(help("main"));\n',
      },
    ],
    ["Bun.main", "src/path.ts", {}],
    ["a module with a shebang", "src/main.ts", { "src/main.ts": `#!/usr/bin/env bun\n${main}` }],
    ["top-level await", "src/main.ts", { "src/main.ts": `await 1;\n${main}if (!import.meta.main) process.exit(3);\n` }],
  ])("%s is as from source", async (_, entry, changes) => {
    const at = createProject({ ...files, ...changes });
    const { binary } = await build(at, { ...settings, entry });
    const expected = runSource(at, entry);
    expect(expected).toMatch(/^(main|seed|path) ?/);
    expect(run([binary])).toBe(expected);
  });

  test("each of the `entries` is the main module, and no other", async () => {
    const at = createProject(files);
    const { binary } = await build(at, { ...settings, entry: "src/main.ts", entries });
    expect(run([binary])).toBe("main\n");
    expect(run([binary, "migrate", "--to", "3"])).toBe("migrate --to,3\n");
    expect(run([binary, "seed"])).toBe("seed 1\n");
    expect(run([binary, "path"])).toBe("path true true\n");
    for (const [name, module] of Object.entries(entries)) {
      expect(run([binary, name, "--to", "3"])).toBe(runSource(at, module, ["--to", "3"]));
    }
  });
});

test("the options of Bun that the process sees are those from source", async () => {
  const at = createProject({ "src/main.ts": "console.log(process.execArgv, process.argv.slice(2));\n" });
  const { binary } = await build(at);
  expect(run([binary, "--smol", "-e", "1"])).toBe(runSource(at, "src/main.ts", ["--smol", "-e", "1"]));
});

test("several pages leave the main module what it is", async () => {
  const at = createProject({
    "src/main.ts": `import one from "./one.html";
import two from "./two.html";
console.log(import.meta.main, typeof one, typeof two);
`,
    "src/one.html": '<link rel="stylesheet" href="./one.css"><p>1</p>',
    "src/two.html": '<link rel="stylesheet" href="./two.css"><p>2</p>',
    "src/one.css": "p { color: red }",
    "src/two.css": "p { color: blue }",
  });
  const { binary, warnings } = await build(at);
  expect(warnings).toEqual([]);
  expect(run([binary])).toBe("true object object\n");
});
