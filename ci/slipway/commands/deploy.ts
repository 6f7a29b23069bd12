/** From the source to a verified version: the default command. */
import { clusterOptions, imageOptions, stepOptions } from "../run/options.ts";
import { reachAndDeploy } from "../run/reach.ts";
import type { Command } from "../run/run.ts";
import { archiveOnly } from "../run/steps.ts";

export default {
  about: "check, test, image, then deliver, roll out, verify (the default)",
  options: [...stepOptions, ...imageOptions, ...clusterOptions],
  execute(run) {
    if (run.options.target === "none") return archiveOnly(run);
    return reachAndDeploy(run);
  },
} satisfies Command;
