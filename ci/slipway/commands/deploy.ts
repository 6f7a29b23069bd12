/** Builds, rolls out and verifies a version. This is the default command. */
import type { Command } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { clusterOptions, lockOptions, imageOptions, stepOptions } from "../cli/options.ts";
import { deployWorkingTree } from "../cli/run-deploy.ts";
import { runFlow } from "../cli/run-flow.ts";

export default {
  about: "Check, test, build, deliver, roll out and verify (default command)",
  options: [...stepOptions, ...imageOptions, ...clusterOptions, ...lockOptions],
  async execute(context) {
    if (context.options.target !== "none") return (await deployWorkingTree(context)).conclusion;
    const goals = ["check", "test", "archives"] as const;
    return (await runFlow(context, buildSteps(context), { goals })).archives;
  },
} satisfies Command;
