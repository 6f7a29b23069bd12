/** The versions that the npm registry has of a package. */
import { tryDownload, type DownloadOptions } from "../../slipway/core/download.ts";
import { npmRegistry } from "../../slipway/core/npm.ts";

/** One version of a package. https://github.com/npm/registry/blob/main/docs/responses/package-metadata.md */
export interface PackageVersion {
  version: string;
  dist: { integrity: string };
}

/**
 * @param version a version or a tag such as `latest`
 * @returns undefined when the registry has no such version
 * @throws {PipelineError} "environment" when it cannot be asked
 */
export async function packageVersion(
  name: string,
  version: string,
  options?: DownloadOptions,
): Promise<PackageVersion | undefined> {
  const bytes = await tryDownload(`${npmRegistry()}/${name}/${encodeURIComponent(version)}`, options);
  return bytes && (JSON.parse(new TextDecoder().decode(bytes)) as PackageVersion);
}
