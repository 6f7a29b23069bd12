/** Opens Bun's shell in a pod of the version that serves. */
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { clusterOptions } from "../cli/options.ts";
import { assertTerminal, openTerminal, SHELL } from "../operations/terminal-session.ts";
import { DEFAULT_DEADLINE_SECONDS } from "../operations/one-off-pod.ts";

export default {
  about: "Open Bun's shell in a pod of the running version",
  options: [...clusterOptions, "deadline"],
  async execute(context) {
    assertTerminal("shell");
    const { deadline = DEFAULT_DEADLINE_SECONDS } = context.options;
    return withTarget(context, (deployContext) => openTerminal(deployContext, ["-e", SHELL], deadline));
  },
} satisfies Command;
