/** Back to an earlier version, because somebody wants it. */
import { PipelineError } from "../core/errors.ts";
import { applyAll, halfway, prune } from "../kubernetes/apply.ts";
import { fit, type Fitted } from "../kubernetes/prepare-apply.ts";
import { bring } from "./rollout.ts";
import { earlier, foreignTo, isKeptApart, keep, listVersions, nameOfVersion } from "./history.ts";
import { proofTime, secretsOf, type Version } from "./history.ts";
import { locked } from "./lock.ts";
import { idOf, observeAll } from "../kubernetes/observe.ts";
import { observeMain, workloadsIn, type Deploy } from "./plan.ts";
import { render } from "../kubernetes/render.ts";
import { undo } from "./undo.ts";

/**
 * Goes back to a version that the cluster keeps, and proves it. Secrets stay as they are, and Jobs that come first are not run.
 *
 * @param wanted which one, by its name or id; default: the one that served before, and that nobody went back from
 * @returns the version's id
 * @throws {PipelineError} "surroundings" when there is none, or what it needs is gone; "change" when it does not come up: what
 * was there before is then back; "halfway" where the way back was not open
 */
export async function rollback(run: Deploy, wanted?: string): Promise<string> {
  const { target, service, leaves, say } = run;
  const { api } = target;
  return locked(run, `rollback${wanted ? ` to ${wanted}` : ""}`, async (underLock) => {
    const [seen, versions] = await Promise.all([observeMain(api), listVersions(api, say)]);
    const current = seen && (nameOfVersion(seen.deployment) ?? byId(versions, idOf(seen.deployment)));
    const to = earlier(versions, current, wanted);
    if (!to) throw none(versions, wanted);
    const fitted = await prepare(underLock, to);
    const workloads = workloadsIn(service, to.manifests);
    const before = await observeAll(api, workloads);
    say(`back from ${seen ? idOf(seen.deployment) : "nothing"} to ${to.id}, as ${to.name}`);
    leaves(`The rollback to ${to.id} was under way and goes on in the cluster.`);
    const endpoint = target.endpoint(to.manifests);
    const write = () => applyAll(api, fitted);
    // The version before is another one by now, or may be: without the id it could be the one that was left.
    const goOn = `\`bun ci/pipeline.ts rollback ${to.id}\` goes on from there.`;
    try {
      await bring(underLock, { id: to.id, what: "rollback", workloads, write, endpoint, before });
    } catch (error) {
      const name = `${service.name}:${to.id}`;
      return undo(
        underLock,
        { name, fitted, before, back: undefined, version: to, stays: [], noted: [], goOn },
        error,
      );
    }
    try {
      const now = versions.find(({ name }) => name === current);
      if (now && now.name !== to.name) {
        const { left } = await prune(api, now.manifests, to.manifests, secretsOf(versions));
        if (left.length > 0) say(`not in that version, and left where it is: ${left.join(", ")}`);
        await keep(api, { ...now, left: new Date().toISOString() });
      }
      await keep(api, { ...to, verified: proofTime(versions), left: undefined });
    } catch (error) {
      const what = `${to.id} serves again, verified, but that could not be taken down`;
      throw halfway(what, error, underLock.signal, goOn);
    }
    return to.id;
  });
}

function byId(versions: Version[], id: string): string | undefined {
  return versions.find((version) => version.id === id)?.name;
}

function none(versions: Version[], wanted: string | undefined): PipelineError {
  const kept = versions
    .filter(({ verified }) => verified)
    .map(({ id, left }) => (left ? `${id} (left)` : id));
  const what = wanted
    ? `the cluster keeps no version ${wanted}`
    : "there is no earlier version to go back to";
  return new PipelineError("surroundings", `${what}; nothing was changed`, {
    hint: `Kept: ${kept.join(", ") || "none"}. \`bun ci/pipeline.ts status\` tells more.`,
  });
}

/** Looks whether a version can be gone back to. @throws {PipelineError} "surroundings" when not */
async function prepare({ target, service, signal }: Deploy, to: Version): Promise<Fitted[]> {
  const { api } = target;
  const gone = (what: string) =>
    new PipelineError("surroundings", `${what}; nothing was changed`, {
      hint: `Check out ${to.commit ?? "its commit"} and deploy that.`,
    });
  if (!(await target.find(to.id))) throw gone(`the image of ${to.id} is gone`);
  const foreign = foreignTo(service, to, await render(target, service, signal));
  if (foreign) throw gone(`${to.name} holds ${foreign}, which the overlay has not: it is not applied`);
  const secrets = await fit(
    api,
    to.manifests.filter(({ kind }) => kind === "Secret"),
  );
  const missing = secrets.find(({ live }) => !live);
  if (missing) throw gone(`Secret/${missing.object.metadata.name}, which ${to.name} needs, is gone`);
  return fit(
    api,
    to.manifests.filter((object) => !isKeptApart(object)),
  );
}
