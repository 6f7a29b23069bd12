/** Finds the files that `bun install` reads besides the package.json files of the root and its members. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { isWorkspaceMember, readPackage, workspacePatternsOf, type PackageJson } from "./resolve-service.ts";

export interface InstallInputs {
  /** Directories of the workspace's members, relative to the root. Empty without a workspace. */
  members: string[];
  /** Settings, package archives, directories of local packages, and patches, relative to the root. */
  files: string[];
  /** Local packages outside the root, which a container cannot install: `file:../lib`. */
  outside: string[];
  /** Whether it runs scripts of the workspace, which may read any file. */
  hasHooks: boolean;
}

export function findBunInstallInputs(root: string): InstallInputs {
  const members = membersOf(root);
  const packages = new Map(["", ...members].map((member) => [member, readPackage(join(root, member))]));
  const local = localFiles(packages);
  const isOutside = (path: string) => path.startsWith("../") || path.startsWith("/");
  return {
    members,
    outside: local.filter((path) => isOutside(path) && existsSync(resolve(root, path))),
    files: ["bunfig.toml", ".npmrc", ...local.filter((path) => !isOutside(path))].filter((name) =>
      existsSync(join(root, name)),
    ),
    hasHooks: [...packages.values()].some(({ scripts = {} }) => hooks.some((name) => name in scripts)),
  };
}

/** Scripts of workspace packages that an installation runs. */
const hooks = ["preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare"];

/** Lists package archives, directories (`file:vendor/x.tgz`, `file:vendor/x`) and patches, relative to the root. */
function localFiles(packages: Map<string, PackageJson>): string[] {
  const found = [...packages].flatMap(([member, packageJson]) => {
    const { dependencies, devDependencies, optionalDependencies, patchedDependencies = {} } = packageJson;
    const versions = { ...dependencies, ...devDependencies, ...optionalDependencies };
    // Bun also takes a bare path: "./vendor/x".
    const local = Object.values(versions).flatMap(
      (version) => /^(?:file|link):(?!\/\/)(.+)$|^(\.{1,2}\/.+)$/.exec(version)?.slice(1).find(Boolean) ?? [],
    );
    const paths = [...local, ...Object.values(patchedDependencies)].map((path) => path.replace(/(?!^)\/$/, ""));
    return paths.flatMap((path) => (path.startsWith("/") ? [path] : [join(member, path), join(path)]));
  });
  // A member is copied with the workspace.
  return [...new Set(found)].filter((path) => !packages.has(path) && !/^\.(\.\/?)*$/.test(path)).sort();
}

function membersOf(root: string): string[] {
  const patterns = workspacePatternsOf(root);
  const found = patterns
    .filter((pattern) => !pattern.startsWith("!"))
    .flatMap((pattern) => {
      const clean = pattern.replace(/^\.\/|\/$/g, "");
      return [...new Bun.Glob(`${clean}/package.json`).scanSync({ cwd: root })];
    });
  return [...new Set(found)]
    .filter((path) => !path.includes("node_modules/"))
    .map((path) => path.slice(0, -"/package.json".length))
    .filter((path) => isWorkspaceMember(path, patterns))
    .sort();
}
