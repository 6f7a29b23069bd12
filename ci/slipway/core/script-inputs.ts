/**
 * Hashes the files that a check or a test may read, to decide whether it has to run again:
 *
 * - the project's files, with those of submodules
 * - files that git ignores, such as generated code and .env
 * - files that the bundler opened for the image, so that no new image goes with the result of an old one
 * - files outside the project that a file of the project imports or names, see outside-files.ts
 */
import { statSync, type Stats } from "node:fs";
import { join, relative } from "node:path";
import { createReferenceFinder, listFiles } from "./outside-files.ts";
import { addNamedFile } from "./hash.ts";
import { ignoredFiles, projectFiles, tryRead } from "./project-files.ts";

export interface ScriptInputs {
  /** Digest of all inputs. undefined: they are unknown. */
  digest: string | undefined;
  /** Files of the project that name a directory above it, relative to the root. If there are any, the inputs are unknown. */
  readers: string[];
  /** Digest without ignored data files, which the script itself may write, such as a coverage report. */
  sources: string;
  /** Hashes of the files in `sources`, by absolute path. */
  hashes: Map<string, number | bigint | undefined>;
}

export interface ScriptInputOptions {
  root: string;
  /** Directory in which the scripts run. */
  project: string;
  /** Files that the bundler opened: absolute paths. */
  opened: Iterable<string>;
  environment: string;
  signal: AbortSignal;
}

/** Larger ignored files, such as databases, are compared by size and time. */
const MAX_HASHED_BYTES = 2 ** 20;

export async function findScriptInputs(options: ScriptInputOptions): Promise<ScriptInputs> {
  const { root, project, opened, environment, signal } = options;
  const [paths, ignored] = await Promise.all([projectFiles(root, signal), ignoredFiles(root, signal)]);
  const known = new Set(paths.map((path) => join(root, path)));
  const contents = new Map<string, Buffer | undefined>();
  const findReferences = createReferenceFinder({ root, project, known });
  const readers: string[] = [];
  const pending = [...known, ...opened];
  while (pending.length > 0) {
    const file = pending.pop()!;
    if (contents.has(file)) continue;
    const content = tryRead(file);
    contents.set(file, content);
    if (!content || isInstalled(file)) continue;
    const found = findReferences(file, content);
    if (found.isUnknown) readers.push(relative(root, file));
    pending.push(...found.files.filter((path) => !isInstalled(path)));
  }
  const hash = new Bun.CryptoHasher("sha256").update(`${Bun.version_with_sha}\0${environment}`);
  for (const [file, content] of [...contents].sort(([a], [b]) => (a < b ? -1 : 1))) {
    addNamedFile(hash, file, content);
    // A link to a directory.
    if (!content && tryStat(file)?.isDirectory()) addDirectory(hash, file);
  }
  const hashes = new Map([...contents].map(([file, content]) => [file, content && Bun.hash(content)]));
  const sources = hash.copy().digest("hex");
  for (const path of ignored) if (!contents.has(join(root, path))) addFile(hash, join(root, path));
  return { digest: readers.length > 0 ? undefined : hash.digest("hex"), readers: readers.sort(), sources, hashes };
}

/** Lists files that were added, changed or removed, sorted. */
export function findChangedFiles({ hashes: before }: ScriptInputs, { hashes: after }: ScriptInputs): string[] {
  const files = new Set([...before.keys(), ...after.keys()]);
  return [...files].filter((file) => before.get(file) !== after.get(file)).sort();
}

function addDirectory(hash: Bun.CryptoHasher, directory: string): void {
  for (const path of listFiles(directory)) addFile(hash, join(directory, path));
}

function addFile(hash: Bun.CryptoHasher, file: string): void {
  const stats = tryStat(file);
  if (stats?.isDirectory()) return addDirectory(hash, file);
  if (stats && stats.size > MAX_HASHED_BYTES) return void hash.update(`\n${file}\0${stats.size}\0${stats.mtimeMs}`);
  addNamedFile(hash, file, tryRead(file));
}

const isInstalled = (file: string) => file.includes("/node_modules/");

const tryStat = (path: string): Stats | undefined => {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
};
