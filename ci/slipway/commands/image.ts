/** The docker-archive, without checks, tests or a cluster. */
import { imageOptions, stepOptions } from "../run/options.ts";
import type { Command } from "../run/run.ts";
import { images } from "../run/steps.ts";

export default {
  about: "the docker-archive alone",
  options: [...stepOptions, ...imageOptions],
  execute: images,
} satisfies Command;
