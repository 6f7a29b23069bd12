/** The service's tests, by its own script. */
import { stepOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { runTests } from "../cli/steps.ts";

export default {
  about: "the service's script `test:unit` or `test` alone",
  options: stepOptions,
  async execute(context) {
    await runTests(context);
    return "test passed";
  },
} satisfies Command;
