/** What slipway finds out about a service that says nothing of itself, and what it refuses. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf, resolveService } from "../core/service-config.ts";
import type { Settings } from "../index.d.ts";

let directory: string;
beforeAll(async () => void (directory = await realpath(await mkdtemp(join(tmpdir(), "slipway-service-")))));
afterAll(() => rm(directory, { recursive: true }));

/** Lays out a project, in a directory of that name. */
async function project(
  packageJson: object,
  files: string[] = ["src/main.ts"],
  name = "project",
): Promise<string> {
  const at = join(await mkdtemp(join(directory, "at-")), name);
  for (const path of ["package.json", ...files]) {
    await mkdir(dirname(join(at, path)), { recursive: true });
    await writeFile(join(at, path), path === "package.json" ? JSON.stringify(packageJson) : "");
  }
  return at;
}

function failureOf(at: string, settings: Settings = {}): PipelineError {
  try {
    resolveService(at, settings);
  } catch (error) {
    return error as PipelineError;
  }
  return expect.unreachable();
}

test("all is found out of package.json, the rest has defaults", async () => {
  const at = await project({
    name: "@team/shop",
    version: "1.2.3",
    description: "Sells.",
    license: "ISC",
    scripts: { check: "x", test: "x" },
  });
  expect(resolveService(at)).toEqual({
    project: at,
    root: at,
    name: "shop",
    version: "1.2.3",
    description: "Sells.",
    license: "ISC",
    namespace: "shop",
    entry: "src/main.ts",
    port: 8080,
    attach: true,
    scripts: { check: "check", test: "test" },
    overlays: { k3s: "k8s/overlays/k3s", registry: "k8s/overlays/registry" },
    versionPath: "/version",
    entries: {},
    prebuild: [],
    files: [],
    nativePackages: [],
    external: [],
    define: {},
    publicEnv: "",
    plugins: [],
    bun: undefined,
    smokeEnv: {},
    hosts: [],
    keepVersions: 5,
    readyTimeoutSeconds: 6,
    scheduleTimeoutSeconds: 4,
    rolloutTimeoutSeconds: 120,
  });
  expect(cacheDirectoryOf(resolveService(at))).toBe(join(at, "node_modules/.cache/slipway"));
});

test("a setting is taken as it is; of overlays and scripts one may be given alone", async () => {
  const at = await project({ name: "shop", scripts: { check: "x", test: "x", lint: "x" } }, [
    "src/main.ts",
    "x.ts",
  ]);
  const settings: Required<Settings> = {
    name: "till",
    namespace: "market",
    entry: "x.ts",
    port: 3000,
    attach: false,
    license: "MIT",
    scripts: { check: "lint" },
    overlays: { registry: "deploy/prod" },
    versionPath: "/about",
    entries: { migrate: "src/main.ts" },
    prebuild: ["build:pages"],
    files: ["public"],
    nativePackages: ["sharp"],
    external: ["pg-native"],
    define: { X: "1" },
    publicEnv: "PUBLIC_",
    plugins: [{}],
    bun: "1.4.5",
    smokeEnv: { A: "1" },
    hosts: ["deploy@shop.example"],
    keepVersions: 2,
    readyTimeoutSeconds: 60,
    scheduleTimeoutSeconds: 90,
    rolloutTimeoutSeconds: 600,
  };
  expect(resolveService(at, settings)).toMatchObject({
    ...settings,
    scripts: { check: "lint", test: "test" },
    overlays: { k3s: "k8s/overlays/k3s", registry: "deploy/prod" },
  });
  expect(resolveService(at, { name: "till" }).namespace).toBe("till");
});

describe("the name", () => {
  test.each([
    [{ name: "shop" }, "shop"],
    [{ name: "@team/shop" }, "shop"],
    [{ name: "My_Shop.js" }, "my-shop-js"],
    [{ name: "2nd-shop-" }, "nd-shop"],
    [{ name: `${"a".repeat(62)}-b` }, "a".repeat(62)],
    [{}, "a-place"],
  ])("of %p is %s", async (packageJson, name) => {
    expect(resolveService(await project(packageJson, ["src/main.ts"], "A place")).name).toBe(name);
  });

  test.each<[string, Settings, string]>([
    ["none at all", {}, 'the service\'s name ""'],
    ["capital letters", { name: "Shop" }, 'name "Shop"'],
    ["dots", { name: "shop.js" }, 'name "shop.js"'],
    ["64 letters", { name: "a".repeat(64) }, "at most 63"],
    ["a namespace that is none", { name: "shop", namespace: "my shop" }, 'namespace "my shop"'],
  ])("%s: refused, naming it", async (_, settings, words) => {
    const error = failureOf(await project({ name: "123" }), settings);
    expect(error.kind).toBe("project");
    expect(error.message).toContain(words);
    expect(error.hint).toContain("ci/pipeline.ts");
  });
});

describe("the entry", () => {
  const all = [
    "src/main.ts",
    "src/index.ts",
    "src/server.ts",
    "index.ts",
    "server.js",
    "lib/x.mjs",
    "app/y.tsx",
  ];
  test.each<[string, object, files: string[], entry: string]>([
    ["src/main.ts, where nothing says so", {}, all, "src/main.ts"],
    ["src/index.ts, where that is not there", {}, all.slice(1), "src/index.ts"],
    ["index.ts, where there is no src", {}, all.slice(3), "index.ts"],
    ["JavaScript", {}, all.slice(4), "server.js"],
    ["what the script `start` runs", { scripts: { start: "bun lib/x.mjs" } }, all, "lib/x.mjs"],
    [
      "with options and variables around",
      { scripts: { start: "A=1 bun --smol ./app/y.tsx --z" } },
      all,
      "app/y.tsx",
    ],
    ["by `bun run`", { scripts: { start: "bun run lib/x.mjs" } }, all, "lib/x.mjs"],
    ["what `dev` runs", { scripts: { dev: "bun --watch src/server.ts" } }, all, "src/server.ts"],
    [
      "`start` rather than `dev`",
      { scripts: { dev: "bun index.ts", start: "bun lib/x.mjs" } },
      all,
      "lib/x.mjs",
    ],
    ["`module`", { module: "./src/server.ts" }, all, "src/server.ts"],
    ["`main`", { main: "server.js" }, all, "server.js"],
    [
      "not what is not there",
      { main: "gone.js", scripts: { start: "bun dist/main.js" } },
      all,
      "src/main.ts",
    ],
    ["not what another program runs", { scripts: { start: "node lib/x.mjs" } }, all, "src/main.ts"],
    ["not what is no module", { main: "page.html" }, [...all, "page.html"], "src/main.ts"],
  ])("%s", async (_, packageJson, files, entry) => {
    expect(resolveService(await project({ name: "x", ...packageJson }, files)).entry).toBe(entry);
  });

  // Found by this test: the first file of the command is taken, though it is another option's.
  test("not what is loaded before it", async () => {
    const packageJson = { name: "x", scripts: { start: "bun --preload ./lib/x.mjs src/server.ts" } };
    expect(resolveService(await project(packageJson, all)).entry).toBe("src/server.ts");
  });

  test("that is not to be found, or not there: refused, with what to set", async () => {
    const nothing = failureOf(await project({ name: "x" }, []));
    expect(nothing).toMatchObject({ kind: "project", message: expect.stringContaining("set `entry`") });
    const gone = failureOf(await project({ name: "x" }), { entry: "src/gone.ts" });
    expect(gone).toMatchObject({ kind: "project", message: "the entry src/gone.ts is not there" });
  });
});

test.each<[Record<string, string>, check: string | undefined, test: string | undefined]>([
  [{}, undefined, undefined],
  [{ check: "a", typecheck: "b", test: "c", "test:unit": "d" }, "check", "test:unit"],
  [{ typecheck: "b", test: "c" }, "typecheck", "test"],
  [{ test: 'echo "Error: no test specified" && exit 1' }, undefined, undefined],
])("of the scripts %p, those for check and test are %p and %p", async (scripts, check, test) => {
  expect(resolveService(await project({ name: "x", scripts })).scripts).toEqual({ check, test });
});

describe("the root is", () => {
  async function member(workspaces: unknown, path: string, root: object = {}) {
    const at = await project({ name: "all", workspaces, ...root }, [`${path}/src/main.ts`]);
    await writeFile(join(at, path, "package.json"), '{"name":"one"}');
    return { at, found: resolveService(join(at, path)) };
  }

  test.each<[string, unknown, string]>([
    ["a pattern", ["services/*"], "services/one"],
    ["a name", ["./services/one"], "services/one"],
    ["a deep pattern", ["services/**"], "services/a/b"],
    ["the long form", { packages: ["services/*"] }, "services/one"],
  ])("that of the workspace with the service as a member: by %s", async (_, workspaces, path) => {
    const { at, found } = await member(workspaces, path);
    expect(found).toMatchObject({ root: at, project: join(at, path) });
  });

  test.each<[string, unknown, string]>([
    ["has other members", ["libraries/*"], "services/one"],
    ["has it too deep for its pattern", ["services/*"], "services/a/b"],
    ["has none", undefined, "services/one"],
  ])("the service's own directory, where what is above %s", async (_, workspaces, path) => {
    const { at, found } = await member(workspaces, path);
    expect(found.root).toBe(join(at, path));
  });

  // Found by this test: the pattern that takes members away matches all that it does not take away.
  test("the service's own directory, where what is above leaves others out", async () => {
    const { at, found } = await member(["libraries/*", "!libraries/old"], "services/one");
    expect(found.root).toBe(join(at, "services/one"));
  });

  // Found by this test: a package.json that is none of the service's business ends the command.
  test("the service's own directory, whatever nonsense is above", async () => {
    const { at } = await member(undefined, "services/one");
    await writeFile(join(at, "package.json"), "nonsense");
    expect(resolveService(join(at, "services/one")).root).toBe(join(at, "services/one"));
  });

  test("where the files are, also by way of a link", async () => {
    const at = await project({ name: "x" });
    const link = join(directory, "link");
    await symlink(at, link);
    expect(resolveService(link)).toMatchObject({ project: at, root: at });
  });
});

test("a package.json that is not there, or is no JSON: refused, naming it", async () => {
  const at = await project({ name: "x" });
  await writeFile(join(at, "package.json"), "{");
  expect(failureOf(at)).toMatchObject({
    kind: "project",
    message: expect.stringContaining(join(at, "package.json")),
  });
  const nowhere = failureOf(join(at, "nowhere"));
  expect(nowhere).toMatchObject({
    kind: "project",
    message: `there is no ${join(at, "nowhere/package.json")}`,
  });
});
