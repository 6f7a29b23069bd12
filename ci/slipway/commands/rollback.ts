/** Rolls back to an earlier version. */
import type { Command } from "../cli/context.ts";
import { rollbackSteps } from "../cli/rollback-and-verify-flows.ts";
import { clusterOptions, lockOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "Roll back to the previous version, or to ID, and verify it",
  args: { form: "[ID]", min: 0, max: 1 },
  options: [...clusterOptions, ...lockOptions, "report"],
  async execute(context) {
    const steps = rollbackSteps(context, context.options.args[0]);
    const { prepare } = await runFlow(context, steps, { goals: ["complete"] });
    return `${prepare!.name} serves again, verified`;
  },
} satisfies Command;
