/**
 * `bun run build`: compiles the service and lays the image's files out under dist/, once for everyone.
 *
 *     dist/runtime/   the loader and the C library       layer 1
 *     dist/app/       the binary                         layer 2
 *     dist/image.json id and platform
 *     dist/sbom.cdx.json  what the image is made of, see sbom.ts
 *     dist/helloapp.map  the binary's source map, for debuggers; not in the image
 *
 * Modes and times are fixed here, owners when root builds, so that a layer made from a tree is the same wherever and
 * whenever it is made.
 *
 *     bun ci/build.ts [DIRECTORY] [--id] [--root ROOT]
 *
 * DIRECTORY is built into instead of dist/; `--id` prints the id and builds nothing; ROOT is a system of another architecture,
 * with /usr/local/bin/bun as the base image has it, to take libraries and Bun from.
 */
import { chmod, chown, copyFile, mkdir, readdir, rename, rm, utimes } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { readElf } from "./elf.ts";
import { compile, findRuntime, image, imageId, layers, ownArchitecture, runtimeIn } from "./image.ts";
import type { Platform, Runtime } from "./image.ts";
import { bundledPackages, loadLibrary, makeSbom, SBOM, type BundledPackage } from "./sbom.ts";

export interface Built {
  id: string;
  platform: Platform;
}

/**
 * Builds into `dist`, which is replaced as a whole: a build that fails leaves the one before.
 *
 * @param project the directory with package.json
 * @param runtime what to build for; default: this machine
 * @throws {AggregateError} of the compiler's messages when the source does not compile
 */
export async function build(project: string, dist: string, runtime = findRuntime()): Promise<Built> {
  const built = { id: await imageId(project, runtime), platform: runtime.platform };
  const part = `${dist}.part-${process.pid}`;
  try {
    const [packages] = await Promise.all([
      compileBinary(project, built.id, runtime, part),
      // While the compiler is at work in threads of its own.
      loadLibrary(),
      layOutRuntime(runtime, join(part, "runtime")),
    ]);
    for (const layer of layers) await normalise(join(part, layer));
    await Bun.write(join(part, SBOM), await makeSbom({ id: built.id, packages, runtime }));
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
  project: string,
  id: string,
  { bun, platform: { architecture } }: Runtime,
  part: string,
): Promise<BundledPackage[]> {
  const { entrypoint, autoloadBunfig, autoloadDotenv, ...options } = compile;
  const outfile = join(part, "app", image.binary);
  const { metafile } = await Bun.build({
    ...options,
    metafile: true,
    entrypoints: [join(project, entrypoint)],
    root: project,
    target: "bun",
    define: { BUILD_ID: JSON.stringify(id), "process.env.NODE_ENV": '"production"' },
    compile: {
      outfile,
      autoloadBunfig,
      autoloadDotenv,
      ...(architecture !== ownArchitecture && {
        target: architecture === "arm64" ? "bun-linux-arm64" : "bun-linux-x64",
        executablePath: bun,
      }),
    },
  });
  const made = readElf(outfile);
  if (made.architecture !== architecture) {
    throw new Error(`the compiler made a binary for ${made.architecture}, not for ${architecture}`);
  }
  for (const name of await readdir(dirname(outfile))) {
    if (name.endsWith(".map")) await rename(join(dirname(outfile), name), join(part, `${image.name}.map`));
  }
  return bundledPackages(metafile!);
}

async function layOutRuntime({ files }: Runtime, tree: string): Promise<void> {
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

if (import.meta.main) {
  const project = join(import.meta.dir, "../../..");
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { id: { type: "boolean" }, root: { type: "string" } },
  });
  const runtime = runtimeIn(values.root);
  if (values.id) {
    console.log(await imageId(project, runtime));
  } else {
    const dist = resolve(positionals[0] ?? join(project, "dist"));
    const { id } = await build(project, dist, runtime);
    console.log(`${image.name}:${id}`);
  }
}
