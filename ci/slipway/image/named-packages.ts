/** Finds packages that the service loads by name at run time, such as a plugin, a transport or a view engine. */
import { join, relative } from "node:path";
import type { Service } from "../core/resolve-service.ts";
import { packageOf } from "./image-paths.ts";
import { peersOf, placeOf, readManifest, resolvePackage, type NativePackages } from "./native-packages.ts";

/**
 * Finds dependencies that the service names in a string and never imports, such as a plugin, a transport or a view engine,
 * and those that another package loads, such as the driver of a database.
 *
 * @param strings strings of the service's modules
 * @param opened files that the bundler opened
 */
export function findNamedPackages(
  { project, external }: Pick<Service, "project" | "external">,
  strings: Set<string>,
  opened: Iterable<string>,
): string[] {
  const { dependencies = {}, optionalDependencies = {} } = readManifest(project);
  const owners = [...opened].flatMap((file) => packageOf(file) ?? []);
  const bundled = new Set(owners.map(({ name }) => name));
  const peers = new Set([...new Set(owners.map(({ directory }) => directory))].flatMap(peersOf));
  return Object.keys({ ...dependencies, ...optionalDependencies }).filter(
    (name) =>
      (strings.has(name) || peers.has(name)) &&
      !bundled.has(name) &&
      !external.includes(name) &&
      resolvePackage(name, project) !== undefined,
  );
}

/** Returns the main modules of packages in the image, if pino is there. @param names packages that are found by name */
export function findTransports({ packages }: NativePackages, names: string[]): Record<string, string> {
  if (!packages.has(placeOf("pino"))) return {};
  const found = names.toSorted().flatMap((name): [string, string][] => {
    const directory = packages.get(placeOf(name));
    try {
      const main = directory && Bun.resolveSync(directory, "/");
      return main ? [[name, join("/", placeOf(name), relative(directory, main))]] : [];
    } catch {
      return [];
    }
  });
  return Object.fromEntries(found);
}
