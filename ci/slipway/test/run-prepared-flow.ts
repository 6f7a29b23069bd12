/** Runs the deploy and the rollback from a point where a test has prepared the rest. */
import type { Engine } from "../engines/engine.ts";
import type { AvailabilityReport } from "../deploy/availability.ts";
import type { DeployContext, Plan } from "../deploy/plan.ts";
import type { ServedVersion } from "../deploy/rollout-phases.ts";
import { runSteps } from "../core/step-graph.ts";
import { CommandContext } from "../cli/context.ts";
import { deploySteps } from "../cli/deploy-flow.ts";
import { readOptions } from "../cli/options.ts";
import { workloadChangeSteps } from "../cli/workload-change-flow.ts";
import type { WorkloadChange } from "../operations/change-workloads.ts";
import { rollbackSteps } from "../cli/rollback-and-verify-flows.ts";
import type { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

function contextOf({ service, signal }: DeployContext, archive: string): CommandContext {
  const options = readOptions({ output: archive }, [], service, {});
  return new CommandContext({ service, options, signal, engine: {} as Engine });
}

const flowOf = ({ step, signal }: DeployContext) => ({
  signal,
  report: step,
  choose: ([first]: unknown[]) => first,
});

/** Deploys a plan whose checks have passed. */
export async function deploy(
  run: DeployContext,
  plan: Plan,
  archive: string,
): Promise<ServedVersion & { samples: AvailabilityReport | undefined }> {
  const { verify, settle } = await runSteps(deploySteps(contextOf(run, archive)), {
    ...flowOf(run),
    goals: ["complete"],
    given: { connect: run, approve: plan, import: undefined },
  });
  return { ...verify!, samples: settle };
}

/** Rolls back. @returns the id that serves then */
export async function rollback(run: DeployContext, wanted?: string): Promise<string> {
  const { prepare } = await runSteps(rollbackSteps(contextOf(run, "x.tar"), wanted), {
    ...flowOf(run),
    goals: ["complete"],
    given: { connect: run },
  });
  return prepare!.version.id;
}

/** Restarts or scales. @returns the name of the result */
export async function changeWorkloads(run: DeployContext, change: WorkloadChange): Promise<string> {
  const { prepare } = await runSteps(workloadChangeSteps(contextOf(run, "x.tar"), change), {
    ...flowOf(run),
    goals: ["complete", "verify"],
    given: { connect: run },
  });
  return prepare!.name;
}

/** Creates a context whose target is an in-memory cluster. It has every image, and renders the manifests in `$MANIFESTS`. */
export function contextWith(cluster: FakeCluster, log: (line: string) => void = () => {}): DeployContext {
  const signal = AbortSignal.timeout(60_000);
  return {
    target: {
      api: cluster.api(signal),
      kubectl: [process.execPath, "-e", "console.log(process.env.MANIFESTS)"],
      overlay: "overlay",
      find: async (id) => `helloapp:${id}`,
      deliver: async (_, id) => `helloapp:${id}`,
      endpoint: () => ({ url: "http://service", open: async () => Response.json({ id: cluster.served() }) }),
      clean: async () => [],
    },
    service: { ...service, rolloutTimeoutSeconds: 3 },
    signal,
    recordState: () => {},
    log,
    step: async (_, work) => (await work(() => {})).value,
  };
}
