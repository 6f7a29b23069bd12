/** Checks types and format with the service's script. */
import type { Command } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { stepOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "Run the service's `check` script (types and format)",
  options: stepOptions,
  async execute(context) {
    await runFlow(context, buildSteps(context), { goals: ["check"] });
    return "check passed";
  },
} satisfies Command;
