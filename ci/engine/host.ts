/** The host engine: Bun and nothing else. The C library of the image is this machine's. */
import { join } from "node:path";
import type { Built } from "../build.ts";
import { PipelineError } from "../errors.ts";
import { findRuntime, imageId } from "../image.ts";
import { run } from "../process.ts";
import type { Engine } from "./engine.ts";

/** @param project the directory with package.json */
export function hostEngine(project: string, signal: AbortSignal): Engine {
  const bun = async (args: string[], what: string) => {
    // A script runs in a shell, which would leave its child behind when the pipeline is interrupted.
    const command = [process.execPath, "--no-orphans", ...args];
    const { code, stdout, stderr } = await run(command, { cwd: project, env: { NO_COLOR: "1" }, signal });
    if (code !== 0) throw new PipelineError("change", `${what} failed`, { output: stdout + stderr });
  };
  return {
    name: "host",
    script: (name) => bun(["run", "--silent", name], `bun run ${name}`),
    id: () => imageId(project, findRuntime()),
    async build(dist) {
      // A process of its own, so that an interrupted pipeline can end it.
      await bun(["ci/build.ts", dist], "bun run build");
      return (await Bun.file(join(dist, "image.json")).json()) as Built;
    },
  };
}
