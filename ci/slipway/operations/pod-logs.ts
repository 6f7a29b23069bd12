/** Merges the logs of a service's pods by time, and follows them through a rollout. */
import { PipelineError } from "../core/errors.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { Pod } from "../kubernetes/objects.ts";
import { runningId } from "../kubernetes/workload-state.ts";
import {
  compareTimes,
  createSortKeys,
  LogPosition,
  mergeLogs,
  readLog,
  type LogLine,
  type LogQuery,
  type LogSource,
} from "./log-lines.ts";

export interface LogOptions {
  /** Lines from the end, of all pods together. undefined: all. */
  lines: number | undefined;
  sinceSeconds: number | undefined;
  /** Only containers before their last restart. */
  previous: boolean;
  /** Only lines with this text. */
  grep: string | undefined;
  /** Name of a workload or a pod. undefined: all pods of the service. */
  workload: string | undefined;
}

/** Milliseconds between two looks at the pods while following. */
const POLL_MS = 1000;
/** Milliseconds for which lines wait for older lines of other pods. */
const SORT_MS = 400;
/** Milliseconds between attempts to read a log after the connection was lost. */
const RETRY_MS = 500;

/** @throws {PipelineError} "project" if the service has no pods, or none of the workload */
export async function readServiceLogs(api: ApiClient, options: LogOptions, signal: AbortSignal): Promise<LogLine[]> {
  const { lines, sinceSeconds, previous } = options;
  const pods = await findPods(api, options.workload);
  const range = { tailLines: options.grep === undefined ? lines : undefined, sinceSeconds };
  const reads = pods.flatMap((pod) =>
    containersOf(pod).flatMap(({ restarts, ...source }) => {
      // A container that has crashed shows its last lines.
      const before = restarts > 0 ? [collect(source, { ...range, previous: true })] : [];
      return previous ? before : [...before, collect(source, range)];
    }),
  );
  const sorted = mergeLogs(await Promise.all(reads)).filter(matches(options));
  return lines === undefined ? sorted : lines === 0 ? [] : sorted.slice(-lines);

  async function collect(source: LogSource, query: LogQuery): Promise<LogLine[]> {
    return Array.fromAsync(readLog(api, source, query, signal));
  }
}

const matches =
  ({ grep }: LogOptions) =>
  ({ line }: LogLine) =>
    grep === undefined || line.includes(grep);

/**
 * Follows the logs of all pods, also of those that start later. Each line of a container comes once, in order.
 *
 * @param show prints lines
 * @param announce prints a change: a version or a container that starts
 */
export async function followServiceLogs(
  api: ApiClient,
  options: LogOptions,
  signal: AbortSignal,
  { show, announce }: { show: (lines: LogLine[]) => Promise<void>; announce: (text: string) => Promise<void> },
): Promise<void> {
  const followed = new Set<string>();
  const versions = new Set<string>();
  const waiting: { line: LogLine; key: string; at: number }[] = [];
  const isOver = () => signal.aborted;
  const start = new Date().toISOString();
  const first = await readServiceLogs(api, options, signal);
  // Following begins behind the lines that are shown.
  const lastLines = new Map(first.map((line) => [`${line.pod}/${line.container}`, line]));
  await show(first);

  let isFirstLook = true;
  while (!isOver()) {
    const pods = await findPods(api, options.workload, isFirstLook).catch((error: unknown) => {
      if (isFirstLook) throw error;
      return [];
    });
    for (const pod of pods) {
      for (const { restarts, ...source } of containersOf(pod)) {
        const key = `${source.pod}/${source.container}`;
        if (!followed.has(key)) {
          followed.add(key);
          if (!isFirstLook && !versions.has(source.version)) await announce(`${source.version} starts`);
          void follow(source, restarts, isFirstLook ? (lastLines.get(key) ?? start) : undefined);
        }
        versions.add(source.version);
      }
    }
    isFirstLook = false;
    await flush();
    await Bun.sleep(Math.min(POLL_MS, SORT_MS));
  }
  await flush(true);

  async function flush(isLast = false): Promise<void> {
    waiting.sort((a, b) => compareTimes(a.key, b.key));
    const due = isLast ? waiting.length : waiting.findLastIndex(({ at }) => at <= Date.now() - SORT_MS) + 1;
    if (due > 0) await show(waiting.splice(0, due).map(({ line }) => line));
  }

  /** Reads a container's log until its pod is gone. @param after the last known line, or a time */
  async function follow(source: LogSource, restarts: number, after: LogLine | string | undefined): Promise<void> {
    let position = new LogPosition(after);
    const keyOf = createSortKeys();
    const take = (line: LogLine) => {
      if (!position.accept(line)) return;
      const key = keyOf(line);
      if (matches(options)(line)) waiting.push({ line, key, at: Date.now() });
    };
    let known = restarts;
    while (!isOver()) {
      try {
        for await (const line of readLog(api, source, { ...position.resume(), follow: true }, signal)) take(line);
      } catch {
        // The connection was lost. The next attempt resumes behind the last line.
      }
      await Bun.sleep(RETRY_MS);
      const state = await findState(source).catch(() => "unknown" as const);
      if (state === "unknown") continue;
      if (state === undefined) return;
      if (state.restarts > known) {
        // The stream of the old container may have ended before its last lines.
        const rest = readLog(api, source, { ...position.resume(), previous: true }, signal);
        for await (const line of rest) take(line);
        known = state.restarts;
        position = new LogPosition();
      } else if (state.isFinished) return;
    }
  }

  /** @returns undefined if the pod is gone */
  async function findState({ pod, container }: LogSource) {
    const found = await api.find<Pod>(`${api.collection("/api/v1", "pods")}/${pod}`);
    const status = found?.status.containerStatuses?.find(({ name }) => name === container);
    if (!found) return undefined;
    const isFinished = found.status.phase === "Succeeded" || found.status.phase === "Failed";
    return { restarts: status?.restartCount ?? 0, isFinished };
  }
}

/** @param isRequired whether it is an error if there are none */
async function findPods(api: ApiClient, workload: string | undefined, isRequired = true): Promise<Pod[]> {
  const pods = await api.list<Pod>(api.collection("/api/v1", "pods"), { labelSelector: api.selector });
  const found = pods.filter(({ metadata: { name } }) =>
    workload === undefined ? true : name === workload || name.startsWith(`${workload}-`),
  );
  if (found.length > 0 || !isRequired) return found;
  const { name, namespace } = api.service;
  const others = pods.map(({ metadata }) => metadata.name).join(", ");
  throw new PipelineError(
    "project",
    workload === undefined ? `${name} has no pods in namespace ${namespace}` : `no pod of ${workload} in ${namespace}`,
    {
      code: "pods-not-found",
      hint: others ? `The pods are ${others}.` : "Run `bun ci/pipeline.ts` to deploy the working tree.",
    },
  );
}

/** Lists the containers that have started. */
function containersOf(pod: Pod): (LogSource & { restarts: number })[] {
  const version = runningId({ spec: { template: pod } });
  return pod.spec.containers.flatMap(({ name }) => {
    const status = pod.status.containerStatuses?.find((status) => status.name === name);
    const hasStarted = status?.state?.running || status?.state?.terminated || (status?.restartCount ?? 0) > 0;
    if (!hasStarted) return [];
    return [{ pod: pod.metadata.name, container: name, version, restarts: status?.restartCount ?? 0 }];
  });
}
