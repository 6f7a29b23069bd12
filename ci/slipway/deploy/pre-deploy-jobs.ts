/** Runs Jobs that must succeed before the rollout, such as a database migration, with the objects that they name. */
import { applyInOrder } from "../kubernetes/apply.ts";
import { prepareForApply, type PreparedObject } from "../kubernetes/prepare-for-apply.ts";
import { findObjectReferences, findReferenced } from "../kubernetes/references.ts";
import { RolloutFailed } from "./rollout-phases.ts";
import type { Condition, KubeObject, Pod } from "../kubernetes/objects.ts";
import type { DeployContext } from "./plan.ts";
import type { DeployTransaction } from "./deploy-transaction.ts";

const POLL_MS = 250;

interface Job extends KubeObject {
  status?: { conditions?: Condition[] };
}

/**
 * Runs Jobs one after the other. A Job that has completed for this version is not run again.
 *
 * @throws {RolloutFailed} if a Job fails, or does not end within the service's `rolloutTimeoutSeconds`
 */
export async function runPreDeployJobs(
  context: DeployContext,
  { jobs, objects, permanentEffects }: DeployTransaction,
): Promise<void> {
  const { target, service, signal, step } = context;
  const { api } = target;
  for (const [prepared] of await Promise.all(jobs.map((job) => prepareForApply(api, [job])))) {
    const { name } = prepared!.object.metadata;
    await step("jobs", async () => {
      const previous = outcomeOf(prepared!.live as Job | undefined);
      if (previous === "Complete") return { value: undefined, reused: true, detail: `Job/${name} has completed` };
      // A failed Job is run again, and must be deleted first because the name is the same.
      if (previous === "Failed") await api.delete(prepared!.object);
      await waitUntilDeleted(context, prepared!.path);
      await applyInOrder(api, objectsOf(prepared!.object, objects, service.namespace));
      await applyInOrder(api, [prepared!]);
      permanentEffects.push(`Job/${name}`);
      const end = performance.now() + service.rolloutTimeoutSeconds * 1000;
      for (;;) {
        signal.throwIfAborted();
        const job = await api.find<Job>(prepared!.path!);
        const outcome = outcomeOf(job);
        if (outcome === "Complete") return { value: undefined, detail: `Job/${name} has completed` };
        const isLate = performance.now() > end;
        if (!job || outcome === "Failed" || isLate) {
          const pod = await lastPod(context, name);
          const message = isLate ? `did not end within ${service.rolloutTimeoutSeconds} s` : "failed";
          throw new RolloutFailed({
            reason: "JobFailed",
            message: `Job/${name} ${message}`,
            ...(pod && { pod }),
          });
        }
        await Bun.sleep(POLL_MS);
      }
    });
  }
}

/** Returns the objects of the version that a Job's pods name, in the order to apply. An undo restores them with all others. */
function objectsOf(job: KubeObject, objects: PreparedObject[], namespace: string): PreparedObject[] {
  const manifests = objects.map(({ object }) => object);
  const needed = new Set(findObjectReferences(job).map((one) => findReferenced(one, manifests, namespace)));
  return objects.filter(({ object }) => needed.has(object));
}

/** Waits until a failed Job is gone, which the cluster deletes in the background. */
async function waitUntilDeleted({ target, signal }: DeployContext, path: string | undefined): Promise<void> {
  const isFailed = async () => path !== undefined && outcomeOf(await target.api.find<Job>(path)) === "Failed";
  for (let i = 0; i < 100 && (await isFailed()); i += 1) {
    signal.throwIfAborted();
    await Bun.sleep(POLL_MS);
  }
}

function outcomeOf(job: Job | undefined): "Complete" | "Failed" | undefined {
  const condition = job?.status?.conditions?.find(
    ({ type, status }) => status === "True" && (type === "Complete" || type === "Failed"),
  );
  return condition?.type as "Complete" | "Failed" | undefined;
}

async function lastPod({ target: { api } }: DeployContext, job: string): Promise<string | undefined> {
  const pods = await api.list<Pod>(api.collection("/api/v1", "pods"), { labelSelector: `job-name=${job}` });
  return pods
    .sort((a, b) => (a.metadata.creationTimestamp ?? "").localeCompare(b.metadata.creationTimestamp ?? ""))
    .at(-1)?.metadata.name;
}
