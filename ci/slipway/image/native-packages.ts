/**
 * Native addons: what of them the bundler embeds, what has to lie beside the binary, and which libraries they link.
 *
 * An addon whose path stands in the source as text (napi-rs) becomes part of the binary, which unpacks it below /tmp when it
 * starts. One that is looked for at run time (sharp, node-gyp-build, bindings) cannot: its package lies in the image, with
 * the packages that it asks for, and is loaded from there.
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { readElf } from "./elf.ts";
import type { Architecture } from "./platform.ts";

export interface NativePackages {
  /** Packages that lie beside the binary: name -> directory here. */
  packages: Map<string, string>;
  /** Addons and libraries that are loaded at run time: what they link has to be in the image. */
  objects: string[];
  /** Those that packages bring for other systems: left out. */
  others: Set<string>;
}

interface Manifest {
  version?: string;
  os?: string[];
  cpu?: string[];
  libc?: string[];
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

const GLIBC = "libc.so.6";

/** Packages that find an addon at run time: who depends on one has an addon that the bundler cannot see. */
const finders = ["bindings", "node-gyp-build", "prebuild-install", "@mapbox/node-pre-gyp", "node-gyp"];

/**
 * @param opened the files that the bundler opened
 * @param carried names of packages that the service wants beside the binary
 * @param architecture of the image
 * @throws {PipelineError} "project" when an addon cannot be carried, with the reason
 */
export function findNativePackages(
  opened: Iterable<string>,
  carried: string[],
  architecture: Architecture,
): NativePackages {
  const files = [...opened];
  const embedded = files.filter((file) => file.endsWith(".node"));
  const owners = new Map<string, string>();
  for (const file of files) {
    const [directory, name] = /^(.*\/node_modules\/((?:@[^/]+\/)?[^/]+))\//.exec(file)?.slice(1) ?? [];
    if (directory && name) owners.set(directory, name);
  }
  const packages = new Map<string, string>();
  for (const [directory, name] of owners) {
    if (carried.includes(name) || findsItsAddon(directory, embedded)) carry(name, directory, packages);
  }
  const missing = carried.find((name) => !packages.has(name));
  if (missing)
    throw new PipelineError("project", `the service imports no package ${missing}, which \`native\` names`);
  // One for musl may have come into the binary beside the other, and is never loaded.
  const own = embedded.filter(isForGlibc);
  for (const object of own) if (!isFor(architecture)(object)) throw misfit(object, architecture);
  const [objects, others] = [own, new Set<string>()];
  for (const directory of packages.values()) {
    const all = objectsIn(directory);
    const fitting = all.filter((object) => isForGlibc(object) && isFor(architecture)(object));
    if (all[0] && fitting.length === 0) throw misfit(all[0], architecture);
    objects.push(...fitting);
    for (const object of all) if (!fitting.includes(object)) others.add(object);
  }
  return { packages, objects, others };
}

const isFor = (architecture: Architecture) => (object: string) =>
  readElf(object).architecture === architecture;

function misfit(object: string, architecture: Architecture): PipelineError {
  const what = isElf(object) ? readElf(object).architecture : "another system";
  return new PipelineError(
    "project",
    `the native addon ${object} is for ${what}, and the image for ${architecture}`,
    {
      hint: `\`bun install --cpu=${architecture === "arm64" ? "arm64" : "x64"}\` installs that of another architecture, where its package has one.`,
    },
  );
}

/** What of the packages belongs into the image: not their documentation, types, sources and builds' leftovers. */
export function filesOfPackages({ packages, others }: NativePackages): [path: string, file: string][] {
  return [...packages].flatMap(([name, directory]) =>
    [...contents.scanSync({ cwd: directory, dot: false })]
      .filter(
        (path) =>
          !/(^|\/)(node_modules|docs?|tests?|examples?)\/|\.(md|map|[cm]?ts|c|cc|cpp|h|hpp|gyp|o|a)$/i.test(
            path,
          ),
      )
      .map((path): [string, string] => [`node_modules/${name}/${path}`, join(directory, path)])
      .filter(([, file]) => !others.has(file)),
  );
}

const contents = new Bun.Glob("**/*");

/** Whether a package has an addon that is none of those that the bundler embeds. */
function findsItsAddon(directory: string, embedded: string[]): boolean {
  const { dependencies = {}, optionalDependencies = {} } = manifestOf(directory);
  if (finders.some((name) => name in dependencies)) return true;
  if (["binding.gyp", "prebuilds"].some((name) => existsSync(join(directory, name)))) return true;
  const platforms = Object.keys(optionalDependencies)
    .map((name) => find(name, directory))
    .filter((found) => found !== undefined && objectsIn(found).some((object) => object.endsWith(".node")));
  return platforms.length > 0 && !platforms.some((at) => embedded.some((file) => file.startsWith(`${at}/`)));
}

/** Takes a package and all that it asks for; of optional ones what is installed for this system. */
function carry(name: string, directory: string, packages: Map<string, string>): void {
  const other = packages.get(name);
  if (other !== undefined && other !== directory && versionOf(other) !== versionOf(directory)) {
    throw new PipelineError(
      "project",
      `two versions of ${name} would have to lie in the image: ${other} and ${directory}`,
    );
  }
  if (other !== undefined) return;
  packages.set(name, directory);
  const { dependencies = {}, optionalDependencies = {} } = manifestOf(directory);
  for (const wanted of Object.keys({ ...dependencies, ...optionalDependencies })) {
    const found = find(wanted, directory);
    if (found && fits(found)) carry(wanted, found, packages);
    else if (!found && wanted in dependencies) {
      throw new PipelineError("project", `${wanted}, which ${name} needs in the image, is not installed`);
    }
  }
}

/** The C library of the image is glibc: an addon for musl would be dead weight. Not every package says which it is for. */
function fits(directory: string): boolean {
  const { libc } = manifestOf(directory);
  if (libc) return libc.includes("glibc");
  const objects = objectsIn(directory).filter(isElf);
  return objects.length === 0 || objects.some(isForGlibc);
}

/** musl's library has another name, and so has that of another system. */
function isForGlibc(object: string): boolean {
  return (
    isElf(object) && readElf(object).needed.every((library) => !/^libc\./.test(library) || library === GLIBC)
  );
}

function manifestOf(directory: string): Manifest {
  try {
    return JSON.parse(readFileSync(join(directory, "package.json"), "utf8")) as Manifest;
  } catch {
    return {};
  }
}

const versionOf = (directory: string) => manifestOf(directory).version;

/** Where a package asks for another. */
function find(name: string, from: string): string | undefined {
  for (let at = from; ; at = dirname(at)) {
    const place = join(at, "node_modules", name);
    if (existsSync(place)) return realpathSync(place);
    if (at === dirname(at)) return undefined;
  }
}

/** Addons and libraries in a package, for whatever system. */
function objectsIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true }).flatMap((entry) => {
    const file = join(entry.parentPath, entry.name);
    const named = entry.isFile() && /\.(node|so(\.[\d.]+)?)$/.test(entry.name);
    return named && !file.slice(directory.length).includes("/node_modules/") ? [file] : [];
  });
}

/** And for an architecture that Bun runs on. */
function isElf(file: string): boolean {
  try {
    readElf(file);
    return true;
  } catch {
    return false;
  }
}
