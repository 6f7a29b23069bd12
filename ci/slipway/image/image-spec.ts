/**
 * What the image is: its two layers, entrypoint, user, environment, labels and name; and the runtime that it brings.
 *
 * The image is the binary: a compiled Bun service and the C library that it links. Nobody describes it twice: the build
 * lays its files out under dist/, the Dockerfile and the engines only pick them up. (The Dockerfile has to repeat the
 * settings below, because it cannot read them; `init --check` and a test compare the two.)
 */
import { existsSync, realpathSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import { readElf } from "./elf.ts";
import { APP_DIRECTORY } from "./module-paths.ts";
import type { Platform } from "./platform.ts";

export interface ImageSpec {
  name: string;
  /** Where the binary stands in the image. */
  binary: string;
  /** uid and gid; numeric, so that Kubernetes can check runAsNonRoot without an /etc/passwd. */
  user: string;
  env: Record<string, string>;
  port: string;
  labels: Record<string, string>;
}

/** Directories of the image's root, and those that a runtime mounts there. */
const taken = [APP_DIRECTORY, "/lib", "/lib64", "/usr", "/dev", "/etc", "/proc", "/sys", "/tmp"];

/** The image of a service. @throws {PipelineError} "project" when its name is that of a directory there */
export function createImageSpec({ name, version, license, port }: Service): ImageSpec {
  if (taken.includes(`/${name}`)) {
    throw new PipelineError("project", `the binary would be /${name}, which is a directory in the image`, {
      hint: "`name` in ci/pipeline.ts gives the service another one.",
    });
  }
  return {
    name,
    binary: `/${name}`,
    user: "65532:65532",
    // A service that asks for $PORT gets the one that the manifests probe.
    env: { NODE_ENV: "production", PORT: String(port) },
    port: `${port}/tcp`,
    labels: {
      "org.opencontainers.image.title": name,
      "org.opencontainers.image.version": version,
      ...(license && { "org.opencontainers.image.licenses": license }),
    },
  };
}

/**
 * Options of the compiler. They are an input of the id: change one, and the image has another name.
 *
 * Dotenv and bunfig are off because either would run code that stands in the working directory.
 */
export const compileOptions = {
  minify: true,
  bytecode: true,
  // An uncaught error then prints a line of the source, not kilobytes of minified text.
  sourcemap: "linked",
  // Takes top-level await, also a dependency's, and starts no later than "cjs".
  format: "esm",
  autoloadDotenv: false,
  autoloadBunfig: false,
} as const;

/** The layers, in order. The first changes with the base system, the second with the source. */
export const layers = ["runtime", "app"] as const;

export interface RuntimeLibraries {
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
export function findSharedLibraries(bun: string = process.execPath, root = "/"): RuntimeLibraries {
  const { architecture, interpreter, needed, buildId } = readElf(bun);
  if (!interpreter) throw new Error(`${bun} is linked statically: there is no runtime to put into the image`);
  const inRoot = (path: string) => realpathSync(join(root, path));
  const files = new Map([[interpreter, inRoot(interpreter)]]);
  const platform = { os: "linux", architecture } as const;
  const runtime = { platform, files, bun, root, bunBuildId: buildId ?? "" };
  addLibraries(runtime, bun, needed);
  return runtime;
}

/** As findRuntime() has it, with what native addons link, too. @param objects addons and the libraries that come with them */
export function withAddonLibraries(runtime: RuntimeLibraries, objects: string[]): RuntimeLibraries {
  const extended = { ...runtime, files: new Map(runtime.files) };
  const brought = new Set(objects.map((object) => basename(object)));
  for (const object of objects) {
    addLibraries(
      extended,
      object,
      readElf(object).needed.filter((library) => !brought.has(library)),
    );
  }
  return extended;
}

/** Adds libraries, and those that they link, from beside the loader. @throws {Error} when one is not there, naming it */
function addLibraries({ platform, files, root }: RuntimeLibraries, by: string, needed: string[]): void {
  const [interpreter = ""] = files.keys();
  const inRoot = (path: string) => realpathSync(join(root, path));
  const beside = join("/", relative(root, dirname(inRoot(interpreter))));
  const places = [beside, "/usr/lib", "/lib"];
  const isOther = (library: string) => library !== basename(interpreter);
  const wanted = needed.filter(isOther);
  for (const library of wanted) {
    const path = places.map((place) => join(place, library)).find((path) => existsSync(join(root, path)));
    if (!path) {
      const message = `${library}, which ${by} links, is in none of ${places.map((at) => join(root, at)).join(", ")}`;
      throw new PipelineError("environment", message, {
        hint: "The image has the libraries of the system that it is built on.",
      });
    }
    if (files.has(path)) continue;
    const file = inRoot(path);
    const elf = readElf(file);
    if (elf.architecture !== platform.architecture) {
      throw new Error(`${file} is not for ${platform.architecture}`);
    }
    files.set(path, file);
    // A library may link others; the loop goes on over what is added here.
    wanted.push(...elf.needed.filter(isOther));
  }
}

/** The runtime of another system, laid out as the base image is; without `root`, this machine's. */
export function findSharedLibrariesIn(root: string | undefined): RuntimeLibraries {
  return root === undefined
    ? findSharedLibraries()
    : findSharedLibraries(join(root, "usr/local/bin/bun"), root);
}
