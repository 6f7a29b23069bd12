/** Runs kustomize on an SSH host if this machine has none: sends the kustomization's files and returns the output. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { parse } from "yaml";
import { kustomizationIn } from "../kubernetes/find-kustomization.ts";
import { PipelineError } from "../core/errors.ts";
import type { ProcessResult } from "../core/process.ts";
import { shellQuote } from "./shell-quote.ts";
import type { SshSession } from "./shared-session.ts";

/** Limit for all manifests together. Larger files are not manifests. */
const MAX_BYTES = 8 << 20;

/**
 * Bases may be anywhere, also above the project: kustomize restricts files alone, to those below their kustomization.
 *
 * @param overlay the directory of the kustomization
 * @throws {PipelineError} "project" if the kustomization reads more than MAX_BYTES
 */
export async function kustomizeRemotely(session: SshSession, overlay: string): Promise<ProcessResult> {
  const files = kustomizationFiles(overlay);
  const root = commonDirectory([join(overlay, "."), ...files.map(dirname)]);
  const contents = files.map((file) => readFileSync(file));
  if (contents.reduce((sum, { length }) => sum + length, 0) > MAX_BYTES)
    throw new PipelineError("project", `the manifests in ${overlay} exceed ${MAX_BYTES} bytes`, {
      code: "manifests-too-large",
    });
  const { directory } = await session.hostInfo();
  const paths = files.map((file) => relative(root, file));
  const directories = [...new Set(paths.map(dirname))];
  const script = `d=${directory}/manifests.$$
trap 'rm -rf "$d"' EXIT
mkdir "$d" && cd "$d" || exit
mkdir -p -- ${directories.map(shellQuote).join(" ")} || exit
${paths.map((path, i) => `head -c ${contents[i]!.length} >${shellQuote(path)}`).join("\n")}
k3s kubectl kustomize ${shellQuote(relative(root, overlay) || ".")}`;
  return session.run(script, { input: Buffer.concat(contents), timeoutSeconds: 60 });
}

/** Returns the lowest directory that contains all of these. */
export function commonDirectory(directories: string[]): string {
  const [first = "/", ...others] = directories;
  const contains = (parent: string) => others.every((path) => !relative(parent, path).startsWith(".."));
  let parent = first;
  while (!contains(parent)) parent = dirname(parent);
  return parent;
}

/**
 * Lists all files that a kustomization may read. Every text in any of its fields that is the path of an existing file
 * counts. For a directory, its own kustomization is followed.
 */
export function kustomizationFiles(directory: string, seen: Set<string> = new Set()): string[] {
  const file = kustomizationIn(directory);
  if (file === undefined || seen.has(file)) return [];
  seen.add(file);
  const files = [file];
  for (const text of stringsIn(parse(readFileSync(file, "utf8"), { logLevel: "silent" }))) {
    // A ConfigMap generator takes `files: [NAME=PATH]`.
    for (const name of new Set([text, text.slice(text.indexOf("=") + 1)])) {
      if (name === "" || name.includes("\n") || name.length > 1000) continue;
      const path = join(directory, name);
      if (!existsSync(path) || path === directory) continue;
      if (statSync(path).isFile()) files.push(path);
      else if (basename(path) !== "" && statSync(path).isDirectory()) files.push(...kustomizationFiles(path, seen));
    }
  }
  return [...new Set(files)];
}

function stringsIn(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(stringsIn);
}
