/** Rolls back to an earlier version. */
import { rollback } from "../deploy/rollback.ts";
import { clusterOptions } from "../cli/options.ts";
import { withCluster } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Roll back to the previous version, or to ID, and verify it",
  args: { form: "[ID]", min: 0, max: 1 },
  options: [...clusterOptions, "report"],
  execute: (context) =>
    withCluster(context, async (deployContext) => {
      const id = await rollback(deployContext, context.options.args[0]);
      return `${context.imageNameOf(id)} serves again, verified`;
    }),
} satisfies Command;
