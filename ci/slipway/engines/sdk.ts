/**
 * Dagger's SDK, as much of it as a pipeline needs. Its own index loads what modules are written with as well, the TypeScript
 * compiler among it, which takes twice the time of all the rest.
 */
import type * as Sdk from "@dagger.io/dagger";

export type DaggerSdk = Pick<typeof Sdk, "connection" | "dag" | "ExecError">;

const PACKAGE = "@dagger.io/dagger";

/**
 * @param index where the package begins; default: the installed one
 * @throws the resolver's error, which names the package, when it is not installed
 */
export async function loadSdk(index = import.meta.resolve(PACKAGE)): Promise<DaggerSdk> {
  // Where the package has them, 0.21; another version may have them elsewhere, and is then loaded whole.
  const parts = ["connect.js", "api/client.gen.js", "common/errors/index.js"];
  const loaded = await Promise.all(parts.map((part) => import(new URL(part, index).href))).catch(() => []);
  const sdk = Object.assign({}, ...loaded) as Partial<DaggerSdk>;
  return sdk.connection && sdk.dag && sdk.ExecError ? (sdk as DaggerSdk) : import(index);
}
