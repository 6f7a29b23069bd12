/** What runs, and how it is. */
import { status } from "../deploy/status.ts";
import { clusterOptions } from "../cli/options.ts";
import { withTarget } from "../cli/connect-target.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "what runs, since when, by which commit, how healthy; which versions are kept",
  options: clusterOptions,
  execute: (context) =>
    withTarget(context, async (deployContext) => {
      const [first, ...lines] = await status(deployContext);
      for (const line of lines) context.log(line);
      return first!;
    }),
} satisfies Command;
