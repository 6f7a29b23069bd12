/**
 * Defines the image: layers, entrypoint, user, environment, labels, name and shared libraries.
 *
 * The image contains the compiled Bun service and the C library that it links. The build writes its files to dist/, and
 * the Dockerfile and the engines copy them. The Dockerfile repeats the settings below, because it cannot read them.
 * `init --check` and a test compare the two.
 */
import { existsSync, realpathSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { readElf } from "./elf.ts";
import { APP_DIRECTORY } from "./image-paths.ts";
import type { Platform } from "./architecture.ts";

export interface ImageSpec {
  name: string;
  /** Path of the binary in the image. */
  binary: string;
  /** `uid:gid`. Numeric, so that Kubernetes can check runAsNonRoot without an /etc/passwd. */
  user: string;
  env: Record<string, string>;
  port: string;
  labels: Record<string, string>;
}

/** Root directories of the image, and those that a container runtime mounts. */
const reservedPaths = [APP_DIRECTORY, "/lib", "/lib64", "/usr", "/dev", "/etc", "/proc", "/sys", "/tmp"];

/** Creates the image spec of a service. @throws {PipelineError} "project" if its name is a reserved directory */
export function createImageSpec({ name, version, license, port }: Service): ImageSpec {
  if (reservedPaths.includes(`/${name}`)) {
    throw new PipelineError("project", `the binary's path /${name} is a directory in the image`, {
      code: "setting-invalid",
      hint: "Set another `name` in ci/pipeline.ts.",
    });
  }
  return {
    name,
    binary: `/${name}`,
    user: "65532:65532",
    // A service that reads $PORT listens on the port that the manifests probe.
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
 * Options of the compiler. They are an input of the image ID.
 *
 * Dotenv and bunfig are off, because both would load code or settings from the working directory.
 */
export const compileOptions = {
  // Names of classes and functions are data for error handlers, dependency injection and ORMs. Their text is data too:
  // Elysia searches it for parameters, and fails without the white space.
  minify: { whitespace: false, syntax: true, identifiers: false, keepNames: true },
  bytecode: true,
  // With a source map, an uncaught error prints a line of the source instead of kilobytes of minified text.
  sourcemap: "linked",
  // Supports top-level await, also in dependencies, and starts as fast as "cjs".
  format: "esm",
  autoloadDotenv: false,
  autoloadBunfig: false,
} as const;

/** Names of the layers, in order. The first changes with the base system, the second with the source. */
export const layerNames = ["runtime", "app"] as const;

export interface RuntimeLibraries {
  platform: Platform;
  /** Path in the image -> source file. Contains the loader and every library that Bun links. */
  files: Map<string, string>;
  /** The Bun executable that is embedded in the binary. */
  bun: string;
  /** Root directory of the system that the files are from. */
  root: string;
  /** The linker's hash of the embedded Bun. A Bun version has several builds (baseline, musl). */
  bunBuildId: string;
}

/**
 * Finds the libraries that the compiled binary needs, by reading Bun's ELF header, which the binary inherits.
 *
 * Each file keeps its path. On every distribution, a C library is beside its loader, and the loader searches there first.
 *
 * @param bun path of the Bun executable
 * @param root root directory of the system that has the libraries. Default: this machine's
 * @throws {Error} if a library cannot be found, with its name
 */
export function findSharedLibraries(bun: string = process.execPath, root = "/"): RuntimeLibraries {
  const { architecture, interpreter, needed, buildId } = readElf(bun);
  if (!interpreter) throw new Error(`${bun} is statically linked: it has no shared libraries for the image`);
  const inRoot = (path: string) => realpathSync(join(root, path));
  const files = new Map([[interpreter, inRoot(interpreter)]]);
  const platform = { os: "linux", architecture } as const;
  const runtime = { platform, files, bun, root, bunBuildId: buildId ?? "" };
  addLibraries(runtime, bun, needed);
  return runtime;
}

/** Adds the libraries that native addons link. @param objects addons and the libraries that their packages include */
export function withAddonLibraries(runtime: RuntimeLibraries, objects: string[]): RuntimeLibraries {
  const extended = { ...runtime, files: new Map(runtime.files) };
  const included = new Set(objects.map((object) => basename(object)));
  for (const object of objects) {
    addLibraries(
      extended,
      object,
      readElf(object).needed.filter((library) => !included.has(library)),
    );
  }
  return extended;
}

/** Adds libraries and their dependencies. @throws {PipelineError} "environment" if a library is not found */
function addLibraries({ platform, files, root }: RuntimeLibraries, linkedBy: string, needed: string[]): void {
  const [interpreter = ""] = files.keys();
  const inRoot = (path: string) => realpathSync(join(root, path));
  const loaderDirectory = join("/", relative(root, dirname(inRoot(interpreter))));
  const directories = [loaderDirectory, "/usr/lib", "/lib"];
  const isNotLoader = (library: string) => library !== basename(interpreter);
  const queue = needed.filter(isNotLoader);
  for (const library of queue) {
    const path = directories.map((at) => join(at, library)).find((path) => existsSync(join(root, path)));
    if (!path) {
      const searched = directories.map((at) => join(root, at)).join(", ");
      throw new PipelineError("environment", `${library}, which ${linkedBy} links, was not found in ${searched}`, {
        code: "shared-library-not-found",
        hint: "Install the library on this system: the image uses the libraries of the build system.",
      });
    }
    if (files.has(path)) continue;
    const file = inRoot(path);
    const elf = readElf(file);
    if (elf.architecture !== platform.architecture) {
      throw new Error(`${file} is not for ${platform.architecture}`);
    }
    files.set(path, file);
    // The loop also visits the elements that it adds.
    queue.push(...elf.needed.filter(isNotLoader));
  }
}

/** Finds the libraries of the system in `root`, which has the layout of the base image. Default: this machine. */
export function findSharedLibrariesIn(root: string | undefined): RuntimeLibraries {
  return root === undefined ? findSharedLibraries() : findSharedLibraries(join(root, "usr/local/bin/bun"), root);
}
