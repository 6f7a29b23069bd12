/** Runs an entry of the service, or a local script, in a pod of the version that serves. */
import { existsSync } from "node:fs";
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { clusterOptions, usageError } from "../cli/options.ts";
import type { Service } from "../core/resolve-service.ts";
import { pipeProgram } from "../operations/interactive.ts";
import { DEFAULT_DEADLINE_SECONDS, readExitCode, withOneOffPod } from "../operations/one-off-pod.ts";
import { bundleScript, isScript, launchProgram } from "../operations/script-bundle.ts";

export default {
  about: "Run an entry or a local script in a pod of the running version",
  args: { form: "[ENTRY|FILE] [-- ARGS…]", min: 0, max: Infinity },
  options: [...clusterOptions, "deadline"],
  async execute(context) {
    const { args, deadline = DEFAULT_DEADLINE_SECONDS } = context.options;
    const { program, programArgs } = await readProgram(context.service, args);
    return withTarget(context, (deployContext) => {
      const options = { args: ["run", "-", ...programArgs], hasInput: true, deadlineSeconds: deadline };
      // Standard output belongs to the program.
      const quiet = { ...deployContext, log: (line: string) => console.error(line) };
      return withOneOffPod(quiet, { ...options, connectsBy: "attach" }, async (pod) => {
        await pipeProgram(deployContext.target.api, pod, program, context.signal);
        context.signal.throwIfAborted();
        return readExitCode(pod);
      });
    });
  },
} satisfies Command;

/** @throws {PipelineError} "usage" if the first argument is neither an entry nor a file */
async function readProgram(service: Service, args: string[]): Promise<{ program: string; programArgs: string[] }> {
  const [first, ...rest] = args;
  if (first === undefined || first.startsWith("-")) return { program: launchProgram(args), programArgs: [] };
  if (Object.hasOwn(service.entries, first)) return { program: launchProgram(args), programArgs: [] };
  if (isScript(first) && existsSync(first)) return { program: await bundleScript(service, first), programArgs: rest };
  const names = Object.keys(service.entries).join(", ") || "none";
  throw usageError(
    isScript(first) ? `file ${first} not found` : `unknown entry "${first}". Entries in ci/pipeline.ts: ${names}`,
  );
}
