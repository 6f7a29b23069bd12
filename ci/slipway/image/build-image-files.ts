/**
 * Compiles the service and writes the image's files to dist/, for the Dockerfile and all engines.
 *
 *     dist/runtime/       the loader and the C library         layer 1
 *     dist/app/           the binary and the service's files   layer 2
 *     dist/image.json     ID and platform
 *     dist/sbom.cdx.json  the SBOM, see sbom.ts
 *     dist/NAME.map       the binary's source map, for debuggers (not in the image)
 *
 * Modes and times are fixed, and owners too if root builds. A layer is therefore reproducible from its tree.
 */
import { chmod, chown, copyFile, mkdir, readdir, rename, rm, utimes } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { readElf } from "./elf.ts";
import {
  compileOptions,
  createImageSpec,
  findSharedLibraries,
  layerNames,
  type RuntimeLibraries,
} from "./image-spec.ts";
import { APP_DIRECTORY } from "./image-paths.ts";
import { ownArchitecture, type Platform } from "./architecture.ts";
import { bundleOptions, explainBundleError, type BundleInputs } from "./bundle-options.ts";
import { computeImageId, collectInputs } from "./inputs.ts";
import { bundleLoadedModule } from "./trial-bundle.ts";
import { writeLoadedModules } from "./loaded-modules.ts";
import {
  listBundledPackages,
  loadCycloneDx,
  createSbom,
  readPackages,
  SBOM_FILE,
  type BundledPackage,
} from "./sbom.ts";

export interface BuildResult {
  id: string;
  platform: Platform;
  /** Warnings of the bundler. */
  warnings: string[];
}

/**
 * Builds into `dist`. A successful build replaces the previous build as a whole, a failed build keeps it. Files of other
 * programs stay, because front ends are often built into the same directory.
 *
 * @param runtime libraries and platform of the image. Default: those of this machine
 * @throws {PipelineError} "usage" if another program's files have the names of the build's
 * @throws {PipelineError} "project" if the source does not compile, with the compiler's messages as output
 */
export async function buildImage(
  service: Service,
  dist: string,
  runtime = findSharedLibraries(),
): Promise<BuildResult> {
  await assertReplaceable(dist);
  const inputs = await collectInputs(service, runtime);
  const id = await computeImageId(service, runtime, inputs);
  const built = { id, platform: runtime.platform, warnings: inputs.warnings };
  const part = `${dist}.part-${process.pid}`;
  try {
    const [bundled] = await Promise.all([
      compileBinary(service, { ...inputs, id }, runtime, part),
      // Runs meanwhile, because the compiler uses its own threads.
      loadCycloneDx(),
      copyFiles(inputs.runtime.files, join(part, "runtime")),
    ]);
    built.warnings.push(...(inputs.htmlImports?.styles?.warnings ?? []));
    await copyFiles(inputs.appFiles, join(part, "app"));
    const app = join(part, "app");
    for (const path of [APP_DIRECTORY, ...inputs.directories]) await mkdir(join(app, path), { recursive: true });
    await writeLoadedModules(service, inputs.loaded, app, (entrypoint) =>
      bundleLoadedModule(service, { ...inputs, id, entrypoint }),
    );
    for (const layer of layerNames) await normaliseMetadata(join(part, layer));
    const packages = [...bundled, ...(await readPackages(inputs.packages.values()))];
    await Bun.write(join(part, SBOM_FILE), await createSbom(service, { id, packages, runtime: inputs.runtime }));
    await Bun.write(join(part, "image.json"), JSON.stringify(built) + "\n");
    await replaceBuild(service, part, dist);
  } finally {
    await rm(part, { recursive: true, force: true });
  }
  return built;
}

const entriesOf = (directory: string) => readdir(directory).catch((): string[] => []);

/** Whether the directory has no tree, or that of a previous build. */
async function assertReplaceable(dist: string): Promise<void> {
  const entries = await entriesOf(dist);
  const foreign = entries.includes("image.json") ? undefined : layerNames.find((name) => entries.includes(name));
  if (foreign === undefined) return;
  throw new PipelineError("usage", `${join(dist, foreign)} exists, and slipway did not write it. Nothing was changed`, {
    hint: "Name another directory: `bun ci/pipeline.ts build DIRECTORY`.",
  });
}

/** Moves a build to its directory, without the files of the previous build. */
async function replaceBuild({ name }: Service, part: string, dist: string): Promise<void> {
  const isMap = (entry: string) => entry.startsWith(`${name}.`) && entry.endsWith(".map");
  const own = (entry: string) => [...layerNames, SBOM_FILE, "image.json"].includes(entry) || isMap(entry);
  const entries = await entriesOf(dist);
  if (entries.every(own)) {
    await rm(dist, { recursive: true, force: true });
    await rename(part, dist);
    return;
  }
  for (const entry of entries.filter(own)) await rm(join(dist, entry), { recursive: true });
  for (const entry of await readdir(part)) await rename(join(part, entry), join(dist, entry));
}

/** Compiles the binary. @returns the packages that it bundles */
async function compileBinary(
  service: Service,
  inputs: BundleInputs,
  { bun, platform: { architecture } }: RuntimeLibraries,
  part: string,
): Promise<BundledPackage[]> {
  const { autoloadBunfig, autoloadDotenv } = compileOptions;
  const { binary } = createImageSpec(service);
  const outfile = join(part, "app", binary);
  const { execArgv, ...options } = await bundleOptions(service, inputs);
  const { metafile } = await explainBundleError(() =>
    Bun.build({
      ...options,
      compile: {
        outfile,
        execArgv,
        autoloadBunfig,
        autoloadDotenv,
        // Unbundled packages are resolved by their package.json. This is safe, because the image is read-only.
        autoloadPackageJson: inputs.externalPackages!.length > 0,
        ...(architecture !== ownArchitecture && {
          target: architecture === "arm64" ? ("bun-linux-arm64" as const) : ("bun-linux-x64" as const),
          executablePath: bun,
        }),
      },
    }),
  );
  const compiled = readElf(outfile);
  if (compiled.architecture !== architecture) {
    throw new Error(`the compiler made a binary for ${compiled.architecture}, not for ${architecture}`);
  }
  await moveSourceMaps(outfile, join(part, service.name));
  return listBundledPackages(metafile!);
}

/** Moves the source maps of the binary and of its other entry points out of the image: to NAME.map and NAME.*.map. */
async function moveSourceMaps(outfile: string, target: string): Promise<void> {
  const directory = dirname(outfile);
  const maps = [...new Bun.Glob("**/*.map").scanSync(directory)];
  for (const path of maps) {
    const isMain = path === `${basename(outfile)}.map`;
    await rename(join(directory, path), isMain ? `${target}.map` : `${target}.${path.replaceAll("/", ".")}`);
  }
  // Entry points keep their directories.
  const directories = new Set(maps.filter((path) => path.includes("/")).map((path) => path.split("/")[0]!));
  for (const name of directories) await rm(join(directory, name), { recursive: true });
}

/** @param files path in the image -> source file */
async function copyFiles(files: Map<string, string>, tree: string): Promise<void> {
  for (const [path, source] of files) {
    const target = join(tree, path);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, target);
  }
}

/** Sets mode 0755, owner 0:0 (as root) and time 0. Children come first, because they change their directory's time. */
async function normaliseMetadata(path: string): Promise<void> {
  const entries = await readdir(path, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOTDIR") return [];
    throw error;
  });
  for (const entry of entries) await normaliseMetadata(join(path, entry.name));
  await chmod(path, 0o755);
  if (process.getuid?.() === 0) await chown(path, 0, 0);
  await utimes(path, 0, 0);
}
