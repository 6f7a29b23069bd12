/** The host engine: Bun and nothing else. The C library of the image is this machine's. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { digestOfFiles } from "../ground/files.ts";
import { run } from "../ground/process.ts";
import { cacheOf, type Service } from "../ground/service.ts";
import type { Built } from "../image/build.ts";
import { runtimeIn } from "../image/image.ts";
import { ownArchitecture, type Architecture } from "../image/platform.ts";
import { imageId } from "../image/inputs.ts";
import type { Engine } from "./engine.ts";
import { foreignRoot } from "./foreign.ts";

/** How many states of the files are remembered to have passed: going back to one is as good as not having left it. */
const REMEMBERED = 20;

export function hostEngine(service: Service, signal: AbortSignal): Engine {
  const { project } = service;
  const cache = cacheOf(service);
  const bun = async (args: string[], what: string) => {
    // A script runs in a shell, which would leave its child behind when the pipeline is interrupted.
    const command = [process.execPath, "--no-orphans", ...args];
    const { code, stdout, stderr } = await run(command, { cwd: project, env: { NO_COLOR: "1" }, signal });
    if (code !== 0) throw new PipelineError("change", `${what} failed`, { output: stdout + stderr });
  };
  const roots = new Map<Architecture, Promise<string>>();
  /** Where libraries and Bun for another architecture are; undefined for this machine's own. */
  const rootFor = (architecture: Architecture): Promise<string> | undefined => {
    if (architecture === ownArchitecture) return undefined;
    let root = roots.get(architecture);
    if (!root) {
      root = foreignRoot(architecture, join(cache, architecture), signal);
      roots.set(architecture, root);
    }
    return root;
  };
  /** Runs a script, unless it passed before on these files. */
  const script = async (name: string, again = false): Promise<{ unchanged: boolean }> => {
    const digest = await digestOfFiles(service.root, signal);
    const passed = join(cache, `${name.replace(/[^\w.-]/g, "-")}.passed`);
    const digests = (await readFile(passed, "utf8").catch(() => "")).split("\n");
    if (!again && digests.includes(digest)) return { unchanged: true };
    await bun(["run", "--silent", name], `bun run ${name}`);
    // A file that was saved meanwhile may have been read before or after.
    if (digest === (await digestOfFiles(service.root, signal))) {
      await mkdir(dirname(passed), { recursive: true });
      await writeFile(passed, [digest, ...digests].slice(0, REMEMBERED).join("\n"));
    }
    return { unchanged: false };
  };
  let prepared: Promise<boolean> | undefined;
  /** Runs the scripts that come before the build. @returns whether all of them had passed before */
  const prepare = (again = false): Promise<boolean> => {
    if (again) prepared = undefined;
    prepared ??= (async () => {
      let reused = true;
      for (const name of service.before) reused = (await script(name, again)).unchanged && reused;
      return reused && service.before.length > 0;
    })();
    return prepared;
  };
  return {
    name: "host",
    script: (name) => script(name),
    async id(architecture = ownArchitecture) {
      const runtime = runtimeIn(await rootFor(architecture));
      const reused = await prepare();
      try {
        return await imageId(service, runtime);
      } catch (error) {
        // What the scripts made may have been removed since: then they did not pass for nothing.
        if (!reused) throw error;
        await prepare(true);
        return imageId(service, runtime);
      }
    },
    async build(dist, architecture = ownArchitecture) {
      const root = await rootFor(architecture);
      await prepare();
      // A process of its own, so that an interrupted pipeline can end it; and where it works, the binary depends on.
      const command = ["ci/pipeline.ts", "build", dist, ...(root === undefined ? [] : ["--root", root])];
      await bun(command, "the build");
      return { ...((await Bun.file(join(dist, "image.json")).json()) as Built), reused: false };
    },
  };
}
