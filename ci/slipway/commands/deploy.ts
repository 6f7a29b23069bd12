/** From the source to a verified version: the default command. */
import { clusterOptions, imageOptions, stepOptions } from "../cli/options.ts";
import { reachAndDeploy } from "../cli/deploy-flow.ts";
import type { Command } from "../cli/context.ts";
import { archiveOnly } from "../cli/steps.ts";

export default {
  about: "check, test, image, then deliver, roll out, verify (the default)",
  options: [...stepOptions, ...imageOptions, ...clusterOptions],
  execute(run) {
    if (run.options.target === "none") return archiveOnly(run);
    return reachAndDeploy(run);
  },
} satisfies Command;
