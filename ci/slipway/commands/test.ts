/** The service's tests, by its own script. */
import type { Command } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { stepOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "the service's script `test:unit` or `test` alone",
  options: stepOptions,
  async execute(context) {
    await runFlow(context, buildSteps(context), { goals: ["test"] });
    return "test passed";
  },
} satisfies Command;
