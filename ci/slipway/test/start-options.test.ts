/** The image keeps the options of Bun that the script `start` and bunfig.toml have, or names them. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readStartOptions } from "../core/start-options.ts";
import { build, createProject, removeProjects, run, runSource, type Files } from "./built-service.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

const entry = "src/index.ts";
function project(start: string, files: Files = {}): string {
  const manifest = JSON.stringify({ name: "small", scripts: { start } });
  return createProject({ "package.json": manifest, [entry]: "", "src/a.ts": "", "src/b.ts": "", ...files });
}
const read = (start: string, files?: Files) => readStartOptions({ project: project(start, files), entry });

describe("reads", () => {
  test.each<[string, object]>([
    ["bun src/index.ts", {}],
    ["bun run ./src/index.ts --port 3000 --define x:1", {}],
    ["bun --watch --hot --inspect=9229 --silent -b src/index.ts", {}],
    [
      "bun --smol --title shop --console-depth=4 src/index.ts",
      { execArgv: ["--smol", "--title=shop", "--console-depth=4"] },
    ],
    [`bun --define process.env.X:"'a b'" -d Y=1 src/index.ts`, { define: { "process.env.X": "'a b'", Y: "1" } }],
    [
      "bun --conditions react-server,x --drop console src/index.ts",
      { conditions: ["react-server", "x"], drop: ["console"] },
    ],
    ["bun --loader .sql:text src/index.ts", { loader: { ".sql": "text" } }],
    ["bun run migrate && bun --smol src/index.ts", { execArgv: ["--smol"] }],
    ["bun --smol src/other.ts", {}],
    ["node --max-old-space-size=4096 --enable-source-maps src/index.ts", {}],
    ["NODE_ENV=production exec bun src/index.ts", {}],
  ])("%s", (start, expected) => {
    const none = { define: {}, conditions: [], drop: [], loader: {}, execArgv: [], warnings: [] };
    expect(read(start)).toMatchObject({ ...none, preloads: { all: [], main: [] }, ...expected });
  });

  test.each([
    ["bun --preload ./src/a.ts -r src/b.ts src/index.ts", {}, [], ["src/a.ts", "src/b.ts"]],
    ["bun --import=./src/a.ts src/index.ts", {}, [], ["src/a.ts"]],
    ["node --import ./src/a.ts src/index.ts", {}, [], ["src/a.ts"]],
    ["bun src/index.ts", { "bunfig.toml": 'preload = ["./src/b.ts", "./src/a.ts"]\n' }, ["src/b.ts", "src/a.ts"], []],
    [
      "bun src/index.ts",
      { "bunfig.toml": 'preload = "./src/b.ts"\n[test]\npreload = ["./src/a.ts"]\n' },
      ["src/b.ts"],
      [],
    ],
  ])("preloads of %s %p", (start, files, all, main) => {
    const at = project(start, files);
    const { preloads } = readStartOptions({ project: at, entry });
    const relative = (paths: string[]) => paths.map((path) => path.slice(at.length + 1));
    expect({ all: relative(preloads.all), main: relative(preloads.main) }).toEqual({ all, main });
  });

  test("names what the image leaves out", () => {
    expect(read("TZ=UTC NODE_ENV=production bun --env-file=.env.production src/index.ts").warnings).toEqual([
      "the script start sets TZ, and the image does not: set it in the manifests",
      "the script start reads .env.production, and the image reads no such file: set its variables in the manifests",
    ]);
  });

  test("stops with the name of an option that the image cannot have", () => {
    for (const option of ["--tsconfig-override=x.json", "--jsx-runtime", "--no-such-option"]) {
      expect(() => read(`bun ${option} src/index.ts`)).toThrow(`has the option ${option.split("=")[0]}, which`);
    }
    expect(() => read("bun --preload ./no.ts src/index.ts")).toThrow("names ./no.ts, which was not found");
  });
});

describe("in the image", () => {
  const shared: Files = {
    "src/state.ts": 'export const state: string[] = [];\nstate.push("state");\n',
    "src/a.ts": 'import { state } from "./state.ts";\nstate.push("a");\n(globalThis as any).serve = Bun.serve;\n',
    "src/b.ts": 'import { state } from "./state.ts";\nawait 1;\nstate.push("b");\n',
    "src/index.ts":
      'import { state } from "./state.ts";\nstate.push("index");\nif (import.meta.main) console.log(state.join());\n',
    "src/migrate.ts":
      'import { state } from "./state.ts";\nif (import.meta.main) console.log("migrate", state.join());\n',
  };
  test.each([
    ["with the attachment", {}],
    ["without the attachment", { attach: false }],
  ])("preloads run first, in order, and share modules, %s", async (_, settings) => {
    const at = project("bun --preload ./src/b.ts src/index.ts", {
      ...shared,
      "bunfig.toml": 'preload = ["./src/a.ts"]\n',
    });
    const { binary } = await build(at, { ...settings, entry, entries: { migrate: "src/migrate.ts" } });
    expect(run([binary])).toBe("state,a,b,index\n");
    expect(run([binary])).toBe(runSource(at, entry, [], ["--preload", "./src/b.ts"]));
    expect(run([binary, "migrate"])).toBe(runSource(at, "src/migrate.ts"));
  });

  test("definitions, conditions, dropped calls, loaders and options at run time", async () => {
    const start = `bun --smol --define WORD:"'defined'" --conditions special --drop debug --loader .sql:text src/index.ts`;
    const at = project(start, {
      "src/index.ts": `import { kind } from "conditional";
import sql from "./q.sql";
declare const WORD: string;
debug();
console.log(WORD, kind, sql.trim(), process.execArgv.includes("--smol"));
`,
      "src/q.sql": "select 1\n",
      "node_modules/conditional/package.json":
        '{"name":"conditional","version":"1.0.0","exports":{"special":"./special.js","default":"./plain.js"}}',
      "node_modules/conditional/special.js": 'export const kind = "special";\n',
      "node_modules/conditional/plain.js": 'export const kind = "plain";\n',
    });
    const { binary } = await build(at, { entry });
    expect(run([binary])).toBe("defined special select 1 true\n");
  });
});
