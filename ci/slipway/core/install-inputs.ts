/** Finds the files that `bun install` reads besides the package.json files of the root and its members. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { isWorkspaceMember, readPackage, workspacePatternsOf, type PackageJson } from "./resolve-service.ts";

export interface InstallInputs {
  /** Directories of the workspace's members, relative to the root. Empty without a workspace. */
  members: string[];
  /** Settings, package archives and patches, relative to the root. */
  files: string[];
  /** Whether it runs scripts of the workspace, which may read any file. */
  hasHooks: boolean;
}

export function findBunInstallInputs(root: string): InstallInputs {
  const members = membersOf(root);
  const packages = new Map(["", ...members].map((member) => [member, readPackage(join(root, member))]));
  return {
    members,
    files: ["bunfig.toml", ".npmrc", ...localFiles(packages)].filter((name) => existsSync(join(root, name))),
    hasHooks: [...packages.values()].some(({ scripts = {} }) => hooks.some((name) => name in scripts)),
  };
}

/** Scripts of workspace packages that an installation runs. */
const hooks = ["preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare"];

/** Lists package archives (`file:vendor/x.tgz`) and patches, relative to the root. */
function localFiles(packages: Map<string, PackageJson>): string[] {
  const found = [...packages].flatMap(([member, packageJson]) => {
    const { dependencies, devDependencies, optionalDependencies, patchedDependencies = {} } = packageJson;
    const versions = { ...dependencies, ...devDependencies, ...optionalDependencies };
    const archives = Object.values(versions).flatMap(
      (version) => /^file:(.*\.(?:tgz|tar\.gz))$/.exec(version)?.[1] ?? [],
    );
    const paths = [...archives, ...Object.values(patchedDependencies)];
    return paths.filter((path) => !path.startsWith("/")).flatMap((path) => [join(member, path), join(path)]);
  });
  return [...new Set(found)].filter((path) => !path.startsWith("../")).sort();
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
