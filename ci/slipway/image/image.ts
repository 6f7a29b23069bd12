/**
 * What the image is: its two layers, entrypoint, user, environment, labels, name and id.
 *
 * The image is the binary: a compiled Bun service and the C library that it links. Nobody describes it twice: `bun run
 * build` lays its files out under dist/, the Dockerfile and the engines only pick them up. (The Dockerfile has to
 * repeat the settings below, because it cannot read them; a test compares the two.)
 */
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { name, version } from "../../../package.json";
import { readElf } from "./elf.ts";

export const image = {
  name,
  /** Where the binary stands in the image. */
  binary: `/${name}`,
  /** uid and gid; numeric, so that Kubernetes can check runAsNonRoot without an /etc/passwd. */
  user: "65532:65532",
  env: { NODE_ENV: "production" },
  port: "8080/tcp",
  labels: {
    "org.opencontainers.image.title": name,
    "org.opencontainers.image.version": version,
    "org.opencontainers.image.licenses": "MIT",
  },
};

/**
 * Options of the compiler. They are an input of the id: change one, and the image has another name.
 *
 * Dotenv and bunfig are off because either would run code that stands in the working directory.
 */
export const compile = {
  entrypoint: "src/main.ts",
  minify: true,
  bytecode: true,
  // An uncaught error then prints a line of the source, not kilobytes of minified text.
  sourcemap: "linked",
  format: "cjs",
  autoloadDotenv: false,
  autoloadBunfig: false,
} as const;

/** The layers, in order. The first changes with the base system, the second with the source. */
export const layers = ["runtime", "app"] as const;

export type Architecture = "amd64" | "arm64";

export interface Platform {
  os: "linux";
  architecture: Architecture;
}

/** This machine's. */
export const ownArchitecture: Architecture = process.arch === "arm64" ? "arm64" : "amd64";

export interface Runtime {
  platform: Platform;
  /** Path in the image -> file to take it from: the loader and every library that Bun links. */
  files: Map<string, string>;
  /** The Bun executable that becomes part of the binary. */
  bun: string;
  /** The directory of the system that they are from. */
  root: string;
  /** The linker's hash of the Bun that becomes part of the binary: one version has several builds (baseline, musl). */
  bunBuildId: string;
}

/**
 * Finds what the compiled binary needs at run time by reading Bun's own ELF header, which the binary inherits.
 *
 * A C library keeps its parts beside its loader and the loader looks there first, on every distribution, so each file
 * keeps its place.
 *
 * @param bun path of the Bun executable
 * @param root the directory of the system that its libraries are taken from; default: this one
 * @throws {Error} when a library cannot be found, naming it
 */
export function findRuntime(bun: string = process.execPath, root = "/"): Runtime {
  const { architecture, interpreter, needed, buildId } = readElf(bun);
  if (!interpreter) throw new Error(`${bun} is linked statically: there is no runtime to put into the image`);
  const inRoot = (path: string) => realpathSync(join(root, path));
  const files = new Map([[interpreter, inRoot(interpreter)]]);
  const beside = join("/", relative(root, dirname(inRoot(interpreter))));
  const places = [beside, "/usr/lib", "/lib"];
  const wanted = needed.filter((library) => library !== basename(interpreter));
  for (const library of wanted) {
    const path = places.map((place) => join(place, library)).find((path) => existsSync(join(root, path)));
    if (!path) throw new Error(`${library}, which ${bun} links, is in none of ${places.join(", ")}`);
    if (files.has(path)) continue;
    files.set(path, inRoot(path));
    // A library may link others; the loop goes on over what is added here.
    wanted.push(...readElf(inRoot(path)).needed.filter((library) => library !== basename(interpreter)));
  }
  for (const file of files.values()) {
    if (readElf(file).architecture !== architecture) throw new Error(`${file} is not for ${architecture}`);
  }
  const platform = { os: "linux", architecture } as const;
  return { platform, files, bun, root, bunBuildId: buildId ?? "" };
}

/** The runtime of another system, laid out as the base image is; without `root`, this machine's. */
export function runtimeIn(root: string | undefined): Runtime {
  return root === undefined ? findRuntime() : findRuntime(join(root, "usr/local/bin/bun"), root);
}

/**
 * The image's id: the first 12 hex digits of SHA-256 over all that goes in. Same inputs, same id, same bytes; it is
 * known before anything is built.
 *
 * Goes in: src/ (path and content), package.json, bun.lock, the compiler's options, which Bun, the runtime's files,
 * the platform. Does not: the git commit, tests, documentation; a change there deploys nothing.
 */
export async function imageId(project: string, runtime: Runtime): Promise<string> {
  const sources = await Array.fromAsync(new Bun.Glob("src/**").scan({ cwd: project, dot: true }));
  const inputs: [path: string, file: string][] = [
    ...[...sources, "package.json", "bun.lock"].map((path): [string, string] => [path, join(project, path)]),
    ...runtime.files,
  ];
  const hash = new Bun.CryptoHasher("sha256");
  const settings = { compile, image, platform: runtime.platform, bun: [Bun.version, runtime.bunBuildId] };
  hash.update(JSON.stringify(settings));
  // Sorted by code unit: a locale must not change the id. Lengths are hashed too, so that no two lists look the same.
  for (const [path, file] of inputs.sort(([a], [b]) => (a < b ? -1 : 1))) {
    // One after the other and without a promise each: of thousands of small files that is the quickest.
    const content = readFileSync(file);
    hash.update(`\n${path}\0${content.length}\0`);
    hash.update(content);
  }
  return hash.digest("hex").slice(0, 12);
}
