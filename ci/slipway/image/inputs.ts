/**
 * What goes into an image, and its id: the first 12 hex digits of SHA-256 over all of it. Same inputs, same id, same
 * bytes; it is known before anything is compiled.
 *
 * Which files the binary is made of, the bundler knows alone, so it is asked: bundling without compiling takes some
 * milliseconds. Beside what it opened, wherever that lies, goes in what decides how: package.json and lockfile of
 * project and workspace, the tsconfig of every directory with what it extends, bunfig, the compiler's options, the
 * image's settings, slipway's own build code, which Bun, the C library, the platform. What nothing reads does not: the
 * git commit, tests, documentation; a change there deploys nothing.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { sha256 } from "../ground/hash.ts";
import type { Service } from "../ground/service.ts";
import { compile, describeImage, type Runtime } from "./image.ts";

/** Stands for the id while it is not known. */
const UNKNOWN_ID = "0".repeat(12);

/** Lockfiles: Bun's, its former one, and those of others that Bun reads. */
export const lockfiles = ["bun.lock", "bun.lockb", "package-lock.json", "yarn.lock", "pnpm-lock.yaml"];

/** Imported by the entry that is made here: answers and drains where the service does not. */
const ATTACH = "slipway:attach";
const attachment = join(import.meta.dir, "../service/attach.ts");

/** What the bundler is told, for the id and for the binary alike. */
export function bundling(
  service: Service,
  { id = UNKNOWN_ID, own = [] }: { id?: string; own?: string[] } = {},
) {
  const { autoloadBunfig: _, autoloadDotenv: __, ...options } = compile;
  const { root, name, version, versionPath } = service;
  return {
    ...options,
    ...entrypoint(service),
    metafile: true,
    root,
    target: "bun" as const,
    define: {
      BUILD_ID: JSON.stringify(id),
      BUILD_NAME: JSON.stringify(name),
      BUILD_VERSION: JSON.stringify(version),
      BUILD_VERSION_PATH: JSON.stringify(versionPath),
      BUILD_OWN_PATHS: JSON.stringify(own),
      "process.env.NODE_ENV": '"production"',
    },
  };
}

/** The service's own entry; where something is attached, one that is never written imports that first. */
function entrypoint({ project, entry, attach }: Service) {
  const own = join(project, entry);
  if (!attach) return { entrypoints: [own] };
  // Beside the own one: what is relative to the main module stays where it is.
  const made = `${own}.slipway.ts`;
  const specifier = JSON.stringify(`./${basename(entry)}`);
  const { exports } = new Bun.Transpiler({ loader: loaderOf(entry) }).scan(readFileSync(own, "utf8"));
  // Bun serves the default export of the main module.
  const pass = exports.includes("default") ? `export { default } from ${specifier};` : `import ${specifier};`;
  const plugin: Bun.BunPlugin = {
    name: "slipway",
    setup: (build) => void build.onResolve({ filter: /^slipway:attach$/ }, () => ({ path: attachment })),
  };
  return {
    entrypoints: [made],
    files: { [made]: `import "${ATTACH}";\n${pass}\n` },
    plugins: [plugin],
  };
}

function loaderOf(entry: string): Bun.JavaScriptLoader {
  return entry.endsWith(".tsx") ? "tsx" : entry.endsWith(".jsx") ? "jsx" : entry.endsWith("ts") ? "ts" : "js";
}

export interface Inputs {
  /** Every file that goes in: the path that counts -> where it is. */
  files: Map<string, string>;
  /** Of the paths that would be attached, those that stand in the service's source: it answers them itself. */
  own: string[];
  /** Where the source has macros: SHA-256 of what is bundled, because what a macro reads is not seen in any other way. */
  output: string | undefined;
}

/** @throws {PipelineError} "change", with the bundler's messages as output, when the source does not bundle */
export async function inputsOf(service: Service): Promise<Inputs> {
  const { project, root } = service;
  const bundle = await explain(() => Bun.build({ ...bundling(service), bytecode: false, sourcemap: "none" }));
  // Its paths are relative to the working directory; a plugin's own modules, `namespace:name`, are no files.
  const opened = Object.keys(bundle.metafile!.inputs).map((path) => resolve(path));
  const files = new Set(opened.filter((path) => existsSync(path)));
  const own = service.attach ? findOwnPaths(service, files) : [];
  for (const directory of new Set([...files].map(dirname))) {
    if (!directory.includes("/node_modules/"))
      for (const file of tsconfigsOf(directory, root)) files.add(file);
  }
  for (const directory of new Set([project, root])) {
    for (const name of ["package.json", "bunfig.toml", ...lockfiles]) {
      const file = join(directory, name);
      if (existsSync(file)) files.add(file);
    }
  }
  const output = hasMacros(files) ? sha256(await bundle.outputs[0]!.text()) : undefined;
  return { files: new Map([...files].map((file) => [nameIn(root, file), file])), own, output };
}

/** The service's own modules. */
function ownSource(files: Set<string>): string[] {
  return [...files].filter(
    (file) =>
      /\.[cm]?[jt]sx?$/.test(file) && !file.includes("/node_modules/") && !file.startsWith(`${slipway}/`),
  );
}

/** https://bun.sh/docs/bundler/macros */
function hasMacros(files: Set<string>): boolean {
  return ownSource(files).some((file) => /\btype\s*:\s*["']macro["']/.test(readFileSync(file, "utf8")));
}

/** Looks for the paths as text: a router's table cannot be seen before it runs. */
function findOwnPaths({ versionPath }: Service, files: Set<string>): string[] {
  const wanted = [versionPath, "/readyz", "/healthz"];
  const found = new Set<string>();
  for (const file of ownSource(files)) {
    const text = readFileSync(file, "utf8");
    for (const path of wanted) if (['"', "'", "`"].some((q) => text.includes(q + path + q))) found.add(path);
  }
  return wanted.filter((path) => found.has(path));
}

/** The image's id. @throws {PipelineError} as inputsOf() */
export async function imageId(
  service: Service,
  runtime: Runtime,
  inputs: Promise<Inputs> | Inputs = inputsOf(service),
): Promise<string> {
  const { files: opened, output } = await inputs;
  const files: [path: string, file: string][] = [
    ...opened,
    ...runtime.files,
    ...buildCode().map((file): [string, string] => [nameIn("", file), file]),
  ];
  const hash = new Bun.CryptoHasher("sha256");
  const settings = {
    compile,
    entry: service.entry,
    attach: service.attach && service.versionPath,
    image: describeImage(service),
    platform: runtime.platform,
    bun: [Bun.version, runtime.bunBuildId],
    output,
  };
  hash.update(JSON.stringify(settings));
  // Sorted by code unit: a locale must not change the id. Lengths are hashed too, so that no two lists look the same.
  for (const [path, file] of files.sort(([a], [b]) => (a < b ? -1 : 1))) {
    // One after the other and without a promise each: of thousands of small files that is the quickest.
    const content = readFileSync(file);
    hash.update(`\n${path}\0${content.length}\0`);
    hash.update(content);
  }
  return hash.digest("hex").slice(0, 12);
}

const slipway = dirname(import.meta.dir);

/** A file's place in the workspace; of a package that is installed outside of it, in that. */
function nameIn(root: string, file: string): string {
  // slipway's own, in this repository and in node_modules alike.
  if (file.startsWith(`${slipway}/`)) return `slipway:${relative(slipway, file)}`;
  const path = relative(root, file);
  const installed = file.lastIndexOf("/node_modules/");
  return path.startsWith("../") && installed >= 0 ? file.slice(installed + 1) : path;
}

/** The code that makes the image: another one may make another image of the same source. */
function buildCode(): string[] {
  return readdirSync(import.meta.dir)
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(import.meta.dir, name));
}

/** The tsconfig that holds for a directory, the nearest upwards, and those that it extends. */
function tsconfigsOf(directory: string, root: string): string[] {
  for (let at = directory; ; at = dirname(at)) {
    const found = ["tsconfig.json", "jsconfig.json"].map((name) => join(at, name)).find(existsSync);
    if (found) return withBases(found);
    if (at === root || at === dirname(at)) return [];
  }
}

function withBases(file: string, seen: string[] = []): string[] {
  if (seen.includes(file) || !existsSync(file)) return seen;
  const { extends: bases = [] } = parseJsonc(readFileSync(file, "utf8"));
  const all = [...seen, file];
  return [bases].flat().reduce((known: string[], base) => withBases(baseOf(file, base), known), all);
}

/** Where a tsconfig's `extends` points to. https://www.typescriptlang.org/tsconfig/#extends */
function baseOf(file: string, base: string): string {
  const path = base.startsWith(".") || base.startsWith("/") ? resolve(dirname(file), base) : undefined;
  if (path) {
    const isFile = statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
    return isFile || path.endsWith(".json") ? path : `${path}.json`;
  }
  try {
    return Bun.resolveSync(base, dirname(file));
  } catch {
    return base;
  }
}

function parseJsonc(text: string): { extends?: string | string[] } {
  try {
    return Object(Bun.JSONC.parse(text));
  } catch {
    // Who reads it next says what is wrong with it.
    return {};
  }
}

/** Turns the bundler's error into one with all of its messages, each with its place. */
export async function explain<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AggregateError)) throw error;
    throw new PipelineError("change", "the source does not compile", {
      output: error.errors.map((one) => Bun.inspect(one, { colors: false })).join("\n"),
      cause: error,
    });
  }
}
