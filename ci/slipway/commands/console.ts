/** Opens Bun's REPL in a pod of the version that serves. */
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { clusterOptions } from "../cli/options.ts";
import { assertTerminal, openTerminal } from "../operations/terminal-session.ts";
import { DEFAULT_DEADLINE_SECONDS } from "../operations/one-off-pod.ts";

export default {
  about: "Open Bun's REPL in a pod of the running version",
  options: [...clusterOptions, "deadline"],
  async execute(context) {
    assertTerminal("console");
    const { deadline = DEFAULT_DEADLINE_SECONDS } = context.options;
    return withTarget(context, (deployContext) => openTerminal(deployContext, ["repl"], deadline));
  },
} satisfies Command;
