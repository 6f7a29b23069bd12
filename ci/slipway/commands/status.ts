/** Shows the running version and its health. */
import { describeStatus, readStatus } from "../deploy/status-report.ts";
import { clusterOptions } from "../cli/options.ts";
import { withTarget } from "../cli/connect-target.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Show the running version, its age, commit and health, and the stored versions",
  options: [...clusterOptions, "json"],
  execute: (context) =>
    withTarget(context, async (deployContext) => {
      const report = await readStatus(deployContext);
      if (context.options.json) {
        console.log(JSON.stringify(report, undefined, 2));
        return "";
      }
      const [first, ...lines] = describeStatus(report);
      for (const line of lines) context.log(line);
      return first!;
    }),
} satisfies Command;
