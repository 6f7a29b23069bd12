/**
 * Finds native addons, the packages that must be copied into the image for them, and the libraries that they link.
 *
 * The bundler embeds an addon whose path is a literal in the source (napi-rs). The binary extracts it below /tmp when it
 * starts. Packages that search for their addon at run time (sharp, node-gyp-build, bindings) cannot be embedded. They
 * are copied into the image unbundled, with their dependencies.
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { readElf } from "./elf.ts";
import type { Architecture } from "./architecture.ts";
import { packageOf } from "./image-paths.ts";

export interface NativePackages {
  /** Packages to copy into the image unbundled: path in the image, without a leading slash -> directory on this machine. */
  packages: Map<string, string>;
  /** Names of the packages that the bundler leaves out. */
  external: string[];
  /** Addons and libraries that are loaded at run time. The libraries that they link must be in the image. */
  objects: string[];
  /** Addons and libraries for other systems, which are left out. */
  foreignObjects: Set<string>;
}

interface Manifest {
  os?: string[];
  cpu?: string[];
  libc?: string[];
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  peerDependenciesMeta?: Record<string, unknown>;
}

const GLIBC = "libc.so.6";

/** Packages that find an addon at run time. A package that depends on one has an addon that the bundler cannot see. */
const addonLoaders = ["bindings", "node-gyp-build", "prebuild-install", "@mapbox/node-pre-gyp", "node-gyp"];

/**
 * Finds the packages with native addons among those that the bundler opened.
 *
 * @param opened files that the bundler opened
 * @param requested names of packages in the `nativePackages` setting, and of those that run their own code by path
 * @param project directory that resolves packages which are not imported
 * @param architecture architecture of the image
 * @throws {PipelineError} "project" if an addon or a package cannot be included, with the reason
 */
export function findNativePackages(
  opened: Iterable<string>,
  requested: string[],
  architecture: Architecture,
  project: string,
): NativePackages {
  const files = [...opened];
  const embedded = files.filter((file) => file.endsWith(".node"));
  const owners = new Map<string, string>();
  for (const file of files) {
    const owner = packageOf(file);
    if (owner) owners.set(owner.directory, owner.name);
  }
  const unbundled = new Map<string, string>();
  for (const [directory, name] of owners) {
    if (requested.includes(name) || hasHiddenAddon(directory, embedded))
      unbundle(name, directory, owners, { project, unbundled });
  }
  for (const name of requested) if (!unbundled.has(name)) unbundled.set(name, resolveRequested(name, project));
  const packages = new Map([...unbundled].map(([name, directory]) => [placeOf(name), directory]));
  for (const [name, directory] of unbundled) addDependencies(name, directory, placeOf(name), packages, owners);
  // A dependency stays bundled if the bundle has another version of it.
  const isBundled = (name: string, directory: string) =>
    [...owners].some(([at, owner]) => owner === name && at !== directory && !unbundled.has(name));
  const external = [...packages].flatMap(([place, directory]) => {
    const name = place.slice("node_modules/".length);
    return name.includes("/node_modules/") || isBundled(name, directory) ? [] : [name];
  });
  // The bundler can embed an addon for musl as well, which is never loaded.
  const objects = embedded.filter(isForGlibc);
  for (const object of objects) if (!isFor(architecture)(object)) throw wrongArchitecture(object, architecture);
  const foreignObjects = new Set<string>();
  for (const directory of packages.values()) {
    const all = listObjects(directory);
    const compatible = all.filter((object) => isForGlibc(object) && isFor(architecture)(object));
    if (all[0] && compatible.length === 0) throw wrongArchitecture(all[0], architecture);
    objects.push(...compatible);
    for (const object of all) if (!compatible.includes(object)) foreignObjects.add(object);
  }
  return { packages, external, objects, foreignObjects };
}

const isFor = (architecture: Architecture) => (object: string) => readElf(object).architecture === architecture;

function wrongArchitecture(object: string, architecture: Architecture): PipelineError {
  const actual = isElf(object) ? readElf(object).architecture : "another system";
  return new PipelineError(
    "project",
    `the native addon ${object} is for ${actual}, but the image is for ${architecture}`,
    {
      code: "native-addon-architecture",
      hint: `Run \`bun install --cpu=${architecture === "arm64" ? "arm64" : "x64"}\` to install the addon for ${architecture}, if its package provides it.`,
    },
  );
}

/** Lists the files of packages for the image, without documentation, types, sources and build artifacts. */
export function listPackageFiles({ packages, foreignObjects }: NativePackages): [path: string, file: string][] {
  return [...packages].flatMap(([place, directory]) =>
    [...allFiles.scanSync({ cwd: directory, dot: false })]
      .filter(
        (path) =>
          !/(^|\/)node_modules\/|^(docs?|tests?|examples?)\/|\.(md|map|[cm]?ts|c|cc|cpp|h|hpp|gyp|o|a)$/i.test(path),
      )
      .map((path): [string, string] => [`${place}/${path}`, join(directory, path)])
      .filter(([, file]) => !foreignObjects.has(file)),
  );
}

const allFiles = new Bun.Glob("**/*");

/** Whether a package has an addon that the bundler does not embed. */
function hasHiddenAddon(directory: string, embedded: string[]): boolean {
  const { dependencies = {}, optionalDependencies = {} } = readManifest(directory);
  if (addonLoaders.some((name) => name in dependencies)) return true;
  if (["binding.gyp", "prebuilds"].some((name) => existsSync(join(directory, name)))) return true;
  const platformPackages = Object.keys(optionalDependencies)
    .map((name) => resolvePackage(name, directory))
    .filter((found) => found !== undefined && listObjects(found).some((object) => object.endsWith(".node")));
  const isEmbedded = platformPackages.some((at) => embedded.some((file) => file.startsWith(`${at}/`)));
  return platformPackages.length > 0 && !isEmbedded;
}

export const placeOf = (name: string, parent = "") => join(parent, "node_modules", name);

/** @throws {PipelineError} "project" if the setting names a package that is not installed */
function resolveRequested(name: string, project: string): string {
  const directory = resolvePackage(name, project);
  if (directory) return directory;
  throw new PipelineError("project", `\`nativePackages\` lists ${name}, which is not installed`, {
    code: "native-package-invalid",
    hint: `Run \`bun add ${name}\`, or correct the name in ci/pipeline.ts.`,
  });
}

/**
 * Takes a package out of the bundle. If the service has another version, takes out the packages that import this one.
 *
 * @param owners packages in the bundle: directory -> name
 * @throws {PipelineError} "project" if two versions would have the same place
 */
function unbundle(
  name: string,
  directory: string,
  owners: Map<string, string>,
  { project, unbundled }: { project: string; unbundled: Map<string, string> },
): void {
  if (unbundled.get(name) === directory) return;
  const own = resolvePackage(name, project);
  const isOwn = own === undefined || own === directory;
  const importers = isOwn
    ? []
    : [...owners].filter(([at]) => at !== directory && resolvePackage(name, at) === directory);
  for (const [at, importer] of importers) if (importer !== name) unbundle(importer, at, owners, { project, unbundled });
  if (importers.length > 0) return;
  const other = unbundled.get(name);
  if (other !== undefined) {
    throw new PipelineError("project", `the image would need two versions of ${name}: ${other} and ${directory}`, {
      code: "native-package-invalid",
      hint: `Add the package that imports ${directory} to \`nativePackages\` in ci/pipeline.ts.`,
    });
  }
  unbundled.set(name, directory);
}

/**
 * Adds the dependencies of a package. Optional ones are added if they are installed for this system, and peers, such as
 * the driver of a query builder, if the bundler opened them.
 *
 * Another version of a package is nested below its parent, as package managers do.
 */
function addDependencies(
  name: string,
  directory: string,
  place: string,
  packages: Map<string, string>,
  owners: Map<string, string>,
): void {
  const { dependencies = {}, optionalDependencies } = readManifest(directory);
  const peers = peersOf(directory).filter((peer) => owners.has(resolvePackage(peer, directory) ?? ""));
  const added: [name: string, directory: string, place: string][] = [];
  for (const dependency of new Set([...Object.keys({ ...dependencies, ...optionalDependencies }), ...peers])) {
    const found = resolvePackage(dependency, directory);
    if (found && isPackageForGlibc(found)) {
      const existing = resolvePlace(dependency, place, packages);
      if (existing === found) continue;
      added.push([dependency, found, placeOf(dependency, existing === undefined ? "" : place)]);
    } else if (!found && dependency in dependencies) {
      throw new PipelineError("project", `${dependency}, which ${name} needs in the image, is not installed`, {
        code: "native-package-invalid",
      });
    }
  }
  // All direct dependencies get their place before their own dependencies.
  for (const [, found, at] of added) packages.set(at, found);
  for (const [dependency, found, at] of added) addDependencies(dependency, found, at, packages, owners);
}

/** Resolves a package among those of the image, from a place in the image. */
function resolvePlace(name: string, from: string, packages: Map<string, string>): string | undefined {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf("/node_modules/")))) {
    const found = packages.get(placeOf(name, at));
    if (found !== undefined || at === "") return found;
  }
}

/** Whether a package works with glibc, the C library of the image. Packages without `libc` are checked by content. */
function isPackageForGlibc(directory: string): boolean {
  const { libc } = readManifest(directory);
  if (libc) return libc.includes("glibc");
  const objects = listObjects(directory).filter(isElf);
  return objects.length === 0 || objects.some(isForGlibc);
}

/** Whether an object links glibc or no C library. musl and other systems use other library names. */
function isForGlibc(object: string): boolean {
  return isElf(object) && readElf(object).needed.every((library) => !/^libc\./.test(library) || library === GLIBC);
}

export function readManifest(directory: string): Manifest {
  try {
    return JSON.parse(readFileSync(join(directory, "package.json"), "utf8")) as Manifest;
  } catch {
    return {};
  }
}

/** Returns the names of packages that a package expects beside it. */
export function peersOf(directory: string): string[] {
  const { peerDependencies, peerDependenciesMeta } = readManifest(directory);
  return Object.keys({ ...peerDependencies, ...peerDependenciesMeta });
}

/** Resolves a package to its directory, like an import from the directory `from`. */
export function resolvePackage(name: string, from: string): string | undefined {
  for (let at = from; ; at = dirname(at)) {
    const place = join(at, "node_modules", name);
    if (existsSync(place)) return realpathSync(place);
    if (at === dirname(at)) return undefined;
  }
}

/** Lists the addons and libraries of a package, for any system. */
function listObjects(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).flatMap((entry) => {
    const file = join(entry.parentPath, entry.name);
    const named = entry.isFile() && /\.(node|so(\.[\d.]+)?)$/.test(entry.name);
    return named && !file.slice(directory.length).includes("/node_modules/") ? [file] : [];
  });
}

/** Whether a file is an ELF file for an architecture that Bun supports. */
function isElf(file: string): boolean {
  try {
    readElf(file);
    return true;
  } catch {
    return false;
  }
}
