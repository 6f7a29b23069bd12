/** The docker-archive, without checks, tests or a cluster. */
import { imageOptions, stepOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { buildArchives } from "../cli/build-steps.ts";

export default {
  about: "the docker-archive alone",
  options: [...stepOptions, ...imageOptions],
  execute: buildArchives,
} satisfies Command;
