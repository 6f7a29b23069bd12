/** The npm registry, as far as pins need it. */
import { download, downloadIfThere, type DownloadOptions } from "./download.ts";

/** One version of a package. https://github.com/npm/registry/blob/main/docs/responses/package-metadata.md */
export interface PackageVersion {
  version: string;
  dist: { integrity: string };
}

/** Without a slash at its end. Another one: npm_config_registry, as npm itself has it. */
export function npmRegistry(): string {
  return (process.env.npm_config_registry ?? "https://registry.npmjs.org").replace(/\/$/, "");
}

/**
 * @param version a version or a tag such as `latest`
 * @returns undefined when the registry has no such version
 * @throws {PipelineError} "surroundings" when it cannot be asked
 */
export async function packageVersion(
  name: string,
  version: string,
  options?: DownloadOptions,
): Promise<PackageVersion | undefined> {
  const bytes = await downloadIfThere(`${npmRegistry()}/${name}/${encodeURIComponent(version)}`, options);
  return bytes && (JSON.parse(new TextDecoder().decode(bytes)) as PackageVersion);
}

/** The package's tarball. @throws {PipelineError} "surroundings" when it cannot be fetched */
export async function downloadPackage(name: string, version: string, options?: DownloadOptions) {
  const url = `${npmRegistry()}/${name}/-/${name.slice(name.indexOf("/") + 1)}-${version}.tgz`;
  return { url, bytes: await download(url, options) };
}

/** SHA-512 of bytes, as the registry's `dist.integrity` has it. */
export function integrityOf(bytes: Uint8Array): string {
  return `sha512-${new Bun.CryptoHasher("sha512").update(bytes).digest("base64")}`;
}
