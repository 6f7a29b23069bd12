/** Shows what a deploy would change, using a server-side dry run. */
import { describePlan, planDeploy } from "../deploy/plan.ts";
import { clusterOptions, stepOptions } from "../cli/options.ts";
import { assertArchitecture, withTarget } from "../cli/connect-target.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { runFlow } from "../cli/run-flow.ts";
import type { Command } from "../cli/context.ts";
import { isRegistryTarget } from "../targets/registry.ts";

export default {
  about: "Show what a deploy would change",
  options: [...stepOptions, "platform", ...clusterOptions, "json"],
  execute: (context) =>
    withTarget(context, async (deployContext) => {
      assertArchitecture(context, deployContext.target);
      const built = runFlow(context, buildSteps(context), { goals: ["id"] });
      const found = await planDeploy(
        deployContext,
        built.then(({ id }) => id),
      );
      if (context.options.json) {
        const { id, name, delivered, differences, endpoint } = found;
        const changes = differences.map(({ object, isNew, lines }) => ({ object, isNew, lines }));
        const plan = { id, name, isDelivered: delivered, isUpToDate: changes.length === 0, url: endpoint.url, changes };
        console.log(JSON.stringify(plan, undefined, 2));
        return "";
      }
      const lines = describePlan(found);
      for (const line of lines) context.log(line);
      const isCompared = !isRegistryTarget(deployContext.target);
      const there = isCompared ? "whose image is there" : "whose image is there, but not compared yet";
      const image = found.delivered ? there : "whose image is not there yet";
      return `a deploy of ${found.name}, ${image}, would change ${lines.length > 0 ? "this" : "nothing"}`;
    }),
} satisfies Command;
