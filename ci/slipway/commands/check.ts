/** Checks types and format with the service's script. */
import { stepOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { runCheck } from "../cli/steps.ts";

export default {
  about: "Run the service's `check` script (types and format)",
  options: stepOptions,
  async execute(context) {
    await runCheck(context);
    return "check passed";
  },
} satisfies Command;
