/** Runs the steps on this machine with Bun alone. The image gets this machine's C library. */
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";
import { cacheDirectoryOf, type Service } from "../core/resolve-service.ts";
import type { BuildResult } from "../image/build-image-files.ts";
import { findScriptInputs } from "../core/script-inputs.ts";
import { findSharedLibrariesIn, type RuntimeLibraries } from "../image/image-spec.ts";
import { ownArchitecture, type Architecture } from "../image/architecture.ts";
import { publicEnvDefines } from "../image/bundle-options.ts";
import { computeImageId, collectInputs, type ImageInputs } from "../image/inputs.ts";
import { createPrebuildRunner } from "./prebuild.ts";
import type { Engine } from "./engine.ts";
import { createScriptRunner, type ScriptInputsOfImage } from "./script-runner.ts";
import { crossSysroot } from "./cross-sysroot.ts";

export function hostEngine(service: Service, signal: AbortSignal): Engine {
  const { project } = service;
  const cache = cacheDirectoryOf(service);
  const runBun = async (args: string[], step: string, lowPriority = false) => {
    // Scripts run in a shell. Without --no-orphans, an interruption would leave the shell's child running.
    const command = [process.execPath, "--no-orphans", ...args];
    const env = { NO_COLOR: "1" };
    const { code, stdout, stderr } = await runProcess(command, { cwd: project, env, lowPriority, signal });
    if (code !== 0)
      throw new PipelineError("project", `${step} failed`, {
        code: args[0] === "run" ? "script-failed" : "build-failed",
        output: stdout + stderr,
      });
  };
  const sysroots = new Map<Architecture, Promise<string>>();
  /** Returns the directory with libraries and Bun for another architecture. undefined: this machine's own architecture. */
  const sysrootFor = (architecture: Architecture): Promise<string> | undefined => {
    if (architecture === ownArchitecture) return undefined;
    let sysroot = sysroots.get(architecture);
    if (!sysroot) {
      sysroot = crossSysroot(architecture, join(cache, architecture), signal);
      sysroots.set(architecture, sysroot);
    }
    return sysroot;
  };
  // Public variables are inlined into the source, for tests and for the build.
  const environment = JSON.stringify(publicEnvDefines(service));
  const collect = (runtime: RuntimeLibraries) => prebuild.inputs(() => collectInputs(service, runtime));
  const ownRuntime = () => findSharedLibrariesIn(undefined);
  let collecting: Promise<ImageInputs> | undefined;
  /** For this machine's architecture. Shared by the id and the scripts that start together: the source is bundled once. */
  const collectOwn = (): Promise<ImageInputs> =>
    (collecting ??= collect(ownRuntime()).finally(() => (collecting = undefined)));
  let pending: Promise<ScriptInputsOfImage> | undefined;
  /** Shared by scripts that start together. */
  const readScriptInputs = (): Promise<ScriptInputsOfImage> =>
    (pending ??= (async () => {
      // A source that does not bundle has no image. Its tests may still tell why.
      const inputs = await collectOwn().catch(() => undefined);
      const opened = new Set(inputs ? [...inputs.files.values(), ...inputs.appFiles.values()] : []);
      return { ...(await findScriptInputs({ root: service.root, project, opened, environment, signal })), opened };
    })().finally(() => (pending = undefined)));
  // Low priority, because a deploy waits longest for the image, which is built at the same time.
  const runScript = (name: string) => runBun(["run", "--silent", name], `bun run ${name}`, true);
  const prebuild = createPrebuildRunner(service, environment, runScript, signal);
  const runUnlessPassed = createScriptRunner(service, readScriptInputs, runScript);
  return {
    name: "host",
    async runPrebuild() {
      return { unchanged: await prebuild.prepare() };
    },
    async runScript(name) {
      // The script may read generated files.
      await prebuild.prepare();
      return runUnlessPassed(name);
    },
    async computeId(architecture = ownArchitecture) {
      const sysroot = await sysrootFor(architecture);
      if (sysroot === undefined) return computeImageId(service, ownRuntime(), await collectOwn());
      const runtime = findSharedLibrariesIn(sysroot);
      return computeImageId(service, runtime, await collect(runtime));
    },
    async build(dist, architecture = ownArchitecture) {
      const sysroot = await sysrootFor(architecture);
      await prebuild.prepare();
      // A child process can be killed on an interruption. The binary also depends on the working directory.
      const sysrootArgs = sysroot === undefined ? [] : ["--sysroot", sysroot];
      await runBun(["ci/pipeline.ts", "build", dist, ...sysrootArgs], "the build");
      return { ...((await Bun.file(join(dist, "image.json")).json()) as BuildResult), reused: false };
    },
  };
}
