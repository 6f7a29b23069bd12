/** Collects pod state, events and logs of a failed rollout. */
import { ApiError } from "../kubernetes/api-error.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import { describeExitCode } from "../core/exit-status.ts";
import type { Event, Pod } from "../kubernetes/objects.ts";
import type { RolloutFailure } from "./rollout-status.ts";

/** Returns the failed pod's state, its warning events, and the last lines of its containers' logs. */
export async function collectDiagnostics(api: ApiClient, { pod }: RolloutFailure): Promise<string> {
  try {
    const fieldSelector = `type=Warning${pod ? `,involvedObject.name=${pod}` : ""}`;
    const [state, events, log] = await Promise.all([
      pod ? api.find<Pod>(api.collection("/api/v1", `pods/${pod}`)) : undefined,
      api.list<Event>(api.collection("/api/v1", "events"), { fieldSelector }),
      pod ? readLogs(api, pod) : "",
    ]);
    const warnings = events
      .sort((a, b) => timeOf(a).localeCompare(timeOf(b)))
      .slice(-5)
      .map(({ reason, message, involvedObject, count = 1 }) => {
        const times = count > 1 ? ` (${count} times)` : "";
        return `  ${involvedObject.kind}/${involvedObject.name}: ${reason}: ${message?.trim()}${times}`;
      });
    return [
      state && `${pod}: ${describeContainers(state)}`,
      warnings.length > 0 && `warnings:\n${warnings.join("\n")}`,
      log && `last lines of ${pod}:\n${log}`,
    ]
      .filter(Boolean)
      .join("\n");
  } catch (error) {
    // An error here must not hide the rollout's failure.
    if (error instanceof ApiError) return error.message;
    throw error;
  }
}

function timeOf({ lastTimestamp, eventTime, metadata }: Event): string {
  return lastTimestamp ?? eventTime ?? metadata.creationTimestamp ?? "";
}

function describeContainers({ status }: Pod): string {
  const { phase = "Unknown", containerStatuses = [], initContainerStatuses = [] } = status;
  const containers = [...initContainerStatuses, ...containerStatuses].map(({ name, state = {}, restartCount }) => {
    const { waiting, terminated } = state;
    const how = waiting?.reason ?? (terminated ? `exited with ${describeExitCode(terminated.exitCode)}` : "running");
    return `${name} ${how}, ${restartCount} restarts`;
  });
  return [phase, ...containers].join("; ");
}

/** Returns the last lines of each container's log. */
export async function readLogs(api: ApiClient, pod: string): Promise<string> {
  const found = await api.find<Pod>(api.collection("/api/v1", `pods/${pod}`));
  const { initContainers = [], containers: main = [] } = found?.spec ?? {};
  // Init containers that ended well say nothing about a failure.
  const failed = initContainers.filter(({ name }) => hasFailed(found!, name));
  const containers = [...failed, ...main].map(({ name }) => name);
  const logs = await Promise.all(containers.map((container) => readContainerLog(api, pod, container)));
  return logs.filter(Boolean).join("\n");
}

function hasFailed({ status: { initContainerStatuses = [] } }: Pod, container: string): boolean {
  const { state, lastState } = initContainerStatuses.find(({ name }) => name === container) ?? {};
  return [state, lastState].some((one) => one?.terminated !== undefined && one.terminated.exitCode !== 0);
}

async function readContainerLog(api: ApiClient, pod: string, container: string): Promise<string> {
  // While a container waits for its restart, its current log is that of the crash. After the restart, the crash is in
  // the previous log. The kubelet may have deleted that and sends a message in its place.
  for (const previous of ["false", "true"]) {
    const query = { container, tailLines: "20", previous };
    const response = await api.fetch(api.collection("/api/v1", `pods/${pod}/log`), { query });
    const text = (await response.text()).trimEnd();
    if (response.ok && text && !text.startsWith("unable to retrieve container logs")) return text;
  }
  return "";
}
