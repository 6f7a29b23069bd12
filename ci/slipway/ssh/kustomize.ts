/**
 * kustomize at the other end of a line, for who has none here: the files that a kustomization reads go there, and what it makes of
 * them comes back.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { parse } from "yaml";
import { kustomizationIn } from "../kubernetes/offline-manifests.ts";
import { PipelineError } from "../core/errors.ts";
import type { ProcessResult } from "../core/process.ts";
import { shellQuote } from "./shell-quote.ts";
import type { SshSession } from "./session.ts";

/** Bytes that manifests may have, all together: more are something else. */
const MOST_BYTES = 8 << 20;

/**
 * @param root what all of it lies below
 * @param overlay the directory of the kustomization
 * @throws {PipelineError} "project" when it reads what is not below `root`, or too much
 */
export async function kustomizeRemotely(
  line: SshSession,
  root: string,
  overlay: string,
): Promise<ProcessResult> {
  const files = kustomizationFiles(overlay);
  const outside = files.find((file) => relative(root, file).startsWith(".."));
  if (outside !== undefined)
    throw new PipelineError(
      "project",
      `the manifests read ${outside}, which is not below ${root}: a host gets those alone`,
    );
  const contents = files.map((file) => readFileSync(file));
  if (contents.reduce((sum, { length }) => sum + length, 0) > MOST_BYTES)
    throw new PipelineError("project", `the manifests in ${overlay} have more than ${MOST_BYTES} bytes`);
  const { directory } = await line.there();
  const paths = files.map((file) => relative(root, file));
  const directories = [...new Set(paths.map(dirname))];
  const script = `d=${directory}/manifests.$$
trap 'rm -rf "$d"' EXIT
mkdir "$d" && cd "$d" || exit
mkdir -p -- ${directories.map(shellQuote).join(" ")} || exit
${paths.map((path, i) => `head -c ${contents[i]!.length} >${shellQuote(path)}`).join("\n")}
k3s kubectl kustomize ${shellQuote(relative(root, overlay) || ".")}`;
  return line.run(script, { input: Buffer.concat(contents), timeoutSeconds: 60 });
}

/**
 * All files that a kustomization may read: whatever there is of the paths that it names, in whichever of its fields, and a directory's
 * own kustomization, or all of it where it has none.
 */
export function kustomizationFiles(directory: string, seen: Set<string> = new Set()): string[] {
  const file = kustomizationIn(directory);
  if (file === undefined || seen.has(file)) return [];
  seen.add(file);
  const found = [file];
  for (const text of textsIn(parse(readFileSync(file, "utf8"), { logLevel: "silent" }))) {
    // `files: [NAME=PATH]`
    for (const named of new Set([text, text.slice(text.indexOf("=") + 1)])) {
      if (named === "" || named.includes("\n") || named.length > 1000) continue;
      const path = join(directory, named);
      if (!existsSync(path) || path === directory) continue;
      if (statSync(path).isFile()) found.push(path);
      else if (basename(path) !== "" && statSync(path).isDirectory())
        found.push(...kustomizationFiles(path, seen));
    }
  }
  return [...new Set(found)];
}

function textsIn(value: unknown): string[] {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(textsIn);
}
