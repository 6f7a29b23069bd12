/** Back to an earlier version. */
import { rollback } from "../cluster/rollback.ts";
import { clusterOptions } from "../run/options.ts";
import { withCluster } from "../run/reach.ts";
import type { Command } from "../run/run.ts";

export default {
  about: "go back to the version that served before, or to ID, and verify that",
  args: { form: "[ID]", min: 0, max: 1 },
  options: [...clusterOptions, "report"],
  execute: (run) =>
    withCluster(run, async (to) => {
      const id = await rollback(to, run.options.args[0]);
      return `${run.nameOf(id)} serves again, verified`;
    }),
} satisfies Command;
