/** Builds, rolls out and verifies a version. This is the default command. */
import { clusterOptions, imageOptions, stepOptions } from "../cli/options.ts";
import { connectAndDeploy } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";
import { checkTestAndBuild } from "../cli/steps.ts";

export default {
  about: "Check, test, build, deliver, roll out and verify (default command)",
  options: [...stepOptions, ...imageOptions, ...clusterOptions],
  execute(context) {
    if (context.options.target === "none") return checkTestAndBuild(context);
    return connectAndDeploy(context);
  },
} satisfies Command;
