/** Reads facts about pods for `status`: readiness, restarts, the last error, and usage if the cluster measures it. */
import type { ApiClient } from "../kubernetes/api.ts";
import { parseByteQuantity } from "../kubernetes/byte-quantity.ts";
import type { KubeObject, Pod } from "../kubernetes/objects.ts";
import { isReady } from "../kubernetes/workload-state.ts";
import { describeEnd } from "./container-exit.ts";

export interface PodFacts {
  name: string;
  ready: boolean;
  restarts: number;
  /** Thousandths of a CPU. null: the cluster does not measure it, or not yet. */
  cpuMillicores: number | null;
  memoryBytes: number | null;
  /** The last end or the present obstacle of a container. null: none. */
  lastError: string | null;
}

interface PodMetrics extends KubeObject {
  containers: { usage: { cpu: string; memory: string } }[];
}

export async function readPodFacts(api: ApiClient, pods: Pod[]): Promise<PodFacts[]> {
  // Without a metrics-server, or without the right to ask it, the usage stays unknown.
  const metrics = await api
    .list<PodMetrics>(
      api.collection("/apis/metrics.k8s.io/v1beta1", "pods"),
      {},
      { retryBudgetSeconds: 0, timeoutSeconds: 5 },
    )
    .catch(() => []);
  return pods.map((pod) => {
    const { containerStatuses = [] } = pod.status;
    const usage = metrics.find(({ metadata }) => metadata.name === pod.metadata.name)?.containers;
    return {
      name: pod.metadata.name,
      ready: containerStatuses.length > 0 ? containerStatuses.every(({ ready }) => ready) : isReady(pod),
      restarts: containerStatuses.reduce((sum, { restartCount }) => sum + restartCount, 0),
      cpuMillicores: usage ? Math.round(sum(usage.map(({ usage: { cpu } }) => parseCpu(cpu)))) : null,
      memoryBytes: usage ? sum(usage.map(({ usage: { memory } }) => parseByteQuantity(memory))) : null,
      lastError: lastErrorOf(pod) ?? null,
    };
  });
}

/** Converts a quantity such as `250m` or `1200000n` to thousandths of a CPU. */
export function parseCpu(quantity: string): number {
  const [, number, unit = ""] = /^([\d.]+)([num]?)$/.exec(quantity) ?? [];
  return Number(number ?? 0) * { n: 1e-6, u: 1e-3, m: 1, "": 1000 }[unit]!;
}

function lastErrorOf(pod: Pod): string | undefined {
  const { containerStatuses = [], initContainerStatuses = [] } = pod.status;
  for (const { name, state, lastState } of [...initContainerStatuses, ...containerStatuses]) {
    const { reason, message } = state?.waiting ?? {};
    const ended = state?.terminated ?? lastState?.terminated;
    const end = ended && ended.exitCode !== 0 ? `${name} ${describeEnd("exited", ended, pod, name)}` : undefined;
    if (reason !== undefined && reason !== "PodInitializing" && reason !== "ContainerCreating")
      return [reason, end ?? message].filter(Boolean).join(": ");
    if (end) return end;
  }
  return undefined;
}

const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);

/** Formats the facts as a line. */
export function describePod({ name, ready, restarts, cpuMillicores, memoryBytes, lastError }: PodFacts): string {
  const usage =
    cpuMillicores === null || memoryBytes === null
      ? []
      : [`${cpuMillicores}m CPU`, `${Math.round(memoryBytes / 1024 ** 2)}Mi memory`];
  const error = lastError === null ? [] : [`last error: ${lastError}`];
  const state = ready ? "ready" : "not ready";
  return `  ${name}  ${[state, `${restarts} restart${restarts === 1 ? "" : "s"}`, ...usage, ...error].join(", ")}`;
}
