/** Back to an earlier version, because somebody wants it. */
import { PipelineError } from "../ground/errors.ts";
import { explain } from "./explain.ts";
import { bring, NotUp } from "./follow.ts";
import { earlier, keep, listVersions, proofTime } from "./history.ts";
import { locked } from "./lock.ts";
import { prune } from "./manifests.ts";
import type { Deploy } from "./plan.ts";
import { idOf, observe } from "./rollout.ts";
import { nextLine } from "./undo.ts";

/**
 * Goes back to a version that the cluster keeps, and proves it.
 *
 * @param id which one; default: the one that served before
 * @throws {PipelineError} "surroundings" when there is none, "change" when it does not come up
 */
export async function rollback(run: Deploy, id?: string): Promise<string> {
  const { target, leaves, say } = run;
  const { api } = target;
  return locked(run, `rollback${id ? ` to ${id}` : ""}`, async (_, underLock) => {
    const [seen, versions] = await Promise.all([observe(api), listVersions(api)]);
    const current = seen && idOf(seen.deployment);
    const to = earlier(versions, (version) => version.id === current, id);
    if (!to) {
      const kept = versions.filter(({ verified }) => verified).map((version) => version.id);
      const what = id ? `the cluster keeps no version ${id}` : "there is no earlier version to go back to";
      throw new PipelineError("surroundings", `${what}; nothing was changed`, {
        hint: `Kept: ${kept.join(", ") || "none"}. \`bun ci/pipeline.ts status\` tells more.`,
      });
    }
    if (!(await target.find(to.id))) {
      const hint = `Check out ${to.commit ?? "its commit"} and deploy that.`;
      throw new PipelineError("surroundings", `the image of ${to.id} is gone; nothing was changed`, { hint });
    }
    say(`back from ${current} to ${to.id}`);
    leaves(`The rollback to ${to.id} was under way and goes on in the cluster.`);
    const now = versions.find((version) => version.id === current);
    try {
      await bring(underLock, "rollback", to, { endpoint: target.endpoint(to.manifests), served: true });
    } catch (error) {
      if (!(error instanceof NotUp)) throw error;
      throw new PipelineError("change", `${to.id} did not come up again: ${error.message}`, {
        hint: nextLine(target, error.failure),
        output: await explain(api, error.failure),
      });
    }
    if (now) await prune(api, now.manifests, to.manifests);
    await keep(api, { ...to, verified: proofTime(versions) });
    return to.id;
  });
}
