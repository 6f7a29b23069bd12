/** Shows the running version and its health. */
import { status } from "../deploy/status.ts";
import { clusterOptions } from "../cli/options.ts";
import { withTarget } from "../cli/connect-target.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Show the running version, its age, commit and health, and the stored versions",
  options: clusterOptions,
  execute: (context) =>
    withTarget(context, async (deployContext) => {
      const [first, ...lines] = await status(deployContext);
      for (const line of lines) context.log(line);
      return first!;
    }),
} satisfies Command;
