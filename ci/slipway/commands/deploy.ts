/** Builds, rolls out and verifies a version. This is the default command. */
import type { Command } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { clusterOptions, lockOptions, imageOptions, stepOptions } from "../cli/options.ts";
import { deployWorkingTree } from "../cli/run-deploy.ts";
import { exitCodes, PipelineError } from "../core/errors.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "Check, test, build, deliver, roll out and verify (default command)",
  options: [...stepOptions, ...imageOptions, ...clusterOptions, ...lockOptions, "json"],
  async execute(context) {
    if (context.options.target !== "none") {
      if (!context.options.json) return (await deployWorkingTree(context)).conclusion;
      const { conclusion, json } = await deployWorkingTree(context).catch((error: unknown) => {
        if (error instanceof PipelineError) console.log(JSON.stringify(describeFailure(error), undefined, 2));
        throw error;
      });
      console.log(JSON.stringify(json, undefined, 2));
      return conclusion;
    }
    const goals = ["check", "test", "archives"] as const;
    return (await runFlow(context, buildSteps(context), { goals })).archives;
  },
} satisfies Command;

/** The output of `deploy --json` after a failure. docs/reference/json-output.md documents it. */
function describeFailure({ kind, code, message, hint }: PipelineError) {
  return { isServed: false, error: { exitCode: exitCodes[kind], code: code ?? null, message, hint: hint ?? null } };
}
