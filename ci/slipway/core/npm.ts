/** The npm registry, as far as the build needs it. */
import { PipelineError } from "./errors.ts";
import { download, type DownloadOptions } from "./download.ts";

/**
 * The registry that Bun asks, without a slash at its end: npm_config_registry, else what .npmrc or bunfig.toml say, else npm's
 * own. Bun is asked for it, by the address of a package.
 *
 * @throws {PipelineError} "environment" when Bun does not reach it
 */
export function npmRegistry(): string {
  const { npm_config_registry } = process.env;
  if (npm_config_registry) return npm_config_registry.replace(/\/$/, "");
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "pm", "view", "bun", "dist.tarball"]);
  const [registry, rest] = stdout.toString().split("/bun/-/");
  if (registry && rest) return registry.trim();
  const words = stderr.toString().trim().split("\n").at(-1);
  throw new PipelineError("environment", `Bun does not reach its package registry: ${words}`, {
    hint: "`bun pm view bun version` asks it the same.",
  });
}

/** The package's tarball. @throws {PipelineError} "environment" when it cannot be fetched */
export async function downloadPackage(name: string, version: string, options?: DownloadOptions) {
  const url = `${npmRegistry()}/${name}/-/${name.slice(name.indexOf("/") + 1)}-${version}.tgz`;
  return { url, bytes: await download(url, options) };
}

/** SHA-512 of bytes, as the registry's `dist.integrity` has it. */
export function integrityOf(bytes: Uint8Array): string {
  return `sha512-${new Bun.CryptoHasher("sha512").update(bytes).digest("base64")}`;
}
