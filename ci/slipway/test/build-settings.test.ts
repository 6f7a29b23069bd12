/** Tests the effect of settings on the build inputs. e2e/settings.test.ts runs the binaries. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { resolveService } from "../core/resolve-service.ts";
import { bundleOptions, explainBundleError } from "../image/bundle-options.ts";
import { findSharedLibraries, type RuntimeLibraries } from "../image/image-spec.ts";
import { computeImageId, collectInputs } from "../image/inputs.ts";
import { listPackageFiles, findNativePackages } from "../image/native-packages.ts";
import type { Settings } from "../index.d.ts";
import { assertSupportedBun, assertNoShadowingBun, assertPinnedBun } from "../cli/bun-version.ts";

type Files = Record<string, string>;

const signal = new AbortController().signal;
let directory: string;
let runtime: RuntimeLibraries;
beforeAll(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "slipway-settings-")));
  const libc = join(directory, "libc");
  writeFileSync(libc, "libc");
  const platform = { os: "linux", architecture: "amd64" } as const;
  runtime = { platform, bun: "bun", root: "/", bunBuildId: "b", files: new Map([["/lib/libc", libc]]) };
});
afterAll(() => rmSync(directory, { recursive: true }));

const least: Files = { "package.json": '{"name":"x"}', "src/main.ts": "console.log(1);\n" };

function project(files: Files): string {
  const at = mkdtempSync(join(directory, "project-"));
  for (const [path, content] of Object.entries({ ...least, ...files })) {
    mkdirSync(dirname(join(at, path)), { recursive: true });
    writeFileSync(join(at, path), content);
  }
  return at;
}

/** Resolves a service without attached endpoints, so that only its own code is bundled. */
const describeOwn = (files: Files, settings: Settings = {}) =>
  resolveService(project(files), { attach: false, ...settings });

const inputs = (files: Files, settings: Settings = {}) => collectInputs(describeOwn(files, settings), runtime);

async function failureOf(work: () => unknown): Promise<PipelineError> {
  try {
    await work();
  } catch (error) {
    return error as PipelineError;
  }
  return expect.unreachable();
}

/** Runs a bundle. @returns its output */
async function runBundled(files: Files, settings: Settings = {}, args: string[] = []): Promise<string> {
  const service = describeOwn(files, settings);
  const options = await bundleOptions(service);
  const { outputs } = await explainBundleError(() =>
    Bun.build({ ...options, bytecode: false, sourcemap: "none", outdir: join(service.project, "dist") }),
  );
  const entry = outputs.find(({ kind }) => kind === "entry-point")!.path;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, entry, ...args]);
  return stdout.toString() + stderr.toString();
}

describe("name", () => {
  test.each(["srv", "lib64", "tmp"])("%s is refused, because it is a directory in the image", async (name) => {
    const service = describeOwn({ "src/main.ts": "" }, { name });
    const error = await failureOf(() => computeImageId(service, runtime));
    expect(error).toMatchObject({
      kind: "project",
      message: expect.stringContaining(`/${name} is a directory`),
    });
  });
});

describe("entries", () => {
  const files: Files = {
    "src/main.ts": 'console.log("main", process.argv.slice(2).join());\n',
    "src/migrate.ts": 'console.log("migrate", process.argv.slice(2).join());\n',
    "src/job.ts": 'await Bun.sleep(1);\nconsole.log("job");\n',
  };
  const settings = { entries: { migrate: "src/migrate.ts", "clean-up": "src/job.ts" } };

  test.each([
    [[], "main"],
    [["other", "migrate"], "main other,migrate"],
    [["migrate"], "migrate"],
    [["migrate", "--to", "3"], "migrate --to,3"],
    [["clean-up"], "job"],
    // Keys that every object has are not entries.
    [["constructor"], "main constructor"],
    [["toString"], "main toString"],
    [["__proto__"], "main __proto__"],
  ])("%p runs %p", async (args, said) => {
    expect((await runBundled(files, settings, args)).trim()).toBe(said);
  });

  test("each is an input, with its name", async () => {
    const { files: found } = await inputs(files, settings);
    expect([...found.keys()]).toEqual(expect.arrayContaining(["src/migrate.ts", "src/job.ts"]));
    const ids = [{}, { entries: { migrate: "src/migrate.ts" } }, { entries: { m: "src/migrate.ts" } }].map((settings) =>
      computeImageId(describeOwn(files, settings), runtime),
    );
    expect(new Set(await Promise.all(ids)).size).toBe(ids.length);
  });

  test("a missing file is refused", async () => {
    const error = await failureOf(() => describeOwn({}, { entries: { migrate: "src/gone.ts" } }));
    expect(error).toMatchObject({ kind: "project", message: "entry src/gone.ts not found" });
  });
});

describe("files", () => {
  const files: Files = {
    "public/a.txt": "a",
    "public/deep/b c.txt": "b",
    "public/.well-known/x": "x",
    "public/node_modules/y/z": "z",
    "templates/one.html": "1",
    "templates/one.css": "1",
    LICENSE: "l",
  };
  const below = async (patterns: string[]) =>
    [...(await inputs(files, { files: patterns })).appFiles.keys()].map((path) => path.replace(/^srv\//, "")).sort();

  test.each([
    [["public"], ["public/.well-known/x", "public/a.txt", "public/deep/b c.txt"]],
    [["public/"], ["public/.well-known/x", "public/a.txt", "public/deep/b c.txt"]],
    [["./public"], ["public/.well-known/x", "public/a.txt", "public/deep/b c.txt"]],
    [
      ["templates/*.html", "LICENSE"],
      ["LICENSE", "templates/one.html"],
    ],
    [["{public,templates}/*.{txt,css}"], ["public/a.txt", "templates/one.css"]],
  ])("%p matches %p", async (patterns, found) => {
    expect(await below(patterns)).toEqual(found);
  });

  test("the ID depends on the content and the path of each file", async () => {
    const ids = [files, { ...files, "public/a.txt": "b" }, { ...files, "public/new": "" }].map((files) =>
      computeImageId(describeOwn(files, { files: ["public"] }), runtime),
    );
    expect(new Set(await Promise.all(ids)).size).toBe(ids.length);
  });

  test.each(["nowhere", "templates/*.xml", "/etc/hostname", "../*"])(
    "%s matches no file in the project, which is a project error",
    async (pattern) => {
      const error = await failureOf(() => below([pattern]));
      expect(error).toMatchObject({ kind: "project", message: expect.stringContaining(pattern) });
    },
  );
});

describe("native packages", () => {
  const [architecture, other] = process.arch === "x64" ? (["amd64", "arm64"] as const) : (["arm64", "amd64"] as const);
  const library = [...findSharedLibraries().files.values()].at(-1)!;
  /** Creates an addon from a library, optionally with the other architecture in its header. */
  const addon = (foreign = false) => {
    const bytes = readFileSync(library);
    if (foreign) bytes.writeUInt16LE(architecture === "amd64" ? 183 : 62, 18);
    return bytes as unknown as string;
  };
  const manifest = (name: string, more: object = {}) => JSON.stringify({ name, version: "1.0.0", ...more });
  const entry = (at: string, name: string) => join(at, "node_modules", name, "index.js");
  const named = (at: string, carried: string[] = [], names = ["@scope/has.it"]) =>
    findNativePackages(
      names.map((name) => entry(at, name)),
      carried,
      architecture,
      at,
    );

  const finder: Files = {
    "node_modules/@scope/has.it/package.json": manifest("@scope/has.it", {
      dependencies: { needed: "1" },
      optionalDependencies: { "not-here": "1", "for-musl": "1", "has-for-this": "1" },
    }),
    "node_modules/@scope/has.it/README.md": "no",
    "node_modules/@scope/has.it/lib/x.d.ts": "no",
    "node_modules/@scope/has.it/lib/x.js": "",
    "node_modules/needed/package.json": manifest("needed"),
    "node_modules/for-musl/package.json": manifest("for-musl", { libc: ["musl"] }),
    "node_modules/for-musl/x.node": addon(true),
    "node_modules/has-for-this/package.json": manifest("has-for-this"),
    "node_modules/has-for-this/x.node": addon(),
  };

  test("a package that loads its addon at run time is copied, with its dependencies", () => {
    const at = project(finder);
    const native = named(at);
    const names = ["@scope/has.it", "has-for-this", "needed"];
    expect([...native.packages.keys()].sort()).toEqual(names.map((name) => `node_modules/${name}`));
    expect(native.external.sort()).toEqual(names);
    expect(native.objects).toEqual([join(at, "node_modules/has-for-this/x.node")]);
    expect(
      listPackageFiles(native)
        .map(([path]) => path)
        .sort(),
    ).toEqual([
      "node_modules/@scope/has.it/lib/x.js",
      "node_modules/@scope/has.it/package.json",
      "node_modules/has-for-this/package.json",
      "node_modules/has-for-this/x.node",
      "node_modules/needed/package.json",
    ]);
  });

  test("a package with an embedded addon, or without one, is not copied", () => {
    const at = project(finder);
    const embedded = join(at, "node_modules/has-for-this/x.node");
    const native = findNativePackages([entry(at, "@scope/has.it"), embedded], [], architecture, at);
    expect(native).toEqual({
      packages: new Map(),
      external: [],
      objects: [embedded],
      foreignObjects: new Set(),
    });
    expect(named(at, [], ["needed"])).toEqual({
      packages: new Map(),
      external: [],
      objects: [],
      foreignObjects: new Set(),
    });
  });

  test("another version of a package stays below the package that needs it", () => {
    const nested = "node_modules/needed/node_modules/has-for-this";
    const at = project({
      ...finder,
      "node_modules/needed/package.json": manifest("needed", { dependencies: { "has-for-this": "2" } }),
      [`${nested}/package.json`]: manifest("has-for-this", { version: "2.0.0" }),
    });
    const { packages } = named(at);
    expect(packages.get("node_modules/has-for-this")).toBe(join(at, "node_modules/has-for-this"));
    expect(packages.get(nested)).toBe(join(at, nested));
  });

  test("`nativePackages` copies packages without an addon, and refuses others that are not installed", async () => {
    const at = project(finder);
    for (const imported of [["needed"], []])
      expect([...named(at, ["needed"], imported).packages.keys()]).toEqual(["node_modules/needed"]);
    const error = await failureOf(() => named(at, ["elsewhere"]));
    expect(error).toMatchObject({ kind: "project", message: expect.stringContaining("elsewhere") });
  });

  test.each<[string, Files, words: string[]]>([
    [
      "an addon for another architecture",
      { "node_modules/has-for-this/x.node": addon(true) },
      ["has-for-this/x.node is for " + other, `the image is for ${architecture}`],
    ],
    [
      "a dependency that is not installed",
      { "node_modules/needed/package.json": manifest("needed", { dependencies: { gone: "1" } }) },
      ["gone, which needed needs in the image, is not installed"],
    ],
  ])("%s is refused by name", async (_, changes, words) => {
    const error = await failureOf(() => named(project({ ...finder, ...changes })));
    expect(error).toMatchObject({ kind: "project" });
    for (const word of words) expect(error.message).toContain(word);
  });
});

describe("external", () => {
  const files: Files = {
    "src/main.ts": 'try {\n  await import("not-here");\n} catch {\n  console.log("without");\n}\n',
  };
  test("a missing package is allowed if it is external, otherwise the source does not compile", async () => {
    expect(await runBundled(files, { external: ["not-here"] })).toBe("without\n");
    const required = { "src/main.ts": 'import x from "not-here";\nconsole.log(x);\n' };
    expect((await failureOf(() => inputs(required))).output).toContain("not-here");
    const ids = [["not-here"], ["not-here", "more"]].map((external) =>
      computeImageId(describeOwn(files, { external }), runtime),
    );
    expect(new Set(await Promise.all(ids)).size).toBe(ids.length);
  });
});

describe("define and publicEnv", () => {
  const files: Files = {
    "src/main.ts":
      "declare const EDITION: string;\nconsole.log(EDITION, process.env.PUBLIC_A, process.env.SECRET_A);\n",
  };
  const settings = { define: { EDITION: '"first"' }, publicEnv: "PUBLIC_" };
  const given = ["PUBLIC_A", "PUBLIC_B", "SECRET_A"];
  const withEnv = async <T>(env: Record<string, string>, work: () => Promise<T>): Promise<T> => {
    Object.assign(process.env, env);
    try {
      return await work();
    } finally {
      for (const name of given) delete process.env[name];
    }
  };
  const idWith = (env: Record<string, string>, more: Settings = {}) =>
    withEnv(env, () => computeImageId(describeOwn(files, { ...settings, ...more }), runtime));

  test("the bundle contains definitions and public variables, but no other variables", async () => {
    const options = await withEnv({ PUBLIC_A: 'a "quoted" one', SECRET_A: "secret" }, () =>
      bundleOptions(describeOwn(files, settings)),
    );
    const { outputs } = await Bun.build({ ...options, bytecode: false, sourcemap: "none" });
    const text = await outputs[0]!.text();
    expect(text).toContain('a "quoted" one');
    expect(text).toContain("first");
    expect(text).not.toContain("secret");
  });

  test("the ID depends on definitions and public variables, but not on their order or other variables", async () => {
    const one = await idWith({ PUBLIC_A: "1", PUBLIC_B: "2" });
    expect(await idWith({ PUBLIC_B: "2", PUBLIC_A: "1", SECRET_A: "x" })).toBe(one);
    const others = [
      await idWith({ PUBLIC_A: "2", PUBLIC_B: "2" }),
      await idWith({ PUBLIC_A: "1" }),
      await idWith({ PUBLIC_A: "1", PUBLIC_B: "2" }, { define: { EDITION: '"second"' } }),
      await idWith({ PUBLIC_A: "1", PUBLIC_B: "2" }, { publicEnv: "" }),
    ];
    expect(new Set([one, ...others]).size).toBe(others.length + 1);
  });
});

describe("plugins", () => {
  const plugin = (suffix = "") => `export default {
  name: "shout",
  setup(build) {
    build.onLoad({ filter: /\\.shout$/ }, async ({ path }) => ({
      contents: "export default " + JSON.stringify((await Bun.file(path).text()).toUpperCase() + "${suffix}"),
      loader: "js",
    }));
  },
};
`;
  const files: Files = {
    "src/main.ts": 'import said from "./said.shout";\nconsole.log(said);\n',
    "src/said.shout": "hello",
    "ci/pipeline.ts": 'import "./plugin.js";\n',
    "ci/plugin.js": plugin(),
  };
  const bunfig: Files = { ...files, "bunfig.toml": '[serve.static]\nplugins = ["./ci/plugin.js"]\n' };

  test("of bunfig.toml are used in the build", async () => {
    expect(await runBundled(bunfig)).toBe("HELLO\n");
  });

  test("of the settings are used in the build, and their code is an input", async () => {
    const service = describeOwn(files);
    const { default: own } = await import(join(service.project, "ci/plugin.js"));
    expect(await runBundled(files, { plugins: [own] })).toBe("HELLO\n");
    const { files: found } = await inputs(files, { plugins: [own] });
    expect([...found.keys()]).toEqual(expect.arrayContaining(["ci/pipeline.ts", "ci/plugin.js"]));
    const { files: without } = await inputs({ ...files, "src/main.ts": "" });
    expect([...without.keys()]).not.toContain("ci/pipeline.ts");
  });

  test("of bunfig.toml are inputs with their code", async () => {
    const ids = [bunfig, { ...bunfig, "ci/plugin.js": plugin("!") }].map((files) =>
      computeImageId(describeOwn(files), runtime),
    );
    expect(new Set(await Promise.all(ids)).size).toBe(ids.length);
    const alone = (suffix: string) => ({
      ...bunfig,
      "ci/pipeline.ts": "",
      "ci/plugin.js": plugin(suffix),
    });
    const [one, other] = [
      computeImageId(describeOwn(alone("")), runtime),
      computeImageId(describeOwn(alone("!")), runtime),
    ];
    expect(await one).not.toBe(await other);
  });

  test("a missing or invalid plugin in bunfig.toml is a project error", async () => {
    for (const content of [undefined, "export const x = 1;\n"]) {
      const { "ci/plugin.js": _, ...rest } = bunfig;
      const error = await failureOf(() => inputs({ ...rest, ...(content && { "ci/plugin.js": content }) }));
      expect(error).toMatchObject({ kind: "project", message: expect.stringContaining("ci/plugin.js") });
    }
  });
});

describe("a warning of the bundler", () => {
  test("is reported with its location", async () => {
    const { warnings } = await inputs({
      "src/main.ts": 'import * as a from "./a.ts";\nconsole.log(a.nope);\n',
      "src/a.ts": "export const a = 1;\n",
    });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('"nope" will always be undefined');
    expect(warnings[0]).toContain("src/main.ts:2");
  });
});

describe("the pinned Bun version", () => {
  test.each<[string, Files, Settings, string | undefined]>([
    [".bun-version", { ".bun-version": "1.2.3\n" }, {}, "1.2.3"],
    [".bun-version with a tag", { ".bun-version": "bun-v1.2.3" }, {}, "1.2.3"],
    ["packageManager", { "package.json": '{"name":"x","packageManager":"bun@1.2.3"}' }, {}, "1.2.3"],
    [
      "packageManager with a hash",
      { "package.json": '{"name":"x","packageManager":"bun@1.2.3+sha512.a"}' },
      {},
      "1.2.3",
    ],
    ["another packageManager", { "package.json": '{"name":"x","packageManager":"pnpm@9.0.0"}' }, {}, undefined],
    ["a setting, which takes precedence", { ".bun-version": "1.2.3\n" }, { bun: "1.0.0" }, "1.0.0"],
    ["no pin", {}, {}, undefined],
  ])("is set by %s", (_, files, settings, bun) => {
    expect(describeOwn(files, settings).bun).toBe(bun);
  });

  test("is inherited from the workspace's root", () => {
    const at = project({
      "package.json": '{"name":"all","workspaces":["one"]}',
      ".bun-version": "1.2.3",
      "one/package.json": '{"name":"one"}',
      "one/src/main.ts": "",
    });
    expect(resolveService(join(at, "one")).bun).toBe("1.2.3");
    writeFileSync(join(at, "one/.bun-version"), "1.2.4");
    expect(resolveService(join(at, "one")).bun).toBe("1.2.4");
  });

  test("must be the running version, otherwise an environment error shows the right command", async () => {
    assertPinnedBun(describeOwn({}));
    assertPinnedBun(describeOwn({}, { bun: Bun.version }));
    const error = await failureOf(() => assertPinnedBun(describeOwn({}, { bun: "1.99.0" })));
    expect(error).toMatchObject({
      kind: "environment",
      message: expect.stringContaining(`pins Bun 1.99.0, but Bun ${Bun.version} is running`),
      hint: expect.stringContaining("npx -y bun@1.99.0 ci/pipeline.ts"),
    });
  });

  test("must not be older than the supported version, and the hint does not suggest an older one", async () => {
    const error = await failureOf(() => assertPinnedBun(describeOwn({}, { bun: "1.0.0" })));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("pins Bun 1.0.0");
    expect(error.message).toContain("slipway needs >=");
    expect(error.hint).toContain(`\`bun: "${Bun.version}"\` in ci/pipeline.ts`);
  });

  test("a running version that is too old is reported with its origin", async () => {
    const { project: at } = describeOwn({});
    assertSupportedBun(at);
    const [version, brought] = ["1.3.2", join(at, "node_modules/bun/bin/bun.exe")];
    const own = await failureOf(() => assertSupportedBun(at, { version, path: "/usr/bin/bun" }));
    expect(own.kind).toBe("environment");
    expect(own.message).toMatch(/^slipway needs Bun >=\S+, but Bun 1\.3\.2 is running/);
    const error = await failureOf(() => assertSupportedBun(at, { version, path: brought }));
    expect(error.message).toContain(`Bun 1.3.2 (installed by a dependency at ${brought})`);
    expect(error.hint).toContain('"overrides": { "bun": "');
  });

  test("must not be shadowed by a Bun that a dependency installed", async () => {
    const service = describeOwn({ "node_modules/.bin/bun": `#!/bin/sh\necho ${Bun.version}\n` });
    const brought = join(service.project, "node_modules/.bin/bun");
    chmodSync(brought, 0o755);
    await assertNoShadowingBun(service, signal);
    writeFileSync(brought, "#!/bin/sh\necho 1.3.11\n");
    const error = await failureOf(() => assertNoShadowingBun(service, signal));
    expect(error.kind).toBe("environment");
    for (const words of ["Bun 1.3.11", brought, `not ${Bun.version}`]) expect(error.message).toContain(words);
    // A Bun that cannot start is also reported.
    writeFileSync(brought, "");
    expect((await failureOf(() => assertNoShadowingBun(service, signal))).message).toContain(brought);
  });
});
