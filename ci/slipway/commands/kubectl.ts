/** Runs kubectl where it reaches the cluster, with the connection's credentials and in the service's namespace. */
import { clusterOptions } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { runInteractively } from "../operations/interactive.ts";

export default {
  about: "Run kubectl in the service's namespace, on the host that reaches the cluster",
  args: { form: "-- ARGS…", min: 1, max: Infinity },
  options: clusterOptions,
  execute: (context) =>
    withTarget(context, ({ target }) => runInteractively(target.api, context.options.args, context.signal)),
} satisfies Command;
