/** Types and format, by the service's own script. */
import { stepOptions } from "../run/options.ts";
import type { Command } from "../run/run.ts";
import { check } from "../run/steps.ts";

export default {
  about: "the service's script `check` alone: types and format",
  options: stepOptions,
  async execute(run) {
    await check(run);
    return "check passed";
  },
} satisfies Command;
