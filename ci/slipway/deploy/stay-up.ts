/** Verifies a version of a worker: its pods have to be ready, and to run for some seconds without a restart. */
import { currentPods, isReady, runningId, type WorkloadState } from "../kubernetes/workload-state.ts";
import { findRestartSince, replicaCountsOf, type RolloutFailure } from "./rollout-status.ts";

/** Seconds that the pods have to run without a restart. The kubelet reports a crash within about a second. */
const STAY_UP_SECONDS = 5;
const POLL_MS = 300;

export interface StayUpOptions {
  /** The workloads when they became ready. Default: the first observation in which they are. */
  since?: WorkloadState[] | undefined;
  /** Default: 5, of which `minReadySeconds` of the main workload counts. */
  seconds?: number | undefined;
  /** Seconds until the pods have to be ready. */
  deadlineSeconds: number;
  signal: AbortSignal;
}

export interface StayUpResult {
  ok: boolean;
  /** The last problem. */
  last: string;
  /** Set if a container ended, with the pod whose log tells why. */
  failure?: RolloutFailure;
}

/** Observes the workloads until they have run an id for some seconds. The first one's id counts. */
export async function verifyStaysUp(
  observe: () => Promise<WorkloadState[]>,
  id: string,
  { since, seconds, deadlineSeconds, signal }: StayUpOptions,
): Promise<StayUpResult> {
  const end = performance.now() + deadlineSeconds * 1000;
  let first = since;
  let upSince: number | undefined;
  let last = "no pod is ready";
  for (;;) {
    signal.throwIfAborted();
    const states = await observe();
    const failure = first && findRestartSince(first, states);
    if (failure) return { ok: false, last: failure.message, failure };
    const now = performance.now();
    const problem = findProblem(states, id);
    if (problem === undefined) {
      first ??= states;
      upSince ??= now;
      if (now - upSince >= (seconds ?? remainingSeconds(states)) * 1000) return { ok: true, last };
    } else {
      [upSince, last] = [undefined, problem];
      if (now > end) return { ok: false, last };
    }
    await Bun.sleep(POLL_MS);
  }
}

/** The cluster itself waits for `minReadySeconds` before it counts a pod as available. */
function remainingSeconds([main]: WorkloadState[]): number {
  return Math.max(1, STAY_UP_SECONDS - (main?.deployment.spec.minReadySeconds ?? 0));
}

function findProblem(states: WorkloadState[], id: string): string | undefined {
  const [main] = states;
  if (!main) return "it is not deployed";
  const running = runningId(main.deployment);
  if (running !== id) return `the pods run ${running}`;
  for (const seen of states) {
    const { desired } = replicaCountsOf(seen.deployment);
    const ready = currentPods(seen).filter(isReady).length;
    if (ready < desired) return `${ready} of ${desired} pods of ${seen.deployment.metadata.name} are ready`;
  }
  return undefined;
}
