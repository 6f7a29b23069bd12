/**
 * An engine is where the steps run: in containers (dagger.ts) or on this machine (host.ts). Same steps, same scripts
 * of package.json, same image.
 */
import type { BuildResult } from "../image/build.ts";
import type { Architecture } from "../image/platform.ts";

export interface Engine {
  readonly name: "dagger" | "host";
  /** A run begins: what it reads of the source it reads anew, once for all of its steps. */
  begin?(): void;
  /**
   * Runs a script of package.json, unless it passed before on the same files.
   *
   * @returns whether it was left out, for that reason
   * @throws {PipelineError} "project", with the script's output, when it fails
   */
  script(name: string): Promise<{ unchanged: boolean }>;
  /**
   * The image's id. The host engine knows it before anything is compiled; the dagger engine builds for it, which takes it no longer
   * than a container in which only the id is made.
   *
   * @param architecture default: the engine's own
   * @throws {PipelineError} "project" when the source does not bundle; "environment" when it cannot build for that one
   */
  id(architecture?: Architecture): Promise<string>;
  /**
   * Builds the trees of the image into `dist`, a directory that does not exist yet.
   *
   * @param architecture default: the engine's own
   * @returns what was built, and whether the engine had it from before
   * @throws {PipelineError} "project", with the compiler's output, when the source does not compile; "environment" when it
   * cannot build for that architecture
   */
  build(dist: string, architecture?: Architecture): Promise<BuildResult & { reused: boolean }>;
}
