/** Removes the service from the cluster, after it has listed the objects and was confirmed. */
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { clusterOptions, lockOptions, usageError } from "../cli/options.ts";
import { lockDeploys } from "../deploy/locked-context.ts";
import {
  assertDeletable,
  deleteInventory,
  deleteNamespace,
  describeInventory,
  takeInventory,
} from "../operations/destroy.ts";
import { hasTerminal } from "../operations/interactive.ts";

export default {
  about: "Delete the service and its stored versions, after a question",
  options: [...clusterOptions, ...lockOptions, "yes", "volumes", "namespace"],
  execute: (context) =>
    withTarget(context, async (deployContext) => {
      const { service, options, signal } = context;
      const { api } = deployContext.target;
      const { name, namespace } = service;
      const scope = { hasVolumes: options.volumes, hasNamespace: options.namespace };
      if (!(await api.find(`/api/v1/namespaces/${namespace}`))) return `nothing to delete: no namespace ${namespace}`;
      const lines = describeInventory(await takeInventory(deployContext), scope, namespace);
      if (lines.length === 0) return `nothing to delete: ${name} is not deployed`;
      for (const line of lines) context.log(line);
      await confirm(name, options.yes, signal);
      const locked = await lockDeploys(deployContext, "destroy");
      try {
        // A deploy may have ended since the question.
        const inventory = await takeInventory(locked);
        await assertDeletable(locked, inventory, scope);
        await deleteInventory(locked, inventory, scope);
      } catch (error) {
        throw locked.explainLoss(error);
      } finally {
        await locked.releaseLock();
      }
      if (scope.hasNamespace) await deleteNamespace(deployContext);
      return `${name} is deleted from namespace ${namespace}`;
    }),
} satisfies Command;

/** @throws {PipelineError} "usage" if the name is another one, or nobody can be asked */
async function confirm(name: string, given: string | undefined, signal: AbortSignal): Promise<void> {
  if (given !== undefined) {
    if (given === name) return;
    throw usageError(`--yes "${given}" is not the service's name "${name}". Nothing was changed`);
  }
  if (!hasTerminal()) throw usageError(`destroy asks on a terminal. Without one, give --yes ${name}`);
  process.stdout.write(`Type ${name} to delete it: `);
  const aborted = new Promise<string>((resolve) => signal.addEventListener("abort", () => resolve("")));
  const answer = (async () => {
    for await (const line of console) return line;
    return "";
  })();
  const line = await Promise.race([answer, aborted]);
  signal.throwIfAborted();
  if (line.trim() !== name) throw usageError(`"${line.trim()}" is not "${name}". Nothing was changed`);
}
