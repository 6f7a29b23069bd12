/** Interface of the engines that run the steps: in containers (dagger.ts) or on this machine (host.ts). */
import type { BuildResult } from "../image/build-image-files.ts";
import type { Architecture } from "../image/architecture.ts";

export interface Engine {
  readonly name: "dagger" | "host";
  /** Starts a new run, whose steps read the source again. */
  startRun?(): void;
  /**
   * Runs the scripts of the `prebuild` setting, unless nothing has changed that they may read. All other steps need them.
   *
   * @returns whether the scripts were skipped
   * @throws {PipelineError} "project", with the script's output, if one fails
   */
  runPrebuild(): Promise<{ unchanged: boolean }>;
  /**
   * Runs a script of package.json, unless it already passed with the same files.
   *
   * @returns whether the script was skipped for that reason, and why it can never be skipped
   * @throws {PipelineError} "project", with the script's output, if it fails
   */
  runScript(name: string): Promise<{ unchanged: boolean; note?: string }>;
  /**
   * Computes the image ID. The host engine computes it before it compiles anything. The Dagger engine runs a full build,
   * which takes no longer than a container that only computes the ID.
   *
   * @param architecture default: the engine's own
   * @throws {PipelineError} "project" if the source does not bundle, "environment" if the architecture is not supported
   */
  computeId(architecture?: Architecture): Promise<string>;
  /**
   * Builds the image's directory trees.
   *
   * @param dist a directory that does not exist yet
   * @param architecture default: the engine's own
   * @returns the result, and whether it was cached
   * @throws {PipelineError} "project", with the compiler's output, if the source does not compile. "environment" if the
   * architecture is not supported.
   */
  build(dist: string, architecture?: Architecture): Promise<BuildResult & { reused: boolean }>;
}
