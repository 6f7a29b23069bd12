/** Builds small services like the pipeline, and runs them from source and as a binary. */
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import type { BuildResult } from "../image/build-image-files.ts";
import type { Settings } from "../index.d.ts";
import { root } from "./helloapp-service.ts";

export type Files = Record<string, string>;

const created: string[] = [];

/** Removes the projects that a test file has created. */
export function removeProjects(): void {
  for (const directory of created.splice(0)) rmSync(directory, { recursive: true });
}

/** Creates a project that uses this repository's packages. Its files can be below `node_modules` too. */
export function createProject(files: Files, name = "project"): string {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), "built-service-")));
  created.push(directory);
  const at = join(directory, name);
  for (const [path, content] of Object.entries({ "package.json": '{"name":"small"}', ...files })) {
    mkdirSync(dirname(join(at, path)), { recursive: true });
    writeFileSync(join(at, path), content);
  }
  const linked = Object.keys(files).some((path) => path.startsWith("node_modules/"));
  if (!linked) symlinkSync(join(root, "node_modules"), join(at, "node_modules"));
  return at;
}

/** Builds a project in its directory, like the pipeline. @returns the binary and the result of the build */
export async function build(at: string, settings: Settings = {}): Promise<BuildResult & { binary: string }> {
  const slipway = join(import.meta.dir, "..");
  const code = `import { resolveService } from ${JSON.stringify(join(slipway, "core/resolve-service.ts"))};
import { buildImage } from ${JSON.stringify(join(slipway, "image/build-image-files.ts"))};
await buildImage(resolveService(process.cwd(), ${JSON.stringify(settings)}), "dist");`;
  // The paths in the source map are relative to the working directory.
  const child = Bun.spawn([process.execPath, "-e", code], { cwd: at, stdout: "ignore", stderr: "pipe" });
  const stderr = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(stderr);
  const built = (await Bun.file(join(at, "dist/image.json")).json()) as BuildResult;
  return { ...built, binary: join(at, "dist/app", resolveService(at, settings).name) };
}

/** Runs a command until it exits. @returns its output, or the error output if it fails */
export function run(command: string[], { cwd = "/", env = {} as Record<string, string> } = {}): string {
  const result = Bun.spawnSync(command, {
    cwd,
    env: { PATH: process.env.PATH, NODE_ENV: "production", ...env },
    timeout: 20_000,
  });
  return result.exitCode === 0 ? result.stdout.toString() : `exit ${result.exitCode}: ${result.stderr.toString()}`;
}

/** Runs the binary like a container: its files are the root, and /srv is the working directory. */
export function runImage(binary: string, args: string[] = []): string {
  const tree = dirname(binary);
  cpSync(join(tree, "../runtime"), tree, { recursive: true });
  for (const name of ["proc", "dev"]) mkdirSync(join(tree, name), { recursive: true });
  const script =
    'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec unshare --root "$0" --wd /srv "$@"';
  return run(["unshare", "--map-root-user", "--mount", "sh", "-c", script, tree, binary.slice(tree.length), ...args]);
}

/** Runs a module of a project from source. */
export const runSource = (at: string, module: string, args: string[] = [], options: string[] = []): string =>
  run([process.execPath, ...options, module, ...args], { cwd: at });
