/** Bundles a service without compiling it, to find its inputs. */
import type { Service } from "../core/resolve-service.ts";
import { bundleOptions, explainBundleError, type BundleInputs } from "./bundle-options.ts";
import { findMissingPackages, type MissingPackage } from "./dynamic-imports.ts";
import { loadedModuleOptions } from "./loaded-modules.ts";

/** Bundles the service, and retries without optional packages that are not installed. */
export async function bundleWithoutMissing(service: Service, inputs: BundleInputs = {}) {
  const missing = new Map<string, MissingPackage>();
  for (;;) {
    try {
      return { bundle: await bundleOnly(service, { ...inputs, missingPackages: [...missing.keys()] }), missing };
    } catch (error) {
      const found = [...findMissingPackages(error)].filter(([name]) => !missing.has(name));
      if (found.length === 0) return explainBundleError(() => Promise.reject(error));
      for (const [name, by] of found) missing.set(name, by);
    }
  }
}

/** Bundles a module that the service runs by path. @returns its files */
export async function bundleLoadedModule(service: Service, inputs: BundleInputs): Promise<Bun.BuildOutput> {
  const { execArgv: _, ...options } = await bundleOptions(service, inputs);
  return explainBundleError(() => Bun.build({ ...options, ...loadedModuleOptions }));
}

/** Bundles without compiling, which takes milliseconds. */
export async function bundleOnly(service: Service, inputs: BundleInputs, firstPlugins: Bun.BunPlugin[] = []) {
  const { execArgv: _, ...options } = await bundleOptions(service, inputs);
  const plugins = [...firstPlugins, ...options.plugins];
  return Bun.build({ ...options, plugins, bytecode: false, sourcemap: "none" });
}
