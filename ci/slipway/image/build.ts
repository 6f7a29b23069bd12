/**
 * Compiles the service and lays the image's files out under dist/, once for everyone.
 *
 *     dist/runtime/   the loader and the C library       layer 1
 *     dist/app/       the binary and the service's files layer 2
 *     dist/image.json id and platform
 *     dist/sbom.cdx.json  what the image is made of, see sbom.ts
 *     dist/NAME.map       the binary's source map, for debuggers; not in the image
 *
 * Modes and times are fixed here, owners when root builds, so that a layer made from a tree is the same wherever and
 * whenever it is made.
 */
import { chmod, chown, copyFile, mkdir, readdir, rename, rm, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Service } from "../core/service-config.ts";
import { readElf } from "./elf.ts";
import {
  compileOptions,
  createImageSpec,
  findSharedLibraries,
  layers,
  type RuntimeLibraries,
} from "./image-spec.ts";
import { APP_DIRECTORY } from "./module-paths.ts";
import { ownArchitecture, type Platform } from "./platform.ts";
import { bundleOptions, explainBundleError, type BundleInputs } from "./bundle.ts";
import { computeImageId, collectInputs } from "./inputs.ts";
import { bundledPackages, loadCycloneDx, createSbom, packagesIn, SBOM, type BundledPackage } from "./sbom.ts";

export interface BuildResult {
  id: string;
  platform: Platform;
  /** What the bundler has to say of source that it takes. */
  warnings: string[];
}

/**
 * Builds into `dist`, which is replaced as a whole: a build that fails leaves the one before.
 *
 * @param runtime what to build for; default: this machine
 * @throws {PipelineError} "project", with the compiler's messages as output, when the source does not compile
 */
export async function buildImage(
  service: Service,
  dist: string,
  runtime = findSharedLibraries(),
): Promise<BuildResult> {
  const inputs = await collectInputs(service, runtime);
  const id = await computeImageId(service, runtime, inputs);
  const built = { id, platform: runtime.platform, warnings: inputs.warnings };
  const part = `${dist}.part-${process.pid}`;
  try {
    const [bundled] = await Promise.all([
      compileBinary(service, { ...inputs, id }, runtime, part),
      // While the compiler is at work in threads of its own.
      loadCycloneDx(),
      layOut(inputs.runtime.files, join(part, "runtime")),
    ]);
    built.warnings.push(...(inputs.pages?.styles?.warnings ?? []));
    await layOut(inputs.beside, join(part, "app"));
    await mkdir(join(part, "app", APP_DIRECTORY), { recursive: true });
    for (const layer of layers) await normalise(join(part, layer));
    const packages = [...bundled, ...(await packagesIn(inputs.packages.values()))];
    await Bun.write(join(part, SBOM), await createSbom(service, { id, packages, runtime: inputs.runtime }));
    await Bun.write(join(part, "image.json"), JSON.stringify(built) + "\n");
    await rm(dist, { recursive: true, force: true });
    await rename(part, dist);
  } finally {
    await rm(part, { recursive: true, force: true });
  }
  return built;
}

/** @returns the packages that the binary bundles */
async function compileBinary(
  service: Service,
  given: BundleInputs,
  { bun, platform: { architecture } }: RuntimeLibraries,
  part: string,
): Promise<BundledPackage[]> {
  const { autoloadBunfig, autoloadDotenv } = compileOptions;
  const { binary } = createImageSpec(service);
  const outfile = join(part, "app", binary);
  const options = await bundleOptions(service, given);
  const { metafile } = await explainBundleError(() =>
    Bun.build({
      ...options,
      compile: {
        outfile,
        autoloadBunfig,
        autoloadDotenv,
        // What lies beside the binary is found by its package.json. The image is read-only.
        autoloadPackageJson: given.external!.length > 0,
        ...(architecture !== ownArchitecture && {
          target: architecture === "arm64" ? ("bun-linux-arm64" as const) : ("bun-linux-x64" as const),
          executablePath: bun,
        }),
      },
    }),
  );
  const made = readElf(outfile);
  if (made.architecture !== architecture) {
    throw new Error(`the compiler made a binary for ${made.architecture}, not for ${architecture}`);
  }
  for (const name of await readdir(dirname(outfile))) {
    if (name.endsWith(".map")) await rename(join(dirname(outfile), name), join(part, `${service.name}.map`));
  }
  return bundledPackages(metafile!);
}

/** @param files path in the image -> where it is */
async function layOut(files: Map<string, string>, tree: string): Promise<void> {
  for (const [path, source] of files) {
    const target = join(tree, path);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, target);
  }
}

/** Mode 0755, owner 0:0 (as root), time 0, contents before their directory, whose time they would touch. */
async function normalise(path: string): Promise<void> {
  const entries = await readdir(path, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOTDIR") return [];
    throw error;
  });
  for (const entry of entries) await normalise(join(path, entry.name));
  await chmod(path, 0o755);
  if (process.getuid?.() === 0) await chown(path, 0, 0);
  await utimes(path, 0, 0);
}
