/**
 * The scripts that make what the source imports, on this machine. What they make lies in the project, ignored by git: it is
 * what the last run left, and may have been removed or made otherwise since. So they are left out only where the files are
 * those that they ran on, and what the build takes of theirs is what they left.
 */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { projectFilesDigest, projectFiles } from "../core/project-files.ts";
import { cacheDirectoryOf, type Service } from "../core/service-config.ts";
import type { ImageInputs } from "../image/inputs.ts";

export interface PrebuildScripts {
  /** Runs the scripts, unless they ran on these files last. */
  prepare(): Promise<void>;
  /**
   * What goes into the image, with what the scripts make; they run again where that is not what they left.
   *
   * @param look finds the inputs; fails where one that they make is not there
   */
  inputs(look: () => Promise<ImageInputs>): Promise<ImageInputs>;
}

/**
 * @param environment what the scripts may depend on beside the files
 * @param script runs one; throws when it fails
 */
export function createPrebuild(
  service: Service,
  environment: string,
  script: (name: string) => Promise<void>,
  signal: AbortSignal,
): PrebuildScripts {
  const { root, prebuild } = service;
  const file = join(cacheDirectoryOf(service), "before.passed");
  const state = () => projectFilesDigest(root, signal, environment);
  /** What the scripts ran on, and what the build took of theirs. */
  const memory = async () => (await readFile(file, "utf8").catch(() => "")).split("\n");
  const remember = async (...lines: string[]) => {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, lines.join("\n"));
  };

  /** @returns whether they were left out */
  const prepareOnce = async (again: boolean): Promise<boolean> => {
    const [ranOn] = await memory();
    if (!again && ranOn === (await state())) return true;
    // One that fails half-way leaves nothing to rely on.
    await rm(file, { force: true });
    for (const name of prebuild) await script(name);
    // They may write what git does not ignore: then that is what they ran on, the next time.
    await remember(await state());
    return false;
  };

  /** Steps that go on side by side wait for the same scripts. */
  let running: Promise<boolean> | undefined;
  const prepare = async (again = false): Promise<boolean> => {
    if (again) await running?.catch(() => {});
    running ??= prepareOnce(again).finally(() => (running = undefined));
    return running;
  };

  return {
    async prepare() {
      if (prebuild.length > 0) await prepare();
    },
    async inputs(look) {
      if (prebuild.length === 0) return look();
      const reused = await prepare();
      const left = (await memory())[1];
      let found = await look().catch((error: unknown) => {
        if (!reused) throw error;
        return undefined;
      });
      let made = found && (await digestOfMade(root, found, signal));
      if (!found || (reused && left !== undefined && made !== left)) {
        await prepare(true);
        found = await look();
        made = await digestOfMade(root, found, signal);
      }
      const [ranOn] = await memory();
      if (ranOn && made) await remember(ranOn, made);
      return found;
    },
  };
}

/** Over the inputs that are neither the project's own files nor installed. */
async function digestOfMade(
  root: string,
  { files, appFiles }: ImageInputs,
  signal: AbortSignal,
): Promise<string> {
  const own = new Set(await projectFiles(root, signal));
  const hash = new Bun.CryptoHasher("sha256");
  const isMade = (file: string) => !own.has(relative(root, file)) && !file.includes("/node_modules/");
  for (const file of new Set([...files.values(), ...appFiles.values()].filter(isMade).sort())) {
    const content = readFileSync(file);
    hash.update(`\n${file}\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}
