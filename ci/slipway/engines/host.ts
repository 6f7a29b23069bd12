/** The host engine: Bun and nothing else. The C library of the image is this machine's. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { projectFilesDigest } from "../core/project-files.ts";
import { runProcess } from "../core/process.ts";
import { cacheDirectoryOf, type Service } from "../core/service-config.ts";
import type { BuildResult } from "../image/build.ts";
import { findSharedLibrariesIn } from "../image/image-spec.ts";
import { ownArchitecture, type Architecture } from "../image/platform.ts";
import { publicEnvDefines } from "../image/bundle.ts";
import { computeImageId, collectInputs } from "../image/inputs.ts";
import { createPrebuild } from "./prebuild.ts";
import type { Engine } from "./engine.ts";
import { crossSysroot } from "./cross-sysroot.ts";

/** How many states of the files are remembered to have passed: going back to one is as good as not having left it. */
const REMEMBERED = 20;

export function hostEngine(service: Service, signal: AbortSignal): Engine {
  const { project } = service;
  const cache = cacheDirectoryOf(service);
  const bun = async (args: string[], what: string, standsBack = false) => {
    // A script runs in a shell, which would leave its child behind when the pipeline is interrupted.
    const command = [process.execPath, "--no-orphans", ...args];
    const options = { cwd: project, env: { NO_COLOR: "1" }, standsBack, signal };
    const { code, stdout, stderr } = await runProcess(command, options);
    if (code !== 0) throw new PipelineError("project", `${what} failed`, { output: stdout + stderr });
  };
  const roots = new Map<Architecture, Promise<string>>();
  /** Where libraries and Bun for another architecture are; undefined for this machine's own. */
  const rootFor = (architecture: Architecture): Promise<string> | undefined => {
    if (architecture === ownArchitecture) return undefined;
    let root = roots.get(architecture);
    if (!root) {
      root = crossSysroot(architecture, join(cache, architecture), signal);
      roots.set(architecture, root);
    }
    return root;
  };
  // A public variable decides what the source says, to tests as well as to the build.
  const environment = JSON.stringify(publicEnvDefines(service));
  const digest = () => projectFilesDigest(service.root, signal, environment);
  // The image is what a deploy waits for longest, because it is brought while these run.
  const runScript = (name: string) => bun(["run", "--silent", name], `bun run ${name}`, true);
  const before = createPrebuild(service, environment, runScript, signal);
  return {
    name: "host",
    async script(name) {
      // It may read what they make.
      await before.prepare();
      const state = await digest();
      const passed = join(cache, `${name.replace(/[^\w.-]/g, "-")}.passed`);
      const states = (await readFile(passed, "utf8").catch(() => "")).split("\n");
      const unchanged = states.includes(state);
      if (!unchanged) await runScript(name);
      // A file that was saved meanwhile may have been read before or after.
      if (states[0] !== state && (unchanged || state === (await digest()))) {
        await mkdir(dirname(passed), { recursive: true });
        const others = states.filter((other) => other !== state);
        await writeFile(passed, [state, ...others].slice(0, REMEMBERED).join("\n"));
      }
      return { unchanged };
    },
    async id(architecture = ownArchitecture) {
      const runtime = findSharedLibrariesIn(await rootFor(architecture));
      return computeImageId(service, runtime, await before.inputs(() => collectInputs(service, runtime)));
    },
    async build(dist, architecture = ownArchitecture) {
      const root = await rootFor(architecture);
      await before.prepare();
      // A process of its own, so that an interrupted pipeline can end it; and where it works, the binary depends on.
      const command = ["ci/pipeline.ts", "build", dist, ...(root === undefined ? [] : ["--sysroot", root])];
      await bun(command, "the build");
      return { ...((await Bun.file(join(dist, "image.json")).json()) as BuildResult), reused: false };
    },
  };
}
