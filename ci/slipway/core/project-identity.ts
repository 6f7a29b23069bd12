/** The identity of a project in a cluster. Two services may have the same name, and only one of them may change its objects. */
import { realpathSync } from "node:fs";
import { relative } from "node:path";
import { runGit } from "./git.ts";
import { readPackage, type Service } from "./resolve-service.ts";

/**
 * Returns the setting `identity`, or the repository's origin with the path and the name of the package in it. Every clone has the
 * same one.
 *
 * @returns undefined without an origin
 */
export async function findIdentity(
  { identity, project }: Pick<Service, "identity" | "project">,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (identity !== undefined) return identity;
  const [origin, top] = await Promise.all([
    runGit(["remote", "get-url", "origin"], { cwd: project, signal }),
    runGit(["rev-parse", "--show-toplevel"], { cwd: project, signal }),
  ]);
  if (!origin || !top) return undefined;
  const path = relative(realpathSync(top.replace(/\n$/, "")), project) || ".";
  return [normalizeOrigin(origin.trim()), path, readPackage(project).name ?? ""].join(" ");
}

/** Writes the forms of one URL in one way: `git@github.com:me/shop.git` and `https://github.com/me/shop` are the same. */
export function normalizeOrigin(origin: string): string {
  const [, scpHost, scpPath] = /^(?:[^@/:]+@)?([^/:]+):(?!\/\/)(.*)$/.exec(origin) ?? [];
  const url = scpHost === undefined ? origin : `ssh://${scpHost}/${scpPath}`;
  const [, host, path] = /^[a-z][a-z+.-]*:\/\/(?:[^@/]*@)?([^/:]+)(?::\d+)?\/(.*)$/i.exec(url) ?? [];
  const text = host === undefined ? origin : `${host.toLowerCase()}/${path!.replace(/^\/+/, "")}`;
  return text.replace(/\/+$/, "").replace(/\.git$/, "");
}
