/** The service's tests, by its own script. */
import { stepOptions } from "../run/options.ts";
import type { Command } from "../run/run.ts";
import { test } from "../run/steps.ts";

export default {
  about: "the service's script `test:unit` or `test` alone",
  options: stepOptions,
  async execute(run) {
    await test(run);
    return "test passed";
  },
} satisfies Command;
