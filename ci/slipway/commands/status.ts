/** What runs, and how it is. */
import { status } from "../cluster/status.ts";
import { clusterOptions } from "../run/options.ts";
import { withCluster } from "../run/reach.ts";
import type { Command } from "../run/run.ts";

export default {
  about: "what runs, since when, by which commit, how healthy; which versions are kept",
  options: clusterOptions,
  execute: (run) =>
    withCluster(run, async (to) => {
      const [first, ...lines] = await status(to);
      for (const line of lines) run.say(line);
      return first!;
    }),
} satisfies Command;
