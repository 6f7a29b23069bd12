/** Sets the number of pods of the running version. */
import type { Command } from "../cli/context.ts";
import { clusterOptions, lockOptions, usageError } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";
import { workloadChangeSteps } from "../cli/workload-change-flow.ts";

export default {
  about: "Set the number of pods, and wait until they are ready",
  args: { form: "N [WORKLOAD]", min: 1, max: 2 },
  options: [...clusterOptions, ...lockOptions, "report"],
  async execute(context) {
    const [number = "", workload] = context.options.args;
    if (!/^\d{1,4}$/.test(number)) throw usageError(`scale expects a number of pods, got "${number}"`);
    const replicas = Number(number);
    const change = { purpose: "scale", workload, isSingle: true, replicas, patch: { spec: { replicas } } };
    const { prepare } = await runFlow(context, workloadChangeSteps(context, change), { goals: ["complete", "verify"] });
    const { kind, metadata } = prepare!.rollout.workloads[0]!;
    const inManifests = prepare!.version.manifests.find(
      (object) => object.kind === kind && object.metadata.name === metadata.name,
    ) as { spec?: { replicas?: number } } | undefined;
    const fixed = inManifests?.spec?.replicas;
    const next =
      fixed === undefined || fixed === replicas
        ? "The next deploy keeps this number"
        : `The manifests set \`replicas: ${fixed}\`, so the next deploy returns to ${fixed}`;
    return `${metadata.name} has ${replicas} ${replicas === 1 ? "pod" : "pods"}. ${next}`;
  },
} satisfies Command;
