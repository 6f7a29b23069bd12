/** Finds files that a served version misses, in the logs of its pods. A missing file need not fail the rollout. */
import { ApiError } from "../kubernetes/api-error.ts";
import type { Pod } from "../kubernetes/objects.ts";
import { readLogs } from "./diagnostics.ts";
import { findMissingFile } from "./log-hints.ts";
import type { DeployContext } from "./plan.ts";

/** Prints a finding if the log of the newest pod reports a missing file. */
export async function reportMissingFiles({ target: { api }, service, log }: DeployContext, pods: Pod[]): Promise<void> {
  try {
    const [newest] = pods.toSorted((a, b) => createdAt(b).localeCompare(createdAt(a)));
    const finding = newest && findMissingFile(await readLogs(api, newest.metadata.name), service.project);
    if (finding) log(finding);
  } catch (error) {
    // Without permission to read logs there is no finding.
    if (!(error instanceof ApiError)) throw error;
  }
}

const createdAt = ({ metadata }: Pod) => metadata.creationTimestamp ?? "";
