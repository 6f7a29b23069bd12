/** Downloads packages from the npm registry. */
import { PipelineError } from "./errors.ts";
import { download, type DownloadOptions } from "./http-download.ts";

/**
 * Finds the registry that Bun uses, without a trailing slash.
 *
 * Reads npm_config_registry. Otherwise runs `bun pm view`, which applies .npmrc and bunfig.toml, and takes the registry
 * from a package's URL.
 *
 * @throws {PipelineError} "environment" if Bun cannot reach the registry
 */
export function npmRegistry(): string {
  const { npm_config_registry } = process.env;
  if (npm_config_registry) return npm_config_registry.replace(/\/$/, "");
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "pm", "view", "bun", "dist.tarball"]);
  const [registry, rest] = stdout.toString().split("/bun/-/");
  if (registry && rest) return registry.trim();
  const lastLine = stderr.toString().trim().split("\n").at(-1);
  throw new PipelineError("environment", `Bun cannot reach its package registry: ${lastLine}`, {
    code: "download-failed",
    hint: "Run `bun pm view bun version` to see the error.",
  });
}

/** Downloads a package's tarball. @throws {PipelineError} "environment" if the download fails */
export async function downloadPackage(name: string, version: string, options?: DownloadOptions) {
  const url = `${npmRegistry()}/${name}/-/${name.slice(name.indexOf("/") + 1)}-${version}.tgz`;
  return { url, bytes: await download(url, options) };
}

/** Computes the SHA-512 of bytes in the format of the registry's `dist.integrity`. */
export function integrityOf(bytes: Uint8Array): string {
  return `sha512-${new Bun.CryptoHasher("sha512").update(bytes).digest("base64")}`;
}
