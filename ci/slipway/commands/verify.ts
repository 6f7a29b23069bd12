/** Checks that the Service serves the version in the working tree. */
import type { Command } from "../cli/context.ts";
import { verifySteps } from "../cli/rollback-and-verify-flows.ts";
import { clusterOptions, stepOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "Check that the running version matches the working tree",
  options: [...stepOptions, "platform", ...clusterOptions],
  async execute(context) {
    const { serving, id } = await runFlow(context, verifySteps(context), { goals: ["serving"] });
    const verb = serving.observe ? "is a worker and runs" : "serves";
    return `${serving.url} ${verb} ${context.imageNameOf(id)}`;
  },
} satisfies Command;
