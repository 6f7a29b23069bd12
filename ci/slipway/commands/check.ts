/** Types and format, by the service's own script. */
import { stepOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { runCheck } from "../cli/steps.ts";

export default {
  about: "the service's script `check` alone: types and format",
  options: stepOptions,
  async execute(context) {
    await runCheck(context);
    return "check passed";
  },
} satisfies Command;
