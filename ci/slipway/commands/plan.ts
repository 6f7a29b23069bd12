/** What a deploy would change, by a dry run on the server. */
import { describePlan, plan } from "../deploy/plan.ts";
import { clusterOptions, stepOptions } from "../cli/options.ts";
import { withCluster } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";
import { isRegistryTarget } from "../targets/registry.ts";

export default {
  about: "what a deploy would change",
  options: [...stepOptions, "platform", ...clusterOptions],
  execute: (run) =>
    withCluster(run, async (to) => {
      const found = await plan(to, run.id());
      const lines = describePlan(found);
      for (const line of lines) run.say(line);
      const isCompared = !isRegistryTarget(to.target);
      const there = isCompared ? "whose image is there" : "whose image is there, but not compared yet";
      const image = found.delivered ? there : "whose image is not there yet";
      return `a deploy of ${found.name}, ${image}, would change ${lines.length > 0 ? "this" : "nothing"}`;
    }),
} satisfies Command;
