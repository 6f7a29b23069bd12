/** The image's id: what has to change it, and what must not. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { resolveService } from "../core/service-config.ts";
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

/** What every project here has; its entry imports one file. */
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

/** A service with nothing attached, unless a test says so: what is looked at is its own. */
const describeOwn = (at: string, settings: Settings = {}) =>
  resolveService(at, { attach: false, ...settings });

async function idOf(files: Files, settings: Settings = {}, libc?: string): Promise<string> {
  return computeImageId(describeOwn(await project(files), settings), await runtime(libc));
}

/** Whether another content of `path` makes another id. */
async function counts(files: Files, path: string, content: string): Promise<boolean> {
  return (await idOf(files)) !== (await idOf({ ...files, [path]: content }));
}

test("is 12 hex digits, the same for the same inputs in another place", async () => {
  const [one, other] = [await idOf({}), await idOf({})];
  expect(one).toMatch(/^[0-9a-f]{12}$/);
  expect(other).toBe(one);
});

test("is the same from whichever directory it is asked", async () => {
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

test("each input is another id, and moving a byte from one file to the next is too", async () => {
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

test("another Bun or another platform is another image", async () => {
  const service = describeOwn(await project({}));
  const one = await runtime();
  const ids = [
    await computeImageId(service, one),
    await computeImageId(service, { ...one, bunBuildId: "baseline" }),
    await computeImageId(service, { ...one, platform: { os: "linux", architecture: "arm64" } }),
  ];
  expect(new Set(ids).size).toBe(3);
});

test("what nothing opens does not count", async () => {
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
    // Of a directory that nothing is imported from.
    "test/tsconfig.json": "{}",
  };
  expect(await idOf(unread)).toBe(await idOf({}));
});

test("nor does what is imported for its types alone", async () => {
  const main = 'import type { T } from "./types.ts";\nconst t: T = 1;\nconsole.log(t);\n';
  const files = { "src/main.ts": main, "src/types.ts": "export type T = number;\n" };
  expect(await counts(files, "src/types.ts", "export type T = 1;\n")).toBe(false);
});

describe("what is imported counts, whatever it is", () => {
  const importing = (statement: string) => ({ "src/main.ts": `${statement}\nconsole.log(x);\n` });
  test.each<[string, Files, path: string]>([
    [
      "a module of a module",
      { "src/a.ts": 'export * from "./deep/b.ts"; export const a = 1;' },
      "src/deep/b.ts",
    ],
    ["a module when it is needed", importing('const x = await import("./b.ts");'), "src/b.ts"],
    ["a module for its effects", { "src/main.ts": 'import "./b.ts";\n' }, "src/b.ts"],
    ["a module that is required", importing('const x = require("./b.ts");'), "src/b.ts"],
    ["a text", importing('import x from "./b.sql" with { type: "text" };'), "src/b.sql"],
    ["a file", importing('import x from "./b.bin" with { type: "file" };'), "src/b.bin"],
    ["JSON", importing('import x from "./b.json";'), "src/b.json"],
    ["TOML", importing('import x from "./b.toml";'), "src/b.toml"],
    [
      "a file above the source",
      importing('import x from "../assets/b.txt" with { type: "text" };'),
      "assets/b.txt",
    ],
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

  // Found by this test: the bundler does not name what it runs at build time among its inputs.
  test("a macro, which runs when it is bundled", async () => {
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
  ])("of a page: %s", async (path, content) => {
    expect(await counts(page, path, content)).toBe(true);
  });

  test("an installed package, but not its unused files, and wherever node_modules lies", async () => {
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
    expect(await computeImageId(describeOwn(linked), own)).toBe(
      await computeImageId(describeOwn(elsewhere), own),
    );
  });
});

describe("a member of a workspace", () => {
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
    ["its own file", "services/one/src/main.ts"],
    ["its own package.json", "services/one/package.json"],
    ["its own tsconfig", "services/one/tsconfig.json"],
    ["its own bunfig", "services/one/bunfig.toml"],
    ["a file of the member that it imports", "libraries/shared/deep.ts"],
    ["the tsconfig of that member", "libraries/shared/tsconfig.json"],
    ["the workspace's package.json", "package.json"],
    ["the workspace's lockfile", "bun.lock"],
    ["the workspace's bunfig", "bunfig.toml"],
  ])("%s counts", async (_, path) => {
    const before = files[path] ?? (path.endsWith("tsconfig.json") ? "{}" : "");
    expect(await idOfMember({ [path]: `${before}\n` })).not.toBe(await idOfMember({ [path]: before }));
  });

  test.each(["services/two/src/main.ts", "services/two/package.json", "libraries/shared/unused.ts"])(
    "%s does not",
    async (path) => {
      expect(await idOfMember({ [path]: `${files[path]}\n` })).toBe(await idOfMember({}));
    },
  );
});

describe("the tsconfig", () => {
  const own = (content: object) => ({ "tsconfig.json": JSON.stringify(content) });

  test("of the source's own directory is the one that counts", async () => {
    expect(await counts({ "src/tsconfig.json": "{}" }, "src/tsconfig.json", "{ }")).toBe(true);
  });

  test.each<[string, Files, path: string]>([
    ["extended", own({ extends: "./base.json" }), "base.json"],
    ["extended without its ending", own({ extends: "./config/base" }), "config/base.json"],
    ["the last of several that are extended", own({ extends: ["./one.json", "./two.json"] }), "two.json"],
    [
      "extended by the one that is extended",
      { ...own({ extends: "./one.json" }), "one.json": '{ // why\n "extends": "./config/two.json", }' },
      "config/two.json",
    ],
    ["of a package", own({ extends: "base/tsconfig.json" }), "node_modules/base/tsconfig.json"],
  ])("%s counts", async (_, files, path) => {
    const all = { "one.json": "{}", "two.json": "{}", ...files, [path]: "{}" };
    expect(await counts(all, path, '{ "compilerOptions": {} }')).toBe(true);
  });

  // Found by this test: what is there under its own name counts, whatever it ends in; Bun takes it so.
  test("extended by a name that does not end in .json counts", async () => {
    const files = { ...own({ extends: "./base.jsonc" }), "base.jsonc": "{}" };
    expect(await counts(files, "base.jsonc", '{ "compilerOptions": {} }')).toBe(true);
  });

  test("that extends itself, or what is not there, is no reason to hang or to fail", async () => {
    for (const content of ['{"extends":"./tsconfig.json"}', '{"extends":"nowhere/x.json"}']) {
      const { files } = await collectInputs(
        describeOwn(await project({ "tsconfig.json": content })),
        findSharedLibraries(),
      );
      expect([...files.keys()]).toContain("tsconfig.json");
    }
  });

  test("that is no JSON is said to be so, with its place", async () => {
    const error = await idOf({ "tsconfig.json": "nonsense {" }).catch((error: PipelineError) => error);
    expect(error).toMatchObject({ kind: "project", output: expect.stringContaining("tsconfig.json:1:1") });
  });
});

test("a setting that decides how it is compiled is in the entry's name, too: another entry is another image", async () => {
  const files = { "src/other.ts": least["src/main.ts"]! };
  expect(await idOf(files, { entry: "src/other.ts" })).not.toBe(await idOf(files));
});

test("source that does not bundle: the change's fault, with the place", async () => {
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

test("its inputs are named by their places in the project, each with its file", async () => {
  const at = await project({ "tsconfig.json": "{}" });
  const { files } = await collectInputs(describeOwn(at), findSharedLibraries());
  const paths = ["bun.lock", "package.json", "src/a.ts", "src/main.ts", "tsconfig.json"];
  expect([...files.keys()].sort()).toEqual(paths);
  for (const [path, file] of files) expect(file).toBe(join(at, path));
});

describe("the paths that a service answers itself", () => {
  const ownOf = async (files: Files, settings: Settings = {}) =>
    (await collectInputs(resolveService(await project(files), settings), findSharedLibraries())).ownPaths;
  const answering = (text: string) => ({ "src/a.ts": `export const a = () => ${text};\n` });

  test.each<[string, string[]]>([
    ['["/x", "/", "/readyz/more"]', []],
    ['({ "/readyz": 1 })', ["/readyz"]],
    ["({ '/healthz': 1 }['/version'])", ["/version", "/healthz"]],
    ["`/readyz`", ["/readyz"]],
  ])("of a source with %s are %p", async (text, own) => {
    expect(await ownOf(answering(text))).toEqual(own);
  });

  test("are those that would be attached, and looked for in its own source alone", async () => {
    expect(await ownOf(answering('"/version" + "/about"'), { versionPath: "/about" })).toEqual(["/about"]);
    expect(await ownOf(answering('"/readyz"'), { attach: false })).toEqual([]);
    const files = {
      "src/main.ts": 'import { x } from "tiny";\nconsole.log(x);\n',
      "node_modules/tiny/package.json": '{"name":"tiny","version":"1.0.0","main":"index.js"}',
      "node_modules/tiny/index.js": 'export const x = "/readyz";\n',
      "src/unread.ts": 'export const x = "/readyz";\n',
    };
    expect(await ownOf(files)).toEqual([]);
  });
});
