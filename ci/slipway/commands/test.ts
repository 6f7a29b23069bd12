/** Runs the service's tests with its script. */
import { stepOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { runTests } from "../cli/steps.ts";

export default {
  about: "Run the service's `test:unit` or `test` script",
  options: stepOptions,
  async execute(context) {
    await runTests(context);
    return "test passed";
  },
} satisfies Command;
