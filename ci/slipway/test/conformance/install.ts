/**
 * Installs the suite's packages once into the user's cache directory.
 *
 * The packages have a lockfile of their own, because they are no dependencies of slipway.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { sha256 } from "../../core/hash.ts";

const manifestFiles = ["package.json", "bun.lock"];
const KEEP_MS = 7 * 24 * 3600 * 1000;

export interface Installed {
  /** Directory with all packages. */
  modules: string;
  /** Pinned versions: package -> version. */
  versions: Record<string, string>;
}

/**
 * @returns the packages, or why the registry cannot be reached
 * @throws {Error} if the lockfile is outdated or a package cannot be installed
 */
export function installPackages(): Installed | string {
  const contents = manifestFiles.map((name) => readFileSync(join(import.meta.dir, name)));
  const versions = (JSON.parse(contents[0]!.toString()) as { dependencies: Record<string, string> }).dependencies;
  const parent = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "slipway/conformance");
  const key = sha256(Buffer.concat([...contents, Buffer.from(Bun.version)])).slice(0, 12);
  const directory = join(parent, key);
  const modules = join(directory, "node_modules");
  if (existsSync(directory)) {
    utimesSync(directory, new Date(), new Date());
    return { modules, versions };
  }
  const part = `${directory}.part-${process.pid}`;
  mkdirSync(part, { recursive: true });
  try {
    manifestFiles.forEach((name, at) => writeFileSync(join(part, name), contents[at]!));
    const command = ["install", "--frozen-lockfile", "--ignore-scripts", "--linker=hoisted", "--no-progress"];
    const { exitCode, stderr } = Bun.spawnSync([process.execPath, ...command], { cwd: part, stdin: "ignore" });
    if (exitCode !== 0) {
      const view = Bun.spawnSync([process.execPath, "pm", "view", "hono", "version"], { cwd: part });
      if (view.exitCode !== 0) return "the npm registry";
      throw new Error(`bun install failed in ${part}:\n${stderr}`);
    }
    // The image's files have this time too.
    Bun.spawnSync(["find", part, "-type", "f", "-exec", "touch", "-d", "@0", "{}", "+"]);
    removeOld(parent);
    // Another process may have installed the packages meanwhile.
    if (!existsSync(directory)) renameSync(part, directory);
    return { modules, versions };
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
}

/** Removes installations that no run has used for a week. */
function removeOld(parent: string): void {
  for (const name of readdirSync(parent)) {
    const directory = join(parent, name);
    if (Date.now() - statSync(directory).mtimeMs > KEEP_MS) rmSync(directory, { recursive: true, force: true });
  }
}

/** Links packages into a project. A service finds only the packages that its row names. */
export function linkPackages(project: string, packages: string[], { modules, versions }: Installed): void {
  for (const name of packages) {
    if (!versions[name]) throw new Error(`test/conformance/package.json does not pin ${name}`);
    const link = join(project, "node_modules", name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(modules, name), link);
  }
}
