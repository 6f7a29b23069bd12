/** Reads package versions from the npm registry. */
import { downloadIfExists, type DownloadOptions } from "../../slipway/core/http-download.ts";
import { npmRegistry } from "../../slipway/core/npm-registry.ts";

/** A version of a package. https://github.com/npm/registry/blob/main/docs/responses/package-metadata.md */
export interface PackageVersion {
  version: string;
  dist: { integrity: string };
}

/**
 * Looks up a version of a package.
 *
 * @param version a version or a tag such as `latest`
 * @returns undefined if the registry does not have the version
 * @throws {PipelineError} "environment" if the request fails
 */
export async function packageVersion(
  name: string,
  version: string,
  options?: DownloadOptions,
): Promise<PackageVersion | undefined> {
  const bytes = await downloadIfExists(`${npmRegistry()}/${name}/${encodeURIComponent(version)}`, options);
  return bytes && (JSON.parse(new TextDecoder().decode(bytes)) as PackageVersion);
}
