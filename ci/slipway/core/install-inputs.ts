/** What `bun install` reads of a project, beside package.json of the root and of its members. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { isWorkspaceMember, readPackage, workspacePatternsOf, type PackageJson } from "./service-config.ts";

export interface InstallInputs {
  /** Directories of the workspace's members, from its root; none where there is no workspace. */
  members: string[];
  /** Files, from the root: settings, packages that are files, patches. */
  files: string[];
  /** Whether it runs scripts of the workspace's own, which may read anything. */
  hasHooks: boolean;
}

export function findInstallInputs(root: string): InstallInputs {
  const members = membersOf(root);
  const packages = new Map(["", ...members].map((member) => [member, readPackage(join(root, member))]));
  return {
    members,
    files: ["bunfig.toml", ".npmrc", ...localFiles(packages)].filter((name) => existsSync(join(root, name))),
    hasHooks: [...packages.values()].some(({ scripts = {} }) => hooks.some((name) => name in scripts)),
  };
}

/** What an installation runs of the packages that lie in the workspace. */
const hooks = ["preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare"];

/** Packages that are files in the workspace (`file:vendor/x.tgz`), and patches of others; from its root. */
function localFiles(packages: Map<string, PackageJson>): string[] {
  const found = [...packages].flatMap(([member, own]) => {
    const all = { ...own.dependencies, ...own.devDependencies, ...own.optionalDependencies };
    const archives = Object.values(all).flatMap(
      (version) => /^file:(.*\.(?:tgz|tar\.gz))$/.exec(version)?.[1] ?? [],
    );
    const paths = [...archives, ...Object.values(own.patchedDependencies ?? {})];
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
