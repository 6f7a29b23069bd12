/** Whether the Service serves what is here. */
import type { Command } from "../cli/context.ts";
import { verifySteps } from "../cli/rollback-flow.ts";
import { clusterOptions, stepOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "ask the Service whether it serves what is here",
  options: [...stepOptions, "platform", ...clusterOptions],
  async execute(context) {
    const { serving, id } = await runFlow(context, verifySteps(context), { goals: ["serving"] });
    return `${serving.url} serves ${context.imageNameOf(id)}`;
  },
} satisfies Command;
