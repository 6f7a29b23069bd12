/** Describes the end of a container, with the memory limit if that was the reason. */
import { describeExitCode } from "../core/exit-status.ts";
import type { Pod } from "../kubernetes/objects.ts";

/**
 * Describes how a container ended: `exits with 3`, or `exceeds its memory limit of 256Mi (OOMKilled)`.
 *
 * @param verb "exits" or "exited"
 */
export function describeEnd(
  verb: "exits" | "exited",
  { exitCode, reason }: { exitCode: number; reason?: string },
  { spec }: Pod,
  container: string,
): string {
  if (reason !== "OOMKilled") return `${verb} with ${describeExitCode(exitCode)}`;
  const all = [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])];
  const { limits } = all.find(({ name }) => name === container)?.resources ?? {};
  const limit = limits?.memory === undefined ? "the node's memory" : `its memory limit of ${limits.memory}`;
  return `${verb === "exits" ? "exceeds" : "exceeded"} ${limit} (OOMKilled)`;
}
