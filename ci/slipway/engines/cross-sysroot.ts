/**
 * Provides the files that the host engine needs to build for another architecture: the C library from Debian's cross packages,
 * and Bun from npm. None of them is executed. The layout matches the base image, so that the image gets the same paths.
 */
import { chmod, copyFile, mkdir, readdir, rename, rm, symlink } from "node:fs/promises";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Architecture } from "../image/architecture.ts";
import { downloadPackage, integrityOf } from "../core/npm-registry.ts";
import { pins } from "../core/pins.ts";

/** Names in Debian. https://packages.debian.org/libc6-arm64-cross */
const debian: Record<Architecture, { triplet: string; package: string; loader: string }> = {
  amd64: { triplet: "x86_64-linux-gnu", package: "libc6-amd64-cross", loader: "lib64/ld-linux-x86-64.so.2" },
  arm64: { triplet: "aarch64-linux-gnu", package: "libc6-arm64-cross", loader: "lib/ld-linux-aarch64.so.1" },
};

/**
 * Creates or updates a root directory with /usr/local/bin/bun and the C library of `architecture`.
 *
 * @param directory cache in which the root is created
 * @throws {PipelineError} "environment" if the cross package is not installed, or Bun's checksum does not match
 */
export async function crossSysroot(
  architecture: Architecture,
  directory: string,
  signal: AbortSignal,
): Promise<string> {
  if (Bun.version !== pins.bun) {
    throw new PipelineError(
      "environment",
      `the host engine builds for ${architecture} only with Bun ${pins.bun}, whose checksum is pinned`,
      { code: "cross-build-unavailable", hint: "Use --engine dagger, which takes any version from the base image." },
    );
  }
  const { triplet, package: name, loader } = debian[architecture];
  const libraries = join("/usr", triplet, "lib");
  if (!existsSync(libraries)) {
    throw new PipelineError("environment", `the host engine has no C library for ${architecture} on this machine`, {
      code: "cross-build-unavailable",
      hint: `Run \`apt-get install ${name}\`, or use the Dagger engine, which takes the library from the base image.`,
    });
  }
  const root = join(directory, `${pins.bun}`);
  const part = `${root}.part-${process.pid}`;
  try {
    const bun = join(root, "usr/local/bin/bun");
    await mkdir(join(part, "usr/local/bin"), { recursive: true });
    if (existsSync(bun)) await copyFile(bun, join(part, "usr/local/bin/bun"));
    else await fetchBun(architecture, join(part, "usr/local/bin/bun"), signal);
    // Copied each time, because the package may have been upgraded.
    const libraryTarget = join(part, "usr/lib", triplet);
    await mkdir(libraryTarget, { recursive: true });
    for (const file of await readdir(libraries)) {
      if (/\.so\.\d+$/.test(file)) await copyFile(join(libraries, file), join(libraryTarget, file));
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
 * Downloads the npm package of the pinned Bun, verifies its checksum and extracts the executable.
 *
 * @param pin default: the pin of `architecture`
 * @throws {PipelineError} "environment" if the download fails or the checksum does not match. `target` is not created then.
 */
export async function fetchBun(
  architecture: Architecture,
  target: string,
  signal: AbortSignal,
  { package: name, integrity } = pins.bunFor[architecture],
): Promise<void> {
  const { url, bytes } = await downloadPackage(name, pins.bun, { signal, timeoutSeconds: 300 });
  const actual = integrityOf(bytes);
  if (actual !== integrity) {
    throw new PipelineError(
      "environment",
      `checksum mismatch: ${url} has ${actual}, expected pins.bunFor.${architecture}.integrity. It was not used`,
      { code: "checksum-mismatch", hint: `Compare with \`npm view ${name}@${pins.bun} dist.integrity\`.` },
    );
  }
  const files = await new Bun.Archive(bytes).files("package/bin/bun");
  const bun = files.get("package/bin/bun");
  if (!bun)
    throw new PipelineError("environment", `${url} does not contain package/bin/bun`, { code: "checksum-mismatch" });
  await Bun.write(target, bun);
  await chmod(target, 0o755);
}
