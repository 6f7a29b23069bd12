/** From the source to a verified version: the default command. */
import { clusterOptions, imageOptions, stepOptions } from "../cli/options.ts";
import { connectAndDeploy } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";
import { checkTestAndBuild } from "../cli/steps.ts";

export default {
  about: "check, test, image, then deliver, roll out, verify (the default)",
  options: [...stepOptions, ...imageOptions, ...clusterOptions],
  execute(context) {
    if (context.options.target === "none") return checkTestAndBuild(context);
    return connectAndDeploy(context);
  },
} satisfies Command;
