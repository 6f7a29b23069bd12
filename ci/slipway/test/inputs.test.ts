/** Tests which changes affect the image ID. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { resolveService } from "../core/resolve-service.ts";
import { findSharedLibraries, type RuntimeLibraries } from "../image/image-spec.ts";
import { computeImageId, collectInputs } from "../image/inputs.ts";
import type { Settings } from "../index.d.ts";

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "slipway-inputs-"))));
afterAll(() => rm(directory, { recursive: true }));

type Files = Record<string, string>;

async function layOut(at: string, files: Files): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(at, path)), { recursive: true });
    await writeFile(join(at, path), content);
  }
}

/** Files of every test project. The entry imports one file. */
const least: Files = {
  "package.json": '{"name":"x"}',
  "bun.lock": "",
  "src/main.ts": 'import { a } from "./a.ts";\nconsole.log(a);\n',
  "src/a.ts": "export const a = Math.random();\n",
};

async function project(files: Files): Promise<string> {
  const at = await mkdtemp(join(directory, "project-"));
  await layOut(at, { ...least, ...files });
  return at;
}

const platform = { os: "linux", architecture: "amd64" } as const;

async function runtime(libc = "libc"): Promise<RuntimeLibraries> {
  const file = join(await mkdtemp(join(directory, "libc-")), "libc");
  await writeFile(file, libc);
  return { platform, bun: "bun", root: "/", bunBuildId: "b", files: new Map([["/lib/libc", file]]) };
}

/** Resolves a service without attached endpoints by default, so that only its own code is an input. */
const describeOwn = (at: string, settings: Settings = {}) => resolveService(at, { attach: false, ...settings });

async function idOf(files: Files, settings: Settings = {}, libc?: string): Promise<string> {
  return computeImageId(describeOwn(await project(files), settings), await runtime(libc));
}

/** Whether another content of `path` changes the ID. */
async function counts(files: Files, path: string, content: string): Promise<boolean> {
  return (await idOf(files)) !== (await idOf({ ...files, [path]: content }));
}

test("is 12 hex digits, and equal for equal inputs in another directory", async () => {
  const [one, other] = [await idOf({}), await idOf({})];
  expect(one).toMatch(/^[0-9a-f]{12}$/);
  expect(other).toBe(one);
});

test("does not depend on the working directory", async () => {
  const at = await project({ "tsconfig.json": "{}" });
  const inputs = join(import.meta.dir, "../image/inputs.ts");
  const [service, own] = [describeOwn(at), await runtime()];
  const script = `import { computeImageId } from ${JSON.stringify(inputs)};
    const files = new Map(${JSON.stringify([...own.files])});
    console.log(await computeImageId(${JSON.stringify(service)}, { ...${JSON.stringify(own)}, files }));`;
  for (const cwd of ["/", at, join(at, "src")]) {
    const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", script], { cwd });
    expect(stdout.toString().trim(), stderr.toString()).toBe(await computeImageId(service, own));
  }
});

test("changes with each input, and if a byte moves to the next file", async () => {
  const ids = [
    await idOf({}),
    await idOf({ "src/main.ts": `${least["src/main.ts"]}// edited\n` }),
    await idOf({ "src/a.ts": "export const a = 1;\n" }),
    await idOf({ "package.json": '{"name":"x" }' }),
    await idOf({ "bun.lock": "x" }),
    await idOf({ "bunfig.toml": "" }),
    await idOf({ "tsconfig.json": "{}" }),
    await idOf({}, {}, "another libc"),
    await idOf({}, { port: 9090 }),
    await idOf({}, { attach: true }),
    await idOf({}, { name: "y" }),
    await idOf({ "src/main.ts": `${least["src/main.ts"]}\n`, "src/a.ts": least["src/a.ts"]!.slice(0, -1) }),
  ];
  expect(new Set(ids).size).toBe(ids.length);
});

test("changes with the Bun build and the platform", async () => {
  const service = describeOwn(await project({}));
  const one = await runtime();
  const ids = [
    await computeImageId(service, one),
    await computeImageId(service, { ...one, bunBuildId: "baseline" }),
    await computeImageId(service, { ...one, platform: { os: "linux", architecture: "arm64" } }),
  ];
  expect(new Set(ids).size).toBe(3);
});

test("does not depend on unused files", async () => {
  const unread: Files = {
    "README.md": "x",
    "src/README.md": "x",
    "src/b.ts": "export const b = 1;",
    "src/.hidden": "x",
    "src/a.test.ts": "x",
    "test/a.test.ts": "x",
    "ci/x.ts": "x",
    "k8s/base/x.yaml": "x",
    Dockerfile: "x",
    ".env": "A=1",
    "node_modules/unused/index.js": "x",
    // A directory without imported files.
    "test/tsconfig.json": "{}",
  };
  expect(await idOf(unread)).toBe(await idOf({}));
});

test("does not depend on type-only imports", async () => {
  const main = 'import type { T } from "./types.ts";\nconst t: T = 1;\nconsole.log(t);\n';
  const files = { "src/main.ts": main, "src/types.ts": "export type T = number;\n" };
  expect(await counts(files, "src/types.ts", "export type T = 1;\n")).toBe(false);
});

describe("depends on imports", () => {
  const importing = (statement: string) => ({ "src/main.ts": `${statement}\nconsole.log(x);\n` });
  test.each<[string, Files, path: string]>([
    ["a module of a module", { "src/a.ts": 'export * from "./deep/b.ts"; export const a = 1;' }, "src/deep/b.ts"],
    ["a dynamic import", importing('const x = await import("./b.ts");'), "src/b.ts"],
    ["a side-effect import", { "src/main.ts": 'import "./b.ts";\n' }, "src/b.ts"],
    ["a required module", importing('const x = require("./b.ts");'), "src/b.ts"],
    ["a text", importing('import x from "./b.sql" with { type: "text" };'), "src/b.sql"],
    ["a file", importing('import x from "./b.bin" with { type: "file" };'), "src/b.bin"],
    ["JSON", importing('import x from "./b.json";'), "src/b.json"],
    ["TOML", importing('import x from "./b.toml";'), "src/b.toml"],
    ["a file above the source", importing('import x from "../assets/b.txt" with { type: "text" };'), "assets/b.txt"],
    ["package.json", importing('import x from "../package.json";'), "package.json"],
  ])("%s", async (_, files, path) => {
    const content = (number: number) =>
      /json$/.test(path)
        ? `{"name":"x","b":${number}}`
        : /toml$/.test(path)
          ? `b = ${number}`
          : `export default ${number};`;
    expect(await counts({ ...files, [path]: content(1) }, path, content(2))).toBe(true);
  });

  // Found by this test: the bundler does not list macros among its inputs.
  test("a macro", async () => {
    const files = importing('import { m } from "./m.ts" with { type: "macro" };\nconst x = m();');
    const macro = (n: number) => `export const m = () => ${n};\n`;
    expect(await counts({ ...files, "src/m.ts": macro(1) }, "src/m.ts", macro(2))).toBe(true);
  });

  const page: Files = {
    ...importing('import x from "./page.html";'),
    "src/page.html": `<!doctype html><html><head><link rel="stylesheet" href="./style.css"></head>
      <body><img src="./logo.svg"><script type="module" src="./client.ts"></script></body></html>`,
    "src/style.css": '@import "./more.css"; body { background: url("./back.png") }',
    "src/more.css": "p { color: red }",
    "src/back.png": "png 1",
    "src/logo.svg": "<svg></svg>",
    "src/client.ts": 'import { b } from "./b.ts";\nconsole.log(b);\n',
    "src/b.ts": "export const b = 1;\n",
  };
  test.each([
    ["src/page.html", "<!doctype html><html></html>"],
    ["src/style.css", '@import "./more.css"; body { background: url("./back.png"); color: red }'],
    ["src/more.css", "p { color: blue }"],
    ["src/back.png", "png 2"],
    ["src/logo.svg", "<svg> </svg>"],
    ["src/client.ts", 'import { b } from "./b.ts";\nconsole.log(b, b);\n'],
    ["src/b.ts", "export const b = 2;\n"],
  ])("a file of a page: %s", async (path, content) => {
    expect(await counts(page, path, content)).toBe(true);
  });

  test("an installed package without its unused files, at any location of node_modules", async () => {
    const files = {
      ...importing('import { x } from "tiny";'),
      "node_modules/tiny/package.json": '{"name":"tiny","version":"1.0.0","main":"index.js"}',
      "node_modules/tiny/index.js": "export const x = 1;\n",
      "node_modules/tiny/unused.js": "",
    };
    expect(await counts(files, "node_modules/tiny/index.js", "export const x = 2;\n")).toBe(true);
    expect(await counts(files, "node_modules/tiny/unused.js", "x")).toBe(false);
    const { "node_modules/tiny/index.js": index, ...rest } = files;
    const linked = await project(rest);
    await rm(join(linked, "node_modules"), { recursive: true });
    const elsewhere = await project(files);
    await symlink(join(elsewhere, "node_modules"), join(linked, "node_modules"));
    expect(index).toBeString();
    const own = await runtime();
    expect(await computeImageId(describeOwn(linked), own)).toBe(await computeImageId(describeOwn(elsewhere), own));
  });
});

describe("of a workspace member", () => {
  const files: Files = {
    "package.json": '{"name":"all","workspaces":["services/*","libraries/*"]}',
    "services/one/package.json": '{"name":"one","dependencies":{"shared":"workspace:*"}}',
    "services/one/src/main.ts": 'import { shared } from "shared";\nconsole.log(shared);\n',
    "services/two/package.json": '{"name":"two"}',
    "services/two/src/main.ts": "console.log(2);\n",
    "libraries/shared/package.json": '{"name":"shared","module":"index.ts"}',
    "libraries/shared/index.ts": 'export { shared } from "./deep.ts";\n',
    "libraries/shared/deep.ts": "export const shared = Math.random();\n",
    "libraries/shared/unused.ts": "",
  };
  async function idOfMember(changes: Files): Promise<string> {
    const at = await project({ ...files, ...changes });
    await mkdir(join(at, "node_modules"));
    await symlink("../libraries/shared", join(at, "node_modules/shared"));
    return computeImageId(describeOwn(join(at, "services/one")), await runtime());
  }

  test.each([
    ["a file of the member", "services/one/src/main.ts"],
    ["package.json of the member", "services/one/package.json"],
    ["tsconfig of the member", "services/one/tsconfig.json"],
    ["bunfig of the member", "services/one/bunfig.toml"],
    ["a file of an imported member", "libraries/shared/deep.ts"],
    ["tsconfig of an imported member", "libraries/shared/tsconfig.json"],
    ["the workspace's package.json", "package.json"],
    ["the workspace's lockfile", "bun.lock"],
    ["the workspace's bunfig", "bunfig.toml"],
  ])("%s counts", async (_, path) => {
    const before = files[path] ?? (path.endsWith("tsconfig.json") ? "{}" : "");
    expect(await idOfMember({ [path]: `${before}\n` })).not.toBe(await idOfMember({ [path]: before }));
  });

  test.each(["services/two/src/main.ts", "services/two/package.json", "libraries/shared/unused.ts"])(
    "does not depend on %s",
    async (path) => {
      expect(await idOfMember({ [path]: `${files[path]}\n` })).toBe(await idOfMember({}));
    },
  );
});

describe("depends on the tsconfig", () => {
  const own = (content: object) => ({ "tsconfig.json": JSON.stringify(content) });

  test("in the source directory", async () => {
    expect(await counts({ "src/tsconfig.json": "{}" }, "src/tsconfig.json", "{ }")).toBe(true);
  });

  test.each<[string, Files, path: string]>([
    ["extended", own({ extends: "./base.json" }), "base.json"],
    ["extended without .json", own({ extends: "./config/base" }), "config/base.json"],
    ["the last of several bases", own({ extends: ["./one.json", "./two.json"] }), "two.json"],
    [
      "a base of the base",
      { ...own({ extends: "./one.json" }), "one.json": '{ // why\n "extends": "./config/two.json", }' },
      "config/two.json",
    ],
    ["in a package", own({ extends: "base/tsconfig.json" }), "node_modules/base/tsconfig.json"],
  ])("%s counts", async (_, files, path) => {
    const all = { "one.json": "{}", "two.json": "{}", ...files, [path]: "{}" };
    expect(await counts(all, path, '{ "compilerOptions": {} }')).toBe(true);
  });

  // Found by this test: Bun reads a base that exists under its exact name, with any extension.
  test("extended by a name without .json", async () => {
    const files = { ...own({ extends: "./base.jsonc" }), "base.jsonc": "{}" };
    expect(await counts(files, "base.jsonc", '{ "compilerOptions": {} }')).toBe(true);
  });

  test("and accepts one that extends itself or a missing file", async () => {
    for (const content of ['{"extends":"./tsconfig.json"}', '{"extends":"nowhere/x.json"}']) {
      const { files } = await collectInputs(
        describeOwn(await project({ "tsconfig.json": content })),
        findSharedLibraries(),
      );
      expect([...files.keys()]).toContain("tsconfig.json");
    }
  });

  test("and reports invalid JSON with its location", async () => {
    const error = await idOf({ "tsconfig.json": "nonsense {" }).catch((error: PipelineError) => error);
    expect(error).toMatchObject({ kind: "project", output: expect.stringContaining("tsconfig.json:1:1") });
  });
});

test("changes with the entry, even if the content is equal", async () => {
  const files = { "src/other.ts": least["src/main.ts"]! };
  expect(await idOf(files, { entry: "src/other.ts" })).not.toBe(await idOf(files));
});

test("source that does not bundle is a project error with the location", async () => {
  for (const [content, words] of [
    ["const = ;\n", "src/main.ts:1"],
    ['import "./nowhere.ts";\n', "nowhere.ts"],
  ]) {
    const error = await idOf({ "src/main.ts": content! }).catch((error: PipelineError) => error);
    expect(error).toBeInstanceOf(PipelineError);
    expect(error).toMatchObject({ kind: "project", message: "the source does not compile" });
    expect((error as PipelineError).output).toContain(words!);
  }
});

test("inputs are named by their path in the project", async () => {
  const at = await project({ "tsconfig.json": "{}" });
  const { files } = await collectInputs(describeOwn(at), findSharedLibraries());
  const paths = ["bun.lock", "package.json", "src/a.ts", "src/main.ts", "tsconfig.json"];
  expect([...files.keys()].sort()).toEqual(paths);
  for (const [path, file] of files) expect(file).toBe(join(at, path));
});
