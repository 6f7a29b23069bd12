/** Jobs that have to end well before the pods change, like a migration of the database. */
import { applyAll } from "../kubernetes/apply.ts";
import { prepareForApply } from "../kubernetes/prepare-apply.ts";
import { RolloutFailed } from "./rollout.ts";
import type { Condition, KubeObject, Pod } from "../kubernetes/objects.ts";
import type { DeployContext } from "./plan.ts";
import type { DeployTransaction } from "./transaction.ts";

const LOOK_MS = 250;

interface Job extends KubeObject {
  status?: { conditions?: Condition[] };
}

/**
 * Runs Jobs one after the other; one that has run for this version is not run again.
 *
 * @throws {RolloutFailed} when one fails, or does not end within the service's `rolloutSeconds`
 */
export async function runPreDeployJobs(
  context: DeployContext,
  { jobs, permanentEffects }: DeployTransaction,
): Promise<void> {
  const { target, service, signal, step } = context;
  const { api } = target;
  for (const [fitted] of await Promise.all(jobs.map((job) => prepareForApply(api, [job])))) {
    const { name } = fitted!.object.metadata;
    await step("first", async () => {
      const ended = outcomeOf(fitted!.live as Job | undefined);
      if (ended === "Complete") return { value: undefined, reused: true, detail: `Job/${name} has run` };
      // What failed is tried again: with the same name it could not be.
      if (ended === "Failed") await api.delete(fitted!.object);
      await untilGone(context, fitted!.path);
      await applyAll(api, [fitted!]);
      permanentEffects.push(`Job/${name}`);
      const end = performance.now() + service.rolloutTimeoutSeconds * 1000;
      for (;;) {
        signal.throwIfAborted();
        const job = await api.find<Job>(fitted!.path!);
        const outcome = outcomeOf(job);
        if (outcome === "Complete") return { value: undefined, detail: `Job/${name} has run` };
        const late = performance.now() > end;
        if (!job || outcome === "Failed" || late) {
          const pod = await lastPod(context, name);
          const message = late ? `has not ended within ${service.rolloutTimeoutSeconds} s` : "failed";
          throw new RolloutFailed({
            reason: "JobFailed",
            message: `Job/${name} ${message}`,
            ...(pod && { pod }),
          });
        }
        await Bun.sleep(LOOK_MS);
      }
    });
  }
}

/** Until a Job that failed before is gone: it is deleted in the background. */
async function untilGone({ target, signal }: DeployContext, path: string | undefined): Promise<void> {
  const isFailed = async () => path !== undefined && outcomeOf(await target.api.find<Job>(path)) === "Failed";
  for (let i = 0; i < 100 && (await isFailed()); i += 1) {
    signal.throwIfAborted();
    await Bun.sleep(LOOK_MS);
  }
}

function outcomeOf(job: Job | undefined): "Complete" | "Failed" | undefined {
  const met = job?.status?.conditions?.find(
    ({ type, status }) => status === "True" && (type === "Complete" || type === "Failed"),
  );
  return met?.type as "Complete" | "Failed" | undefined;
}

async function lastPod({ target: { api } }: DeployContext, job: string): Promise<string | undefined> {
  const pods = await api.list<Pod>(api.collection("/api/v1", "pods"), { labelSelector: `job-name=${job}` });
  return pods
    .sort((a, b) => (a.metadata.creationTimestamp ?? "").localeCompare(b.metadata.creationTimestamp ?? ""))
    .at(-1)?.metadata.name;
}
