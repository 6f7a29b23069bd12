/** Lists and hashes the project's files: everything that git does not ignore, because a check or test may read it. */
import { existsSync, readdirSync, readFileSync, type Dirent } from "node:fs";
import { join } from "node:path";
import { addNamedFile } from "./hash.ts";
import { runGit } from "./git.ts";

/** slipway's outputs, which are excluded even without a .gitignore, and files that tests do not read. */
const generated = /(^|\/)(node_modules|dist|\.git)\/|\.tar(\.part)?$|\.cdx\.json(\.part)?$|\.bun-build$/;

/**
 * Lists tracked and untracked files below `root`, sorted, with those of submodules. Without git: all except outputs and packages.
 */
export async function projectFiles(root: string, signal: AbortSignal): Promise<string[]> {
  const listed = await listWithGit(root, signal);
  const paths = listed ? await Promise.all(listed.map((path) => expandRepository(root, path, signal))) : [];
  const files = listed ? paths.flat() : listDirectory(root, "");
  return [...new Set(files)].filter((path) => !generated.test(path)).sort();
}

/** git lists a repository in a repository, such as a submodule, as one path. */
async function expandRepository(root: string, path: string, signal: AbortSignal): Promise<string[]> {
  const directory = join(root, path);
  if (!existsSync(join(directory, ".git"))) return [path];
  return (await projectFiles(directory, signal)).map((file) => join(path, file));
}

/** Lists files that git ignores, sorted, without outputs and packages. Empty without git. */
export async function ignoredFiles(root: string, signal: AbortSignal): Promise<string[]> {
  // Without --directory, git would list each file of each package.
  const args = ["ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"];
  const listed = (await runGit(args, { cwd: root, signal })) ?? "";
  const paths = listed.split("\0").filter((path) => path !== "" && !generated.test(path));
  return paths.flatMap((path) => (path.endsWith("/") ? listDirectory(root, path.slice(0, -1)) : path)).sort();
}

/** Lists files and links recursively. Files may appear and disappear meanwhile. */
function listDirectory(root: string, directory: string): string[] {
  return entriesOf(join(root, directory)).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (!entry.isDirectory()) return generated.test(path) ? [] : path;
    return generated.test(`${path}/`) ? [] : listDirectory(root, path);
  });
}

function entriesOf(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch (error) {
    // Removed after it was listed, such as a temporary directory of a test.
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function listWithGit(root: string, signal: AbortSignal): Promise<string[] | undefined> {
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  return (await runGit(args, { cwd: root, signal }))?.split("\0").filter(Boolean);
}

/** Lists files that git tracks although a .gitignore matches them. Empty without git. */
export async function trackedButIgnored(root: string, signal: AbortSignal): Promise<string[]> {
  const args = ["ls-files", "-z", "--cached", "--ignored", "--exclude-standard"];
  const listed = (await runGit(args, { cwd: root, signal })) ?? "";
  return listed.split("\0").filter((path) => path !== "" && !generated.test(path));
}

/** Hashes the project's files, Bun's version and the environment. */
export async function projectFilesDigest(root: string, signal: AbortSignal, environment = ""): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256").update(`${Bun.version_with_sha}\0${environment}`);
  for (const path of await projectFiles(root, signal)) {
    addNamedFile(hash, path, tryRead(join(root, path)));
  }
  return hash.digest("hex");
}

/** @returns undefined for a deleted file that git still tracks, or a directory of another repository */
export function tryRead(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}
