/** One run of a command: what its steps share. */
import { PipelineError } from "../core/errors.ts";
import { Report } from "../core/report.ts";
import type { Service } from "../core/service-config.ts";
import type { Engine } from "../engines/engine.ts";
import type { Options, OptionName } from "./options.ts";

/** A command of the command line: one file in commands/, found by its name. */
export interface Command {
  /** What it does, in a line. */
  about: string;
  /** The words after it; default: none. */
  args?: { form: string; min: number; max: number };
  /** Those that it takes, beside the ones that all take. */
  options: readonly OptionName[];
  /**
   * What it needs of the directory that it is called in. Default: a service's ci/pipeline.ts. "package": a package.json is enough,
   * "nothing": it runs anywhere.
   */
  needs?: "package" | "nothing";
  /** @returns what holds now, as a sentence; empty: nothing is to be said */
  execute(context: CommandContext): Promise<string>;
}

export const UNCHANGED = "Nothing was changed.";

export interface CommandContextOptions {
  service: Service;
  options: Options;
  signal: AbortSignal;
  report?: Report;
  engine: Engine;
}

export class CommandContext {
  readonly service: Service;
  readonly options: Options;
  readonly signal: AbortSignal;
  readonly report: Report;
  readonly engine: Engine;
  /** What an interruption at this moment would leave behind. */
  interruptMessage = UNCHANGED;
  /** When the deployed version was served, in milliseconds since 1970; undefined: none was. */
  servedAt: number | undefined;

  constructor({ service, options, signal, report = new Report(), engine }: CommandContextOptions) {
    [this.service, this.options, this.signal] = [service, options, signal];
    [this.report, this.engine] = [report, engine];
    engine.startRun?.();
  }

  log(line: string): void {
    this.report.log(line);
  }

  /** The id of what is deployed, asked about, or tried. */
  imageId(): Promise<string> {
    return this.engine.computeId(this.options.architectures?.[0]);
  }

  /** What a person calls an id: `helloapp:<id>`. */
  imageNameOf(id: string): string {
    return `${this.service.name}:${id}`;
  }
}

/** Whether the change is at fault; its message says itself what became of it. */
export function isProjectError(error: unknown): boolean {
  return error instanceof PipelineError && error.kind === "project";
}
