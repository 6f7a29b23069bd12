/** Runs the steps of a flow for a command. */
import { PipelineError } from "../core/errors.ts";
import type { ErrorCode } from "../core/error-codes.ts";
import { runSteps, type RunStepsOptions, type FlowStep } from "../core/step-graph.ts";
import { isProjectError, type CommandContext } from "./context.ts";
import { printError } from "./error-output.ts";

export type FlowOptions<R> = Pick<RunStepsOptions<R>, "goals" | "given" | "onFailure">;

/**
 * Runs the steps that the goals need, and reports them.
 *
 * @throws one of the failures. A project error comes first, because it decides the exit code. The others are printed. If
 * a script changed the source, the build that saw the change is no failure of its own.
 */
export function runFlow<R>(
  { options, service, signal, report }: CommandContext,
  steps: readonly FlowStep<R>[],
  flow: FlowOptions<R>,
): Promise<R> {
  return runSteps(steps, {
    ...flow,
    signal,
    report: (title, work, needs) => report.step(title, work, needs),
    choose(all) {
      const isExplained = all.some((error) => hasCode(error, "files-changed-by-script"));
      const failures = all.filter((error) => !(isExplained && hasCode(error, "files-changed-during-build")));
      const decisive = failures.find(isProjectError) ?? failures[0];
      for (const other of failures) if (other !== decisive) printError(other, options.verbose, service);
      return decisive;
    },
  });
}

const hasCode = (error: unknown, code: ErrorCode) => error instanceof PipelineError && error.code === code;
