/** Builds the image archive without checks, tests or a cluster. */
import { archiveOptions, imageOptions, stepOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { ensureArchives } from "../cli/build-steps.ts";

export default {
  about: "Build the image archive (docker-archive format)",
  options: [...stepOptions, ...imageOptions, ...archiveOptions],
  execute: ensureArchives,
} satisfies Command;
