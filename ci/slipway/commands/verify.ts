/** Whether the Service serves what is here. */
import { endpointOf, prove } from "../deploy/status.ts";
import { clusterOptions, stepOptions } from "../cli/options.ts";
import { withCluster } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "ask the Service whether it serves what is here",
  options: [...stepOptions, "platform", ...clusterOptions],
  execute: (run) =>
    withCluster(run, async (to) => {
      const id = await run.id();
      const endpoint = await endpointOf(to);
      await prove(to, endpoint, id);
      return `${endpoint.url} serves ${run.nameOf(id)}`;
    }),
} satisfies Command;
