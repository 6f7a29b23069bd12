/**
 * Loads the parts of Dagger's SDK that a pipeline needs. The SDK's index also loads the TypeScript compiler for Dagger
 * modules, which takes twice the time of everything else.
 */
import type * as Sdk from "@dagger.io/dagger";

export type DaggerSdk = Pick<typeof Sdk, "connection" | "dag" | "ExecError">;

const PACKAGE = "@dagger.io/dagger";

/**
 * @param index URL of the package's main module. Default: the installed package.
 * @throws the resolver's error, which names the package, if it is not installed
 */
export async function loadSdk(index = import.meta.resolve(PACKAGE)): Promise<DaggerSdk> {
  // Paths in version 0.21. If another version has other paths, its index is loaded.
  const parts = ["connect.js", "api/client.gen.js", "common/errors/index.js"];
  const loaded = await Promise.all(parts.map((part) => import(new URL(part, index).href))).catch(() => []);
  const sdk = Object.assign({}, ...loaded) as Partial<DaggerSdk>;
  return sdk.connection && sdk.dag && sdk.ExecError ? (sdk as DaggerSdk) : import(index);
}
