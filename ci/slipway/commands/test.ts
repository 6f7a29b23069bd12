/** Runs the service's tests with its script. */
import type { Command } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { stepOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "Run the service's `test:unit` or `test` script",
  options: stepOptions,
  async execute(context) {
    await runFlow(context, buildSteps(context), { goals: ["test"] });
    return "test passed";
  },
} satisfies Command;
