/** Tests the detection of a service's configuration, and the errors for invalid settings. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf, resolveService } from "../core/resolve-service.ts";
import type { Settings } from "../index.d.ts";

let directory: string;
beforeAll(async () => void (directory = await realpath(await mkdtemp(join(tmpdir(), "slipway-service-")))));
afterAll(() => rm(directory, { recursive: true }));

/** Creates a project with empty files in a directory of that name. */
async function project(packageJson: object, files: string[] = ["src/main.ts"], name = "project"): Promise<string> {
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

test("package.json determines the configuration, and the rest has defaults", async () => {
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
    isPortSet: false,
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
    env: {},
    secrets: [],
    hosts: [],
    identity: undefined,
    keepVersions: 5,
    readyTimeoutSeconds: 6,
    scheduleTimeoutSeconds: 4,
    rolloutTimeoutSeconds: 120,
  });
  expect(cacheDirectoryOf(resolveService(at))).toBe(join(at, "node_modules/.cache/slipway"));
});

test("settings override the detected values, and single overlays or scripts can be set", async () => {
  const at = await project({ name: "shop", scripts: { check: "x", test: "x", lint: "x" } }, ["src/main.ts", "x.ts"]);
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
    env: { LEVEL: "info" },
    secrets: ["KEY", { TOKEN: ["pass", "show", "token"] }],
    hosts: ["deploy@shop.example"],
    identity: "till-1",
    keepVersions: 2,
    readyTimeoutSeconds: 60,
    scheduleTimeoutSeconds: 90,
    rolloutTimeoutSeconds: 600,
  };
  expect(resolveService(at, settings)).toMatchObject({
    ...settings,
    secrets: [{ name: "KEY" }, { name: "TOKEN", command: ["pass", "show", "token"] }],
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
    [{}, "a-directory"],
  ])("of %p is %s", async (packageJson, name) => {
    expect(resolveService(await project(packageJson, ["src/main.ts"], "A directory")).name).toBe(name);
  });

  test.each<[string, Settings, string]>([
    ["empty", {}, 'invalid name ""'],
    ["capital letters", { name: "Shop" }, 'name "Shop"'],
    ["dots", { name: "shop.js" }, 'name "shop.js"'],
    ["64 letters", { name: "a".repeat(64) }, "at most 63"],
    ["an invalid namespace", { name: "shop", namespace: "my shop" }, 'namespace "my shop"'],
  ])("%s: rejected with the value in the message", async (_, settings, words) => {
    const error = failureOf(await project({ name: "123" }), settings);
    expect(error.kind).toBe("project");
    expect(error.message).toContain(words);
    expect(error.hint).toContain("ci/pipeline.ts");
  });
});

describe("the entry", () => {
  const all = ["src/main.ts", "src/index.ts", "src/server.ts", "index.ts", "server.js", "lib/x.mjs", "app/y.tsx"];
  test.each<[string, object, files: string[], entry: string]>([
    ["src/main.ts by default", {}, all, "src/main.ts"],
    ["src/index.ts if src/main.ts is missing", {}, all.slice(1), "src/index.ts"],
    ["index.ts without a src directory", {}, all.slice(3), "index.ts"],
    ["JavaScript", {}, all.slice(4), "server.js"],
    ["the module that the script `start` runs", { scripts: { start: "bun lib/x.mjs" } }, all, "lib/x.mjs"],
    [
      "a module between options and variables",
      { scripts: { start: "A=1 bun --smol ./app/y.tsx --z" } },
      all,
      "app/y.tsx",
    ],
    ["a module that `bun run` starts", { scripts: { start: "bun run lib/x.mjs" } }, all, "lib/x.mjs"],
    ["the module that `dev` runs", { scripts: { dev: "bun --watch src/server.ts" } }, all, "src/server.ts"],
    ["`start` rather than `dev`", { scripts: { dev: "bun index.ts", start: "bun lib/x.mjs" } }, all, "lib/x.mjs"],
    ["`module`", { module: "./src/server.ts" }, all, "src/server.ts"],
    ["`main`", { main: "server.js" }, all, "server.js"],
    ["not a missing file", { main: "gone.js", scripts: { start: "bun dist/main.js" } }, all, "src/main.ts"],
    ["not a module that another program runs", { scripts: { start: "node lib/x.mjs" } }, all, "src/main.ts"],
    ["not a file that is not a module", { main: "page.html" }, [...all, "page.html"], "src/main.ts"],
  ])("%s", async (_, packageJson, files, entry) => {
    expect(resolveService(await project({ name: "x", ...packageJson }, files)).entry).toBe(entry);
  });

  // Regression test: the first file of the command was used, even as the value of an option.
  test("not a preloaded module", async () => {
    const packageJson = { name: "x", scripts: { start: "bun --preload ./lib/x.mjs src/server.ts" } };
    expect(resolveService(await project(packageJson, all)).entry).toBe("src/server.ts");
  });

  test("an undetected or missing entry is rejected with a hint", async () => {
    const nothing = failureOf(await project({ name: "x" }, []));
    expect(nothing).toMatchObject({ kind: "project", message: expect.stringContaining("no entry found") });
    const gone = failureOf(await project({ name: "x" }), { entry: "src/gone.ts" });
    expect(gone).toMatchObject({ kind: "project", message: "entry src/gone.ts not found" });
  });
});

test.each<[Record<string, string>, check: string | undefined, test: string | undefined]>([
  [{}, undefined, undefined],
  [{ check: "a", typecheck: "b", test: "c", "test:unit": "d" }, "check", "test:unit"],
  [{ typecheck: "b", test: "c" }, "typecheck", "test"],
  [{ test: 'echo "Error: no test specified" && exit 1' }, undefined, undefined],
])("with the scripts %p, check runs %p and test runs %p", async (scripts, check, test) => {
  expect(resolveService(await project({ name: "x", scripts })).scripts).toEqual({ check, test });
});

describe("the root", () => {
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
  ])("is the root of the workspace that has the service as a member: %s", async (_, workspaces, path) => {
    const { at, found } = await member(workspaces, path);
    expect(found).toMatchObject({ root: at, project: join(at, path) });
  });

  test.each<[string, unknown, string]>([
    ["other members", ["libraries/*"], "services/one"],
    ["a pattern that the path is too deep for", ["services/*"], "services/a/b"],
    ["no members", undefined, "services/one"],
  ])("is the service's directory if the directory above has %s", async (_, workspaces, path) => {
    const { at, found } = await member(workspaces, path);
    expect(found.root).toBe(join(at, path));
  });

  // Regression test: an exclusion pattern matched all other paths.
  test("is the service's directory if the workspace above excludes other members", async () => {
    const { at, found } = await member(["libraries/*", "!libraries/old"], "services/one");
    expect(found.root).toBe(join(at, "services/one"));
  });

  // Regression test: an unrelated invalid package.json stopped the command.
  test("is the service's directory if package.json above is invalid", async () => {
    const { at } = await member(undefined, "services/one");
    await writeFile(join(at, "package.json"), "nonsense");
    expect(resolveService(join(at, "services/one")).root).toBe(join(at, "services/one"));
  });

  test("resolves symbolic links", async () => {
    const at = await project({ name: "x" });
    const link = join(directory, "link");
    await symlink(at, link);
    expect(resolveService(link)).toMatchObject({ project: at, root: at });
  });
});

test("a missing or invalid package.json is rejected with its path", async () => {
  const at = await project({ name: "x" });
  await writeFile(join(at, "package.json"), "{");
  expect(failureOf(at)).toMatchObject({
    kind: "project",
    message: expect.stringContaining(join(at, "package.json")),
  });
  const nowhere = failureOf(join(at, "nowhere"));
  expect(nowhere).toMatchObject({
    kind: "project",
    message: `${join(at, "nowhere/package.json")} not found`,
  });
});
