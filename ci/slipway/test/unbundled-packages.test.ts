/** Tests special packages: with native addons, not installed, or loaded by a computed path. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { PipelineError } from "../core/errors.ts";
import { resolveService } from "../core/resolve-service.ts";
import { bundleOptions } from "../image/bundle-options.ts";
import { findSharedLibraries } from "../image/image-spec.ts";
import { computeBundleDigest, collectInputs } from "../image/inputs.ts";
import type { Architecture } from "../image/architecture.ts";
import type { Settings } from "../index.d.ts";
import { build, createProject, removeProjects, runImage, runSource } from "./built-service.ts";

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "slipway-packages-"))));
afterAll(() => rm(directory, { recursive: true }));
afterAll(removeProjects);

type Files = Record<string, string | Buffer>;

/** Collects the inputs for amd64 of a service that imports `tiny`. */
async function inputs(files: Files, settings: Settings = {}) {
  const at = await mkdtemp(join(directory, "project-"));
  const all: Files = {
    "package.json": '{"name":"x"}',
    "src/main.ts": 'import { x } from "tiny";\nconsole.log(x);\n',
    "node_modules/tiny/package.json": '{"name":"tiny","version":"1.0.0","main":"index.js"}',
    "node_modules/tiny/index.js": "exports.x = 1;\n",
    ...files,
  };
  for (const [path, content] of Object.entries(all)) {
    await mkdir(dirname(join(at, path)), { recursive: true });
    await writeFile(join(at, path), content);
  }
  const own = { ...findSharedLibraries(), platform: { os: "linux", architecture: "amd64" } as const };
  const found = await collectInputs(resolveService(at, { attach: false, ...settings }), own);
  return { ...found, appFiles: [...found.appFiles.keys()].sort() };
}

const failed = (work: Promise<unknown>) =>
  work.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

/** Creates a minimal ELF file with an architecture and linked libraries. */
function elf(architecture: Architecture, ...needed: string[]): Buffer {
  const names = Buffer.from(`\0${needed.map((name) => `${name}\0`).join("")}${"\0".repeat(256)}`);
  const dynamicAt = 64 + 2 * 56;
  const namesAt = dynamicAt + (needed.length + 1) * 16;
  const file = Buffer.alloc(namesAt);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
  file.writeUInt16LE(architecture === "arm64" ? 183 : 62, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(2, 56);
  const segment = (at: number, type: number, offset: number, length: number) => {
    file.writeUInt32LE(type, at);
    for (const [where, value] of [
      [8, offset],
      [16, offset],
      [32, length],
    ] as const)
      file.writeBigUInt64LE(BigInt(value), at + where);
  };
  segment(64, 1, 0, namesAt + names.length);
  segment(64 + 56, 2, dynamicAt, namesAt - dynamicAt);
  let name = 1;
  needed.forEach((library, i) => {
    file.writeBigUInt64LE(1n, dynamicAt + i * 16);
    file.writeBigUInt64LE(BigInt(name), dynamicAt + i * 16 + 8);
    name += library.length + 1;
  });
  file.writeBigUInt64LE(5n, namesAt - 16);
  file.writeBigUInt64LE(BigInt(namesAt), namesAt - 8);
  return Buffer.concat([file, names]);
}

describe("a package with native addons", () => {
  const glibc = elf("amd64", "libc.so.6");
  const musl = elf("amd64", "libc.musl-x86_64.so.1");
  const manifest = (more: object) => JSON.stringify({ name: "tiny", main: "index.js", ...more });

  // Found by this test: bcrypt and argon2 include the addons of all systems, and were refused.
  test("for several systems: only the image's addon is included", async () => {
    const { appFiles, externalPackages } = await inputs({
      "node_modules/tiny/package.json": manifest({ dependencies: { "node-gyp-build": "4" } }),
      "node_modules/node-gyp-build/package.json": '{"name":"node-gyp-build","main":"index.js"}',
      "node_modules/node-gyp-build/index.js": "",
      "node_modules/tiny/prebuilds/linux-x64/tiny.glibc.node": glibc,
      "node_modules/tiny/prebuilds/linux-x64/tiny.musl.node": musl,
      "node_modules/tiny/prebuilds/linux-arm64/tiny.node": elf("arm64", "libc.so.6"),
      "node_modules/tiny/prebuilds/linux-arm/tiny.node": "\x7fELF of 32 bits",
      "node_modules/tiny/prebuilds/freebsd-x64/tiny.node": elf("amd64", "libc.so.7", "libc++.so.1"),
      "node_modules/tiny/prebuilds/darwin-arm64/tiny.node": "\xcf\xfa\xed\xfe",
      "node_modules/tiny/prebuilds/win32-x64/tiny.node": "MZ",
    });
    expect(externalPackages.sort()).toEqual(["node-gyp-build", "tiny"]);
    expect(appFiles).toEqual([
      "node_modules/node-gyp-build/index.js",
      "node_modules/node-gyp-build/package.json",
      "node_modules/tiny/index.js",
      "node_modules/tiny/package.json",
      "node_modules/tiny/prebuilds/linux-x64/tiny.glibc.node",
    ]);
  });

  test.each([
    ["that says so", '{"name":"tiny-musl","libc":["musl"]}', "libc.so.6"],
    // Like libsql, whose package.json has no `libc`.
    ["whose addon links it", '{"name":"tiny-musl"}', "libc.so"],
    ["whose addon links it by its name", '{"name":"tiny-musl"}', "libc.musl-x86_64.so.1"],
  ])("in a package per system: one for musl %s is left out", async (_, package_, library) => {
    const { externalPackages } = await inputs({
      "node_modules/tiny/package.json": manifest({
        optionalDependencies: { "tiny-gnu": "1", "tiny-musl": "1" },
      }),
      "node_modules/tiny/index.js": "exports.x = (name) => require(`tiny-${name}`);",
      "node_modules/tiny-gnu/package.json": '{"name":"tiny-gnu"}',
      "node_modules/tiny-gnu/index.node": glibc,
      "node_modules/tiny-musl/package.json": package_,
      "node_modules/tiny-musl/index.node": elf("amd64", library),
    });
    expect(externalPackages.sort()).toEqual(["tiny", "tiny-gnu"]);
  });

  test.each([
    [elf("arm64", "libc.so.6"), "is for arm64, but the image is for amd64"],
    ["MZ", "is for another system, but the image is for amd64"],
  ])("is refused if no addon is for the image (%#)", async (addon, words) => {
    const files = {
      "node_modules/tiny/package.json": manifest({}),
      "node_modules/tiny/binding.gyp": "",
      "node_modules/tiny/tiny.node": addon,
    };
    const error = await failed(inputs(files));
    expect(error.kind).toBe("project");
    expect(error.message).toContain(`node_modules/tiny/tiny.node ${words}`);
  });

  test("is refused with the library's name if a linked library is missing", async () => {
    const files = {
      "node_modules/tiny/package.json": manifest({}),
      "node_modules/tiny/binding.gyp": "",
      "node_modules/tiny/tiny.node": elf("amd64", "libc.so.6", "libnowhere.so.3"),
    };
    const error = await failed(inputs(files));
    expect(error).toMatchObject({ name: "PipelineError", kind: "environment" });
    expect(error.message).toContain("libnowhere.so.3, which ");
  });
});

describe("a package that is not installed", () => {
  const driver = 'exports.x = (name) => name === "b" ? require("b-driver/promise") : require("a-driver");\n';

  test("is left out with a warning if an installed package loads it lazily", async () => {
    const { missingPackages, warnings } = await inputs({ "node_modules/tiny/index.js": driver });
    expect(missingPackages.sort()).toEqual(["a-driver", "b-driver/promise"]);
    expect(warnings).toEqual(["not installed, and left out: a-driver, b-driver/promise (tiny can load them)"]);
  });

  // Bun turns these calls into imports, which would fail at the start. Unbundled, the package loads them as from source.
  test.each(["react", "react-dom/server", "react-is", "scheduler"])(
    "is left out, and its package is unbundled, if Bun would load it at the start: %s",
    async (name) => {
      const found = await inputs({ "node_modules/tiny/index.js": `exports.x = () => require('${name}');\n` });
      expect(found.missingPackages).toEqual([name]);
      expect(found.externalPackages).toEqual(["tiny"]);
    },
  );

  test("fails at the call, as from source", async () => {
    const at = createProject({
      "src/main.ts": 'import { x } from "tiny";\ntry { x(); } catch (error: any) { console.log(error.code); }\n',
      "node_modules/tiny/package.json": '{"name":"tiny","version":"1.0.0"}',
      "node_modules/tiny/index.js": "exports.x = () => require('react-dom/server');\n",
    });
    expect(runSource(at, "src/main.ts")).toBe("MODULE_NOT_FOUND\n");
    const { binary } = await build(at, { entry: "src/main.ts", attach: false });
    expect(runImage(binary)).toBe("MODULE_NOT_FOUND\n");
  }, 60_000);

  test("is refused if a package imports react statically", async () => {
    const files = { "node_modules/tiny/index.js": 'import React from "react";\nexport const x = React;\n' };
    expect((await failed(inputs(files))).output).toContain('"react"');
  });

  test("is refused with a hint if the service imports it", async () => {
    const error = await failed(
      inputs({
        "src/main.ts": 'console.log(() => require("nowhere"));',
        "node_modules/tiny/index.js": driver,
      }),
    );
    expect(error).toMatchObject({ kind: "project", message: "the source does not compile" });
    expect(error.output).toContain('"nowhere"');
    expect(error.output).not.toContain("a-driver");
    expect(error.hint).toContain("`external`");
  });

  test("is refused if an installed package imports it statically", async () => {
    const files = { "node_modules/tiny/index.js": 'export { a as x } from "nowhere";\n' };
    expect((await failed(inputs(files))).output).toContain('"nowhere"');
  });

  test("is refused if it is a missing file of an installed package", async () => {
    const files = { "node_modules/tiny/index.js": 'exports.x = () => require("./nowhere.js");\n' };
    expect((await failed(inputs(files))).output).toContain("./nowhere.js");
  });
});

// Found by this test: the binary contained the build path of CommonJS modules, and the source map that of additional
// entry points. Both broke reproducibility.
test.each<[string, Settings]>([
  ["of the main entry", {}],
  ["of additional entries in the same and another directory", { entries: { a: "src/a.ts", b: "jobs/b.ts" } }],
])("the build path of modules %s is not in the image", async (_, settings) => {
  const at = await mkdtemp(join(directory, "project-"));
  const files: Record<string, string> = {
    "package.json": '{"name":"x"}',
    "src/main.ts": 'import { x } from "tiny";\nconsole.log(x, __dirname);\n',
    "src/a.ts": "console.log(1);\n",
    "jobs/b.ts": "console.log(2);\n",
    "node_modules/tiny/package.json": '{"name":"tiny","main":"lib/index.js"}',
    "node_modules/tiny/lib/index.js": "exports.x = [__dirname, __filename];\n",
  };
  for (const [path, content] of Object.entries(files)) await Bun.write(join(at, path), content);
  const options = await bundleOptions(resolveService(at, { attach: false, ...settings }));
  // Like the pipeline: the paths in comments and in the source map are relative to the working directory.
  const before = process.cwd();
  process.chdir(at);
  const { outputs } = await Bun.build({ ...options, bytecode: false, sourcemap: "linked" }).finally(() =>
    process.chdir(before),
  );
  const map = await outputs.find(({ kind }) => kind === "sourcemap")!.json();
  const text = [await outputs[0]!.text(), ...map.sourcesContent].join("\n");
  expect(text).not.toContain(directory);
  // Never the service's directory, whose files the package could serve.
  expect(text).toContain('["/node_modules/.bundled", "/node_modules/.bundled/index.js"]');
});

test("the bundle digest does not depend on the order of files", async () => {
  const artifact = (path: string, text: string) =>
    Object.assign(new Blob([text]), { path }) as unknown as Bun.BuildArtifact;
  const files = [artifact("./main.js", "1"), artifact("./a.html", "2"), artifact("./b.html", "3")];
  expect(await computeBundleDigest(files.toReversed())).toBe(await computeBundleDigest(files));
  expect(await computeBundleDigest([files[0]!, artifact("./a.html", "3")])).not.toBe(await computeBundleDigest(files));
});

describe("a dynamic load", () => {
  test.each([
    ["for (const f of []) await import(f);", "import(f)"],
    ["const [f] = process.argv;\nawait import(`file://${f}`);", "import(`file://${f}`)"],
    ["const f = 1;\n/* import(x) */ require(join(a(f), 'x')); // require(y)", "require(join(a(f), 'x'))"],
    ["await import(/* why */ process.argv[2]!);", "import(process.argv[2]!)"],
    ["const [f] = process.argv;\nrequire('./stores/' + f);", "require('./stores/' + f)"],
    ['const [f] = process.argv;\nawait import("./locales/" + f + ".ts");', 'import("./locales/" + f + ".ts")'],
  ])("is reported with its location: %s", async (code, loads) => {
    const { warnings } = await inputs({
      "src/main.ts": `const join = (...all: any[]) => all, a = join;\n${code}\nexport {};`,
    });
    const line = code.split("\n").length + 1;
    expect(warnings).toEqual([
      expect.stringContaining(
        `src/main.ts:${line} loads a path that is known only at run time and not in the image: ${loads}. Write the path`,
      ),
    ]);
  });

  test("is reported for Bun.build", async () => {
    const { warnings } = await inputs({ "src/main.ts": 'await Bun.build({ entrypoints: ["a.ts"] });\n' });
    expect(warnings.join("\n")).toContain("src/main.ts:1 bundles at run time");
  });

  test.each([
    'await import("tiny"); require("tiny"); await import(`tiny`);',
    "class A { import(entries: string[]) { return entries; } }\nnew A().import([]);",
    "interface B { import(entries: string[]): void }\nexport type { B };",
    'console.log("text", "//"); // import(x)',
    "/* await import(x)\n require(y) */",
  ])("is not reported for %s", async (code) => {
    expect((await inputs({ "src/main.ts": code })).warnings).toEqual([]);
  });
});
