/** Runs the scripts of check and test, unless they passed before on the same files. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf, type Service } from "../core/resolve-service.ts";
import { findChangedFiles, type ScriptInputs } from "../core/script-inputs.ts";
import type { Engine } from "./engine.ts";

/** Number of stored digests with which a script passed. Reverting to one of these states needs no new run. */
const MAX_PASSED_DIGESTS = 20;
/** Files that a message names. */
const MAX_NAMES = 5;

/** Inputs of a script, and the files that the bundler opened for the image. */
export interface ScriptInputsOfImage extends ScriptInputs {
  opened: Set<string>;
}

/** @param run throws if the script fails */
export function createScriptRunner(
  service: Service,
  readInputs: () => Promise<ScriptInputsOfImage>,
  run: (name: string) => Promise<void>,
): Engine["runScript"] {
  const listFiles = (files: string[]) => {
    const names = files.slice(0, MAX_NAMES).map((file) => relative(service.project, file));
    return names.join(", ") + (files.length > MAX_NAMES ? ` and ${files.length - MAX_NAMES} more` : "");
  };
  /** Scripts that run at the same time see the same files change. */
  let running = 0;
  let concurrent = { names: [] as string[], errors: new Map<string, PipelineError>() };
  const runCounted = async (name: string) => {
    if (running === 0) concurrent = { names: [], errors: new Map() };
    running += 1;
    concurrent.names.push(name);
    try {
      await run(name);
    } finally {
      running -= 1;
    }
  };
  const changeError = ({ names, errors }: typeof concurrent, files: string[]): PipelineError => {
    const key = files.join("\0");
    const error = errors.get(key) ?? describeChange(names, listFiles(files));
    errors.set(key, error);
    return error;
  };

  return async (name) => {
    const before = await readInputs();
    const file = join(cacheDirectoryOf(service), `${name.replace(/[^\w.-]/g, "-")}.passed`);
    const passedDigests = (await readFile(file, "utf8").catch(() => "")).split("\n");
    const unchanged = before.digest !== undefined && passedDigests.includes(before.digest);
    if (!unchanged) await runCounted(name);
    const group = concurrent;
    const after = unchanged ? before : await readInputs();
    const changed = findChangedFiles(before, after);
    const inImage = changed.filter((path) => before.opened.has(path) || after.opened.has(path));
    if (inImage.length > 0) throw changeError(group, inImage);
    // It is unknown which version of a changed file the script read.
    const passed = changed.length === 0 ? after.digest : undefined;
    if (passed !== undefined && passedDigests[0] !== passed) {
      await mkdir(dirname(file), { recursive: true });
      const others = passedDigests.filter((other) => other !== passed);
      await writeFile(file, [passed, ...others].slice(0, MAX_PASSED_DIGESTS).join("\n"));
    }
    const [reader] = before.readers;
    if (reader)
      return { unchanged, note: `runs each time, because ${reader} names a directory that contains the project` };
    if (changed.length === 0) return { unchanged };
    return { unchanged, note: `runs again next time, because files changed while it ran: ${listFiles(changed)}` };
  };
}

/** Describes files of the image that changed while scripts ran: the scripts saw other files than the image has. */
function describeChange(scripts: string[], files: string): PipelineError {
  const commands = scripts.map((name) => `\`bun run ${name}\``).join(" and ");
  return new PipelineError(
    "project",
    `${files} changed while ${commands} ran, so the result is not that of the image`,
    {
      code: "files-changed-by-script",
      hint: "If a script writes files, such as a formatter with --write, let it check them only, and put a generator into `prebuild` in ci/pipeline.ts. If you edited the files, run the command again.",
    },
  );
}
