/** Installed packages for a copy of the project, without installing them again. */
import { cpSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { root } from "./helloapp-service.ts";

/**
 * Gives a copy of the project a node_modules whose entries are links to this project's; slipway is the copy's own. What
 * slipway keeps there, each copy keeps for itself.
 */
export function linkModules(copy: string): void {
  const modules = join(copy, "node_modules");
  mkdirSync(modules);
  for (const name of readdirSync(join(root, "node_modules"))) {
    if (name === ".cache") continue;
    // An installation writes there: of two copies at once neither is to meet the other's.
    if (name === ".bin") {
      cpSync(join(root, "node_modules", name), join(modules, name), {
        recursive: true,
        verbatimSymlinks: true,
      });
      continue;
    }
    const target = name === "slipway" ? "../ci/slipway" : join(root, "node_modules", name);
    symlinkSync(target, join(modules, name));
  }
}
