/** Restarts the pods of the running version, one after the other. */
import type { Command } from "../cli/context.ts";
import { clusterOptions, lockOptions } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";
import { workloadChangeSteps } from "../cli/workload-change-flow.ts";

/** Annotation that `kubectl rollout restart` sets too. */
const RESTARTED_AT = "kubectl.kubernetes.io/restartedAt";

export default {
  about: "Replace the pods of the running version without downtime, and verify it",
  args: { form: "[WORKLOAD]", min: 0, max: 1 },
  options: [...clusterOptions, ...lockOptions, "report"],
  async execute(context) {
    const annotations = { [RESTARTED_AT]: new Date().toISOString() };
    const patch = { spec: { template: { metadata: { annotations } } } };
    const steps = workloadChangeSteps(context, { purpose: "restart", workload: context.options.args[0], patch });
    const { prepare } = await runFlow(context, steps, { goals: ["complete", "verify"] });
    return `${context.imageNameOf(prepare!.version.id)} was restarted, and serves`;
  },
} satisfies Command;
