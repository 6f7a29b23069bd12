/**
 * Runs the prebuild scripts, which generate files that the source imports, on this machine.
 *
 * git ignores the generated files, and anything may have changed or removed them since the last run. The scripts are
 * therefore only skipped if the project's files are unchanged, and if the build's generated inputs are unchanged.
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { addNamedFile } from "../core/hash.ts";
import { ignoredFiles, projectFilesDigest, projectFiles, tryRead } from "../core/project-files.ts";
import { cacheDirectoryOf, type Service } from "../core/resolve-service.ts";
import type { ImageInputs } from "../image/inputs.ts";

export interface PrebuildRunner {
  /** Runs the scripts, unless their last run had the same files. @returns whether they were skipped */
  prepare(): Promise<boolean>;
  /**
   * Collects the image's inputs, including generated files. Runs the scripts again if generated files have changed.
   *
   * @param collect fails if a generated file is missing
   */
  inputs(collect: () => Promise<ImageInputs>): Promise<ImageInputs>;
}

/**
 * @param environment variables that affect the scripts, as a text
 * @param runScript throws if the script fails
 */
export function createPrebuildRunner(
  service: Service,
  environment: string,
  runScript: (name: string) => Promise<void>,
  signal: AbortSignal,
): PrebuildRunner {
  const { root, prebuild } = service;
  const file = join(cacheDirectoryOf(service), "prebuild.passed");
  /** git usually ignores .env files, but tools for front ends read them. */
  const projectDigest = async () => {
    const hash = new Bun.CryptoHasher("sha256").update(await projectFilesDigest(root, signal, environment));
    const ignored = (await ignoredFiles(root, signal)).filter((path) => /(^|\/)\.env[^/]*$/.test(path));
    for (const path of ignored) addNamedFile(hash, path, tryRead(join(root, path)));
    return hash.digest("hex");
  };
  /** Reads the digests of the project and of the generated files after the last run. */
  const load = async () => (await readFile(file, "utf8").catch(() => "")).split("\n");
  const save = async (...digests: string[]) => {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, digests.join("\n"));
  };

  /** @returns whether the scripts were skipped */
  const runUnlessUnchanged = async (force: boolean): Promise<boolean> => {
    const [lastDigest] = await load();
    if (!force && lastDigest === (await projectDigest())) return true;
    // A failing script may leave incomplete files.
    await rm(file, { force: true });
    for (const name of prebuild) await runScript(name);
    // Computed after the run, because scripts may write files that git does not ignore.
    await save(await projectDigest());
    return false;
  };

  /** Shared by concurrent steps. */
  let running: Promise<boolean> | undefined;
  const prepare = async (force = false): Promise<boolean> => {
    if (force) await running?.catch(() => {});
    running ??= runUnlessUnchanged(force).finally(() => (running = undefined));
    return running;
  };

  /** One at a time: the steps of a run that find missing outputs together need one run of the scripts. */
  let queue: Promise<unknown> = Promise.resolve();

  return {
    async prepare() {
      return prebuild.length === 0 || (await prepare());
    },
    async inputs(collect) {
      if (prebuild.length === 0) return collect();
      const turn = queue.then(() => collectAfterPrebuild(collect));
      queue = turn.catch(() => {});
      return turn;
    },
  };

  async function collectAfterPrebuild(collect: () => Promise<ImageInputs>): Promise<ImageInputs> {
    const isSkipped = await prepare();
    const lastGenerated = (await load())[1];
    let inputs = await collect().catch((error: unknown) => {
      if (!isSkipped) throw error;
      return undefined;
    });
    let generated = inputs && (await generatedFilesDigest(root, inputs, signal));
    if (!inputs || (isSkipped && lastGenerated !== undefined && generated !== lastGenerated)) {
      await prepare(true);
      inputs = await collect();
      generated = await generatedFilesDigest(root, inputs, signal);
    }
    const [project] = await load();
    if (project && generated) await save(project, generated);
    return inputs;
  }
}

/** Hashes the inputs that are neither project files nor installed packages. */
async function generatedFilesDigest(
  root: string,
  { files, appFiles }: ImageInputs,
  signal: AbortSignal,
): Promise<string> {
  const sources = new Set(await projectFiles(root, signal));
  const hash = new Bun.CryptoHasher("sha256");
  const isGenerated = (file: string) => !sources.has(relative(root, file)) && !file.includes("/node_modules/");
  for (const file of new Set([...files.values(), ...appFiles.values()].filter(isGenerated).sort())) {
    addNamedFile(hash, file, readFileSync(file));
  }
  return hash.digest("hex");
}
