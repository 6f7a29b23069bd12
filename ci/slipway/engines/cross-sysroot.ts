/**
 * What the host engine needs to build for another architecture than this machine's, without running any of it: the C
 * library from Debian's cross packages, Bun from npm. Laid out as the base image is, so that the image gets the same paths.
 */
import { chmod, copyFile, mkdir, readdir, rename, rm, symlink } from "node:fs/promises";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Architecture } from "../image/platform.ts";
import { downloadPackage, integrityOf } from "../core/npm.ts";
import { pins } from "../core/pins.ts";

/** Debian's names. https://packages.debian.org/libc6-arm64-cross */
const debian: Record<Architecture, { triplet: string; package: string; loader: string }> = {
  amd64: { triplet: "x86_64-linux-gnu", package: "libc6-amd64-cross", loader: "lib64/ld-linux-x86-64.so.2" },
  arm64: { triplet: "aarch64-linux-gnu", package: "libc6-arm64-cross", loader: "lib/ld-linux-aarch64.so.1" },
};

/**
 * A root with /usr/local/bin/bun and the C library of `architecture`.
 *
 * @param directory where it is made, and found the next time
 * @throws {PipelineError} "environment" when the cross package is not installed, or npm's Bun is not the pinned one
 */
export async function crossSysroot(
  architecture: Architecture,
  directory: string,
  signal: AbortSignal,
): Promise<string> {
  if (Bun.version !== pins.bun) {
    throw new PipelineError(
      "environment",
      `the host engine builds for ${architecture} with Bun ${pins.bun} alone, whose checksum it has`,
      {
        hint: "The Dagger engine takes any from the base image.",
      },
    );
  }
  const { triplet, package: name, loader } = debian[architecture];
  const libraries = join("/usr", triplet, "lib");
  if (!existsSync(libraries)) {
    throw new PipelineError("environment", `the host engine has no C library for ${architecture} here`, {
      hint: `\`apt-get install ${name}\` brings one; the Dagger engine takes it from the base image instead.`,
    });
  }
  const root = join(directory, `${pins.bun}`);
  const part = `${root}.part-${process.pid}`;
  try {
    const bun = join(root, "usr/local/bin/bun");
    await mkdir(join(part, "usr/local/bin"), { recursive: true });
    if (existsSync(bun)) await copyFile(bun, join(part, "usr/local/bin/bun"));
    else await fetchBun(architecture, join(part, "usr/local/bin/bun"), signal);
    // The libraries each time: an upgrade of the package has to be seen.
    const place = join(part, "usr/lib", triplet);
    await mkdir(place, { recursive: true });
    for (const file of await readdir(libraries)) {
      if (/\.so\.\d+$/.test(file)) await copyFile(join(libraries, file), join(place, file));
    }
    await mkdir(dirname(join(part, loader)), { recursive: true });
    await symlink(join("../usr/lib", triplet, loader.slice(loader.indexOf("/") + 1)), join(part, loader));
    await rm(root, { recursive: true, force: true });
    await rename(part, root);
    return root;
  } finally {
    await rm(part, { recursive: true, force: true });
  }
}

/**
 * Fetches npm's package of the pinned Bun, checks it, and takes the executable out of it.
 *
 * @param pin default: that of `architecture`
 * @throws {PipelineError} "environment" when it cannot be fetched or is not the pinned one; there is no `target` then
 */
export async function fetchBun(
  architecture: Architecture,
  target: string,
  signal: AbortSignal,
  { package: name, integrity } = pins.bunFor[architecture],
): Promise<void> {
  const { url, bytes } = await downloadPackage(name, pins.bun, { signal, seconds: 300 });
  const got = integrityOf(bytes);
  if (got !== integrity) {
    throw new PipelineError(
      "environment",
      `${url} is not the pinned one (pins.bunFor.${architecture}.integrity): it has ${got}`,
      { hint: `Compare with \`npm view ${name}@${pins.bun} dist.integrity\`. It was not used.` },
    );
  }
  const files = await new Bun.Archive(bytes).files("package/bin/bun");
  const bun = files.get("package/bin/bun");
  if (!bun) throw new PipelineError("environment", `${url} has no package/bin/bun`);
  await Bun.write(target, bun);
  await chmod(target, 0o755);
}
