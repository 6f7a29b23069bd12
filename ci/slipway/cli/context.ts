/** The context of one run of a command: its service, options, engine and report. */
import { PipelineError } from "../core/errors.ts";
import { Report } from "../core/step-report.ts";
import type { Service } from "../core/resolve-service.ts";
import type { Engine } from "../engines/engine.ts";
import type { Options, OptionName } from "./options.ts";

/** A command of the command line: one file in commands/, found by its name. */
export interface Command {
  /** The help text: an imperative sentence. */
  about: string;
  /** Its arguments. Default: none. */
  args?: { form: string; min: number; max: number };
  /** The options that it accepts, besides the common ones. */
  options: readonly OptionName[];
  /**
   * The file that the working directory must have: "package" means package.json, "nothing" none. Default: ci/pipeline.ts.
   */
  needs?: "package" | "nothing";
  /** @returns the conclusion as a sentence, of which nothing is printed if it is empty, or an exit code to pass on */
  execute(context: CommandContext): Promise<string | number>;
}

export const UNCHANGED = "Nothing was changed.";

export interface CommandContextOptions {
  service: Service;
  options: Options;
  signal: AbortSignal;
  report?: Report;
  engine: Engine;
  skipWait?: AbortSignal;
}

export class CommandContext {
  readonly service: Service;
  readonly options: Options;
  readonly signal: AbortSignal;
  readonly report: Report;
  readonly engine: Engine;
  /** The state that an interruption at this moment leaves, as sentences. */
  interruptMessage = UNCHANGED;
  /** Ends the wait for old pods: `watch` starts the next deploy. Default: never. */
  readonly skipWait: AbortSignal | undefined;

  constructor({ service, options, signal, report = new Report(), engine, skipWait }: CommandContextOptions) {
    [this.service, this.options, this.signal] = [service, options, signal];
    [this.report, this.engine, this.skipWait] = [report, engine, skipWait];
    engine.startRun?.();
  }

  log(line: string): void {
    this.report.log(line);
  }

  /** The image ID of the working tree. */
  imageId(): Promise<string> {
    return this.engine.computeId(this.options.architectures?.[0]);
  }

  /** The image name of an id: `helloapp:<id>`. */
  imageNameOf(id: string): string {
    return `${this.service.name}:${id}`;
  }
}

/** Whether the project is at fault. The message of such an error names the state by itself. */
export function isProjectError(error: unknown): boolean {
  return error instanceof PipelineError && error.kind === "project";
}
