/** The project's files: all that a check or a test may read, which is all that git would not ignore. */
import { readdirSync, readFileSync, type Dirent } from "node:fs";
import { join } from "node:path";
import { runProcess } from "./process.ts";

/** What slipway itself writes, where no .gitignore says so; and what nobody's tests read. */
const made = /(^|\/)(node_modules|dist|\.git)\/|\.tar(\.part)?$|\.cdx\.json(\.part)?$|\.bun-build$/;

/** Paths below `root`, sorted: those that git knows or would add; without git, all but what is built or installed. */
export async function projectFiles(root: string, signal: AbortSignal): Promise<string[]> {
  const paths = (await fromGit(root, signal)) ?? filesBelow(root, "");
  return [...new Set(paths)].filter((path) => !made.test(path)).sort();
}

/** Files, and links, below a directory: none of what is built or installed, which may come and go while this looks. */
function filesBelow(root: string, directory: string): string[] {
  return entriesOf(join(root, directory)).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (!entry.isDirectory()) return path;
    return made.test(`${path}/`) ? [] : filesBelow(root, path);
  });
}

function entriesOf(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch (error) {
    // Removed since it was listed, as a test's own directory may be.
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function fromGit(root: string, signal: AbortSignal): Promise<string[] | undefined> {
  if (!Bun.which("git")) return undefined;
  const command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const { code, stdout } = await runProcess(command, { cwd: root, signal, timeoutSeconds: 20 });
  return code === 0 ? stdout.split("\0").filter(Boolean) : undefined;
}

/** Paths that git knows although a .gitignore has them; none without git. */
export async function trackedButIgnored(root: string, signal: AbortSignal): Promise<string[]> {
  if (!Bun.which("git")) return [];
  const command = ["git", "ls-files", "-z", "--cached", "--ignored", "--exclude-standard"];
  const { code, stdout } = await runProcess(command, { cwd: root, signal, timeoutSeconds: 20 });
  return code === 0 ? stdout.split("\0").filter((path) => path !== "" && !made.test(path)) : [];
}

/** SHA-256 over those files, which Bun reads them, and what else they are read with. */
export async function projectFilesDigest(
  root: string,
  signal: AbortSignal,
  environment = "",
): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256").update(`${Bun.version_with_sha}\0${environment}`);
  for (const path of await projectFiles(root, signal)) {
    const content = read(join(root, path));
    hash.update(`\n${path}\0${content?.length ?? "gone"}\0`).update(content ?? "");
  }
  return hash.digest("hex");
}

/** undefined: deleted, but git still knows it; or a directory of another repository. */
function read(path: string): Uint8Array | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}
