/** Checks that the Service serves the version in the working tree. */
import { endpointOf, assertServing } from "../deploy/status.ts";
import { clusterOptions, stepOptions } from "../cli/options.ts";
import { withCluster } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Check that the running version matches the working tree",
  options: [...stepOptions, "platform", ...clusterOptions],
  execute: (context) =>
    withCluster(context, async (deployContext) => {
      const id = await context.imageId();
      const endpoint = await endpointOf(deployContext);
      await assertServing(deployContext, endpoint, id);
      return `${endpoint.url} serves ${context.imageNameOf(id)}`;
    }),
} satisfies Command;
