/** Tests code and data that a service or its packages open by path: built, and run with the image as the root. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { findSharedLibraries } from "../image/image-spec.ts";
import { collectInputs, computeImageId } from "../image/inputs.ts";
import type { Settings } from "../index.d.ts";
import { build, createProject, runImage, runSource, type Files } from "./built-service.ts";

setDefaultTimeout(60_000);

interface Case {
  files: Files;
  settings?: Settings;
  /** Output of the service, from source and from the image. */
  output: string;
  /** Beginnings of the expected warnings. */
  warnings?: string[];
}

/** Builds a service, and compares the image with its source. @returns the project */
async function check({ files, settings = {}, output, warnings = [] }: Case): Promise<string> {
  const at = createProject(files);
  expect(runSource(at, "src/main.ts")).toBe(output);
  const built = await build(at, { entry: "src/main.ts", attach: false, ...settings });
  expect(runImage(built.binary)).toBe(output);
  expect(built.warnings.map((warning, i) => warning.slice(0, warnings[i]?.length))).toEqual(warnings);
  return at;
}

const report = "const done = (data: unknown) => { console.log(data); process.exit(); };\n";
const helper = { "src/helper.ts": "export const helper: string = import.meta.file.slice(0, 0) + 'helped';\n" };

describe("code that is run by path", () => {
  const worker = 'import { helper } from "./helper.ts";\npostMessage(helper + 1);\n';
  const threads =
    'const { parentPort } = require("node:worker_threads");\nparentPort.postMessage("thread " + require("node:path").basename(__filename));\n';
  test.each<[string, Case]>([
    [
      "a worker of a URL",
      {
        files: {
          ...helper,
          "src/w.ts": worker,
          "src/main.ts": `${report}new Worker(new URL("./w.ts", import.meta.url)).onmessage = ({ data }) => done(data);\nexport {};\n`,
        },
        output: "helped1\n",
      },
    ],
    [
      "a worker relative to the working directory, in a module that reads its arguments",
      {
        files: {
          ...helper,
          "src/w.ts": worker,
          "src/main.ts": `${report}console.log(process.argv.length);\nnew Worker("./src/w.ts").onmessage = ({ data }) => done(data);\n`,
        },
        output: "2\nhelped1\n",
      },
    ],
    [
      "a worker thread of a CommonJS module",
      {
        files: {
          "src/t.cjs": threads,
          "src/main.ts":
            `import { Worker as T } from "node:worker_threads";\nimport path from "node:path";\n${report}const file = path.join(__dirname, "t.cjs");\nnew Worker2(file).on("message", done);\n`.replace(
              "Worker as T",
              "Worker as Worker2",
            ),
        },
        output: "thread t.cjs\n",
      },
    ],
    [
      "a module that starts itself as a worker",
      {
        files: {
          "src/main.ts":
            'import { isMainThread, parentPort, Worker } from "node:worker_threads";\nimport { fileURLToPath } from "node:url";\nif (isMainThread) new Worker(fileURLToPath(import.meta.url)).on("message", (data) => { console.log(data); process.exit(); });\nelse parentPort!.postMessage("self");\n',
        },
        output: "self\n",
      },
    ],
    [
      "a worker that starts another one",
      {
        files: {
          "src/main.ts": `${report}new Worker(new URL("jobs/a.ts", import.meta.url)).onmessage = ({ data }) => done(data);\nexport {};\n`,
          "src/jobs/a.ts":
            'declare var self: Worker;\nnew Worker(new URL("./b.ts", import.meta.url).href).onmessage = ({ data }) => postMessage("a" + data);\n',
          "src/jobs/b.ts": 'postMessage("b");\n',
        },
        output: "ab\n",
      },
    ],
    [
      "an import of a URL",
      {
        files: {
          ...helper,
          "src/lazy.ts": 'export { helper } from "./helper.ts";\n',
          "src/main.ts":
            'const { helper } = await import(new URL("./lazy.ts", import.meta.url).href);\nconsole.log(helper);\n',
        },
        output: "helped\n",
      },
    ],
    [
      "a process of a literal path",
      {
        files: {
          ...helper,
          "src/main.ts":
            'import { fork } from "node:child_process";\nconst job = fork("./src/job.ts", ["a"]);\njob.on("message", (text) => console.log(text));\njob.on("exit", (code) => console.log("exit", code));\n',
          "src/job.ts":
            'import { basename } from "node:path";\nimport { helper } from "./helper.ts";\nprocess.send!([helper, basename(process.argv[1]!), ...process.argv.slice(2)].join());\nprocess.on("message", () => {});\nsetTimeout(() => process.exit(3), 100);\n',
        },
        output: "helped,job.ts,a\nexit 3\n",
      },
    ],
    [
      "a process of a URL, with health endpoints attached",
      {
        files: {
          "src/main.ts":
            'import { fork } from "node:child_process";\nimport { fileURLToPath } from "node:url";\nfork(fileURLToPath(new URL("./job.mjs", import.meta.url))).on("exit", (code) => process.exit(code ?? 9));\nprocess.on("exit", (code) => console.log(code));\n',
          "src/job.mjs": "process.exitCode = 0;\n",
        },
        settings: { attach: true },
        output: "0\n",
      },
    ],
    [
      "a child of the executable",
      {
        files: {
          "src/main.ts":
            'const { stdout } = Bun.spawnSync([process.execPath, "./src/job.ts", "x"]);\nconsole.log(stdout.toString().trim());\n',
          "src/job.ts": 'console.log("job", process.argv[2]);\n',
        },
        output: "job x\n",
      },
    ],
  ])("works: %s", async (_, one) => void (await check(one)));

  test("changes the ID, and its own warnings are shown", async () => {
    const files: Files = {
      "src/main.ts": 'new Worker(new URL("./w.ts", import.meta.url));\n',
      "src/w.ts": 'import "./deep.ts";\n',
      "src/deep.ts": "console.log(1);\n",
    };
    const inputs = (more: Files = {}) => {
      const service = resolveService(createProject({ ...files, ...more }), { attach: false, entry: "src/main.ts" });
      return collectInputs(service, findSharedLibraries()).then(async (found) => ({
        found,
        id: await computeImageId(service, findSharedLibraries(), found),
      }));
    };
    const first = await inputs();
    expect((await inputs()).id).toBe(first.id);
    expect((await inputs({ "src/w.ts": 'import "./deep.ts";\nconsole.log(2);\n' })).id).not.toBe(first.id);
    expect((await inputs({ "src/deep.ts": "console.log(3);\n" })).id).not.toBe(first.id);
    const { found } = await inputs({ "src/deep.ts": "const f = process.argv[2]!;\nnew Worker(f);\n" });
    expect(found.warnings).toEqual([
      expect.stringMatching(
        /^src\/deep.ts:2 starts a worker of a path that is known only at run time .*: new Worker\(f\)/,
      ),
    ]);
  });

  test.each([
    'import { Worker } from "bullmq";\nconst queue = "a";\nnew Worker(queue, () => {});\n',
    'new Worker(URL.createObjectURL(new Blob(["postMessage(1)"])));\n',
  ])("is not warned of for %s", async (code) => {
    const at = createProject({ "src/main.ts": code, "node_modules/bullmq/index.js": "exports.Worker = class {};\n" });
    const { warnings } = await collectInputs(
      resolveService(at, { attach: false, entry: "src/main.ts" }),
      findSharedLibraries(),
    );
    expect(warnings).toEqual([]);
  });
});

describe("files of the service", () => {
  const reading = (expression: string): Files => ({
    "src/main.ts": `import { join, dirname } from "node:path";\nimport { fileURLToPath } from "node:url";\nconst name = process.env.NAME ?? "/a.txt";\nvoid [join, dirname, fileURLToPath, name];\nconsole.log(await Bun.file(${expression}).text());\n`,
    "public/a.txt": "a",
  });
  const expressions = [
    '"./public" + name',
    "`./public/${name}`",
    "`${import.meta.dir}/../public/a.txt`",
    'join(dirname(fileURLToPath(import.meta.url)), "..", "public", "a.txt")',
    'new URL("../public/a.txt", import.meta.url)',
    'join(process.cwd(), "public", name)',
  ];
  test.each(expressions)("are warned of with file and line: %s", async (expression) => {
    const at = createProject(reading(expression));
    const warningsOf = async (files: string[]) =>
      (await collectInputs(resolveService(at, { attach: false, entry: "src/main.ts", files }), findSharedLibraries()))
        .warnings;
    expect(await warningsOf([])).toEqual([
      expect.stringMatching(/^src\/main\.ts:5 opens public(\/a\.txt)?, which is not in the image: add "public/),
    ]);
    expect(await warningsOf(["public"])).toEqual([]);
  });

  test("are found through the module's own directory, which exists in the image", async () => {
    await check({
      files: reading("`${import.meta.dir}/../public/a.txt`"),
      settings: { files: ["public"] },
      output: "a\n",
    });
  });

  test.each<[string, string]>([
    [
      "a choice",
      'const path = process.argv.length > 2 ? process.argv[2]! : "config.js";\nconsole.log(readFileSync(path, "utf8"));',
    ],
    [
      "a choice of text",
      'const path = process.argv.length > 2 ? process.argv[2]! : "config.json";\nconsole.log(readFileSync(path, "utf8"));',
    ],
    ["a property", 'const defaults = { config: "config.js" };\nconsole.log(readFileSync(defaults.config, "utf8"));'],
  ])("data is no code, whatever its name ends with: %s", async (_, code) => {
    const files: Files = {
      "src/main.ts": `import { readFileSync } from "node:fs";\n${code}\n`,
      "config.js": '{\n  "port": 7777\n}',
      "config.json": '{\n  "port": 7777\n}',
    };
    const name = code.includes("config.json") ? "config.json" : "config.js";
    const warning = [`src/main.ts:2 opens ${name}, which is not in the image`];
    const inputs = await collectInputs(
      resolveService(createProject(files), { attach: false, entry: "src/main.ts" }),
      findSharedLibraries(),
    );
    expect(inputs.warnings.map((text) => text.slice(0, warning[0]!.length))).toEqual(warning);
    await check({ files, settings: { files: [name] }, output: '{\n  "port": 7777\n}\n' });
  });

  test.each<[string, string, string[]]>([
    ["a directory of a property", 'serveStatic({ root: "public" });', ["src/main.ts:3 opens public"]],
    ["a directory of sirv", 'const sirv = serveStatic;\nsirv("public");', ["src/main.ts:4 opens public"]],
    ["a directory of koa-static", 'const serve = serveStatic;\nserve("public");', ["src/main.ts:4 opens public"]],
    [
      "the module's directory",
      "serveStatic({ root: import.meta.dir + process.argv[2] });",
      ["src/main.ts:3 makes a path of its own place"],
    ],
    ["a word that is no path", 'if (process.argv[2] === "public") console.log("public");', []],
    ["a file that does not exist", 'serveStatic({ root: "./later" });', []],
    ["a database", 'serveStatic({ root: "./data.sqlite" });', []],
    ["a comment", '// serveStatic({ root: "./public" });', []],
  ])("warnings for %s", async (_, code, expected) => {
    const at = createProject({
      "src/main.ts": `const serveStatic = (options: object | string) => console.log(options);\nserveStatic({});\n${code}\nexport {};\n`,
      "public/a.txt": "a",
      "data.sqlite": "",
    });
    const { warnings } = await collectInputs(
      resolveService(at, { attach: false, entry: "src/main.ts" }),
      findSharedLibraries(),
    );
    expect(warnings).toEqual(expected.map((text) => expect.stringContaining(text)));
  });
});

describe("files of packages", () => {
  test("a package's directory is its own, never the service's", async () => {
    const at = await check({
      files: {
        "src/main.ts": 'import { list } from "docs-ui";\nconsole.log(list());\n',
        "config/private.json": "{}",
        "node_modules/docs-ui/package.json": '{"name":"docs-ui","version":"1.0.0"}',
        "node_modules/docs-ui/index.js":
          'const { existsSync } = require("fs");\nexports.list = () => existsSync(__dirname + "/config/private.json") + " " + __filename.endsWith("/node_modules/docs-ui/index.js");\n',
      },
      settings: { files: ["config"] },
      output: "false true\n",
    });
    expect(existsSync(join(at, "dist/app/srv/config/private.json"))).toBe(true);
  });

  const pkg = (code: string, more: Files = {}): Files => ({
    "src/main.ts": 'import { read } from "pack";\nconsole.log(await read());\n',
    "node_modules/pack/package.json": '{"name":"pack","version":"1.2.3","main":"lib/index.js"}',
    "node_modules/pack/lib/index.js": code,
    "node_modules/pack/data/a.txt": "data",
    ...more,
  });
  test.each<[string, Files, string]>([
    [
      "__dirname",
      pkg('exports.read = () => require("fs").readFileSync(__dirname + "/../data/a.txt", "utf8");\n'),
      "data\n",
    ],
    [
      "a URL",
      pkg(
        'import { readFileSync } from "fs";\nexport const read = () => readFileSync(new URL("../data/a.txt", import.meta.url), "utf8");\n',
      ),
      "data\n",
    ],
    [
      "createRequire",
      pkg(
        'import { createRequire } from "module";\nexport const read = () => createRequire(import.meta.url)("../package.json").version;\n',
      ),
      "1.2.3\n",
    ],
    [
      "a directory of modules that it lists and loads",
      pkg(
        'const found = [];\nrequire("fs").readdirSync(__dirname + "/types").forEach((name) => found.push(require(__dirname + "/types/" + name)));\nexports.read = () => found.join();\n',
        {
          "node_modules/pack/lib/types/a.js": 'module.exports = "a";\n',
          "node_modules/pack/lib/types/b.js": 'module.exports = "b";\n',
        },
      ),
      "a,b\n",
    ],
    [
      "code in directories that are named like documents, tests and examples",
      pkg(
        'const { readFileSync } = require("fs");\nexports.read = () => readFileSync(__dirname + "/../data/" + (global.file || "a.txt"), "utf8") + require("./doc/d.js") + require("./test/t") + require("other");\n',
        {
          "node_modules/pack/lib/doc/d.js": 'module.exports = "d";\n',
          "node_modules/pack/lib/test/t/index.js": 'module.exports = "t";\n',
          "node_modules/pack/package.json":
            '{"name":"pack","version":"1.0.0","main":"lib/index.js","dependencies":{"other":"1.0.0"}}',
          "node_modules/other/package.json": '{"name":"other","version":"1.0.0","main":"dist/index.js"}',
          "node_modules/other/dist/index.js": 'module.exports = require("./examples/e.js");\n',
          "node_modules/other/dist/examples/e.js": 'module.exports = "e";\n',
        },
      ),
      "datadte\n",
    ],
    [
      "a list of files that it resolves and reads",
      pkg(
        'const code = ["../lib/a.js", "./b.js"].map((file) => require("fs").readFileSync(require.resolve(file), "utf8")).join("");\nexports.read = new Function(code + "return () => a + b;")();\n',
        { "node_modules/pack/lib/a.js": "var a = 1;\n", "node_modules/pack/lib/b.js": "var b = 2;\n" },
      ),
      "3\n",
    ],
    [
      "a map of modules that it resolves and loads",
      pkg(
        'const files = { a: "../stores/a" + ".js" };\nconst known = ["../stores/a.js"];\nexports.read = (key = known[0] && "a") => require(require.resolve(files[key]));\n',
        { "node_modules/pack/stores/a.js": 'module.exports = "store";\n' },
      ),
      "store\n",
    ],
    [
      "a worker of its own",
      pkg(
        'const { Worker } = require("worker_threads");\nexports.read = () => new Promise((done) => new Worker(require("path").join(__dirname, "worker.js")).on("message", done));\n',
        {
          "node_modules/pack/lib/worker.js": 'require("worker_threads").parentPort.postMessage(require("other"));\n',
          "node_modules/pack/package.json":
            '{"name":"pack","version":"1.0.0","main":"lib/index.js","dependencies":{"other":"1"}}',
          "node_modules/other/index.js": 'module.exports = "other";\n',
          "node_modules/other/package.json": '{"name":"other","version":"1.0.0"}',
        },
      ),
      "other\n",
    ],
  ])("are in the image: by %s", async (_, files, output) => void (await check({ files, output })));

  const path = 'const path_1 = require("path"), { readFileSync, readdirSync } = require("fs");\n';
  test.each<[string, Files, string]>([
    [
      "of an unknown name in a known directory",
      pkg(
        `${path}exports.read = (name = "a") => readFileSync((0, path_1.join)(__dirname, "../data", name + ".txt"), "utf8");\n`,
      ),
      "data\n",
    ],
    [
      "beside the module, by its directory",
      pkg(`${path}exports.read = () => readdirSync(path_1.resolve(__dirname)).includes("style.css");\n`, {
        "node_modules/pack/lib/style.css": "a {}",
      }),
      "true\n",
    ],
    [
      "in a directory that a variable can replace",
      pkg(
        `${path}const data = path_1.resolve(__dirname, global.dataDir || process.env.PACK_DATA || "../data/");\nexports.read = () => readdirSync(data);\n`,
      ),
      '[ "a.txt" ]\n',
    ],
    [
      "by the package's own imports",
      pkg(
        'import { createRequire } from "module";\nconst load = createRequire(import.meta.url);\nexport const read = () => load("#font");\n',
        {
          "node_modules/pack/package.json":
            '{"name":"pack","version":"1.0.0","main":"lib/index.js","imports":{"#font":"./lib/font.cjs"}}',
          "node_modules/pack/lib/font.cjs": 'module.exports = "font";\n',
        },
      ),
      "font\n",
    ],
    // Like socket.io, whose compiled code serves the client's script and its source map.
    [
      "scripts for browsers, read by a function of an import",
      pkg(
        `${path}const fs_1 = require("fs");\nexports.read = (name = "client.js") => [name, name + ".map"].map((file) => (0, fs_1.readFileSync)(path_1.join(__dirname, "../client/", file), "utf8")).join(" ");\n`,
        { "node_modules/pack/client/client.js": "browser", "node_modules/pack/client/client.js.map": "map" },
      ),
      "browser map\n",
    ],
    [
      "scripts below the package's directory, whose path another function reads",
      pkg(
        `${path}exports.read = (name = "client.js") => { const file = path_1.join(__dirname, "../client/", name); return readFileSync(file, "utf8"); };\n`,
        { "node_modules/pack/client/client.js": "browser" },
      ),
      "browser\n",
    ],
    [
      "scripts beside the module, read by an optional call",
      pkg(`${path}exports.read = (name = "/part.js") => readFileSync?.(__dirname + name, "utf8");\n`, {
        "node_modules/pack/lib/part.js": "part",
      }),
      "part\n",
    ],
  ])("make the package unbundled: %s", async (_, files, output) => {
    const at = await check({ files, output });
    expect(existsSync(join(at, "dist/app/node_modules/pack/package.json"))).toBe(true);
  });

  test("a package with its path, but without data, stays bundled", async () => {
    const at = await check({
      files: pkg(`${path}exports.read = () => path_1.basename(path_1.dirname(__dirname));\n`),
      output: "pack\n",
    });
    expect(existsSync(join(at, "dist/app/node_modules/pack/package.json"))).toBe(false);
  });
});

describe("`nativePackages`", () => {
  const plugin: Files = {
    "src/main.ts": 'const name = process.env.PLUGIN ?? "plugin";\nconsole.log(require(name));\n',
    "node_modules/plugin/package.json": '{"name":"plugin","version":"1.0.0","dependencies":{"same":"1"}}',
    "node_modules/plugin/index.js": 'module.exports = "plugin " + require("same");\n',
    "node_modules/plugin/node_modules/same/package.json": '{"name":"same","version":"1.0.0"}',
    "node_modules/plugin/node_modules/same/index.js": 'module.exports = "one";\n',
    "node_modules/same/package.json": '{"name":"same","version":"2.0.0"}',
    "node_modules/same/index.js": 'module.exports = "two";\n',
  };
  test("copies a package that is not imported, with its nested version of another one", async () => {
    const main =
      'const name = process.env.PLUGIN ?? "plugin";\nimport same from "same";\nconsole.log(require(name), same);\n';
    await check({
      files: { ...plugin, "src/main.ts": main },
      settings: { nativePackages: ["plugin", "same"] },
      output: "plugin one two\n",
      warnings: ["src/main.ts:3 loads"],
    });
  });

  test("keeps two versions that two packages import", async () => {
    const files: Files = {
      ...plugin,
      "src/main.ts": 'import plugin from "plugin";\nimport same from "same";\nconsole.log(plugin, same);\n',
    };
    const at = await check({ files, settings: { nativePackages: ["same"] }, output: "plugin one two\n" });
    expect(readFileSync(join(at, "dist/app/node_modules/same/index.js"), "utf8")).toContain("two");
  });

  test.each<[string, string, boolean]>([
    ["a dependency that a string names is copied", '"dependencies":{"engine":"1"}', true],
    ["a package that no dependency names is not copied", '"devDependencies":{"engine":"1"}', false],
  ])("%s", async (_, dependencies, isCopied) => {
    const main = 'import { render } from "host";\nconsole.log(render({ engine: "engine" }));\n';
    const host = "exports.render = ({ engine }) => { try { return require(engine); } catch { return 'none'; } };\n";
    const files: Files = {
      "package.json": `{"name":"small",${dependencies}}`,
      "src/main.ts": main,
      "node_modules/host/package.json": '{"name":"host","version":"1.0.0"}',
      "node_modules/host/index.js": host,
      "node_modules/engine/package.json": '{"name":"engine","version":"1.0.0"}',
      "node_modules/engine/index.js": 'module.exports = "rendered";\n',
    };
    const at = createProject(files);
    const { binary } = await build(at, { entry: "src/main.ts", attach: false });
    expect(runImage(binary)).toBe(isCopied ? "rendered\n" : "none\n");
  });

  test("names the package to add if it is not installed", async () => {
    const at = createProject(plugin);
    const result = collectInputs(
      resolveService(at, { entry: "src/main.ts", nativePackages: ["pino-pretty"] }),
      findSharedLibraries(),
    );
    expect(result).rejects.toMatchObject({
      kind: "project",
      message: expect.stringContaining("pino-pretty"),
      hint: expect.stringContaining("bun add pino-pretty"),
    });
  });
});
