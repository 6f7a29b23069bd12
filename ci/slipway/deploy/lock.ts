/**
 * One deploy at a time: a Lease in the app's namespace, which only one can hold and which a dead holder does not keep.
 *
 * Nobody's clock is believed. Whoever finds the Lease held watches it: a holder that is alive renews it every
 * RENEW_SECONDS, and then the other one gives up and says who holds it; one that does not for as long as the Lease lasts is
 * dead, and the Lease is taken over. A holder of this machine is looked up among its processes, which takes no time.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { PipelineError } from "../core/errors.ts";
import { ApiError, type ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { isTransientStatus, backoffMs } from "../kubernetes/retry.ts";

/** Seconds after its last renewal until a Lease is anybody's. */
export const LEASE_SECONDS = 15;
/** Seconds between renewals. */
const RENEW_SECONDS = 4;

export interface Lease extends KubeObject {
  spec: {
    /** Who holds it and for what, as a sentence says it. */
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    acquireTime?: string;
    renewTime?: string;
  };
}

export interface Lock {
  /** Aborted when somebody else holds the Lease now, as after this machine has slept. */
  lost: AbortSignal;
  /**
   * Makes sure, before something is written, that the Lease is still ours: one that was not renewed for a while is renewed first.
   *
   * @throws {PipelineError} "environment" when it is not, or the server stays away
   */
  ensureHeld(): Promise<void>;
  release(): Promise<void>;
}

/** The Lease's collection, name, and the annotation that names its holder's process. */
function placeOf(api: ApiClient) {
  return {
    collection: api.collection("/apis/coordination.k8s.io/v1", "leases"),
    name: `${api.service.name}-deploy`,
    annotation: `${api.fieldManager}/process`,
  };
}

/** Who holds the lock now; undefined: nobody. */
export function readLock(api: ApiClient): Promise<Lease | undefined> {
  const { collection, name } = placeOf(api);
  return api.find<Lease>(`${collection}/${name}`);
}

export interface LockOptions {
  /** What it is taken for, like `deploy of helloapp:abc`. */
  purpose: string;
  say(line: string): void;
  /** Seconds without a renewal after which a holder counts as dead; default: LEASE_SECONDS. */
  leaseSeconds?: number;
  /** Seconds between two looks at somebody else's Lease, and between renewals of one's own; default: RENEW_SECONDS. */
  renewSeconds?: number;
}

/**
 * Takes the lock. The app's namespace must be there.
 *
 * @throws {PipelineError} "environment", naming the holder, when somebody else deploys
 */
export async function acquireLock(api: ApiClient, options: LockOptions): Promise<Lock> {
  const { purpose, say, leaseSeconds = LEASE_SECONDS, renewSeconds = RENEW_SECONDS } = options;
  const { collection, name, annotation } = placeOf(api);
  const { USER, LOGNAME } = process.env;
  const identity = `${USER ?? LOGNAME ?? `uid ${process.getuid?.()}`}@${hostname()} (${purpose})`;
  // One process may hold the locks of two services, and try one twice.
  const token = `${processIdentity()}#${crypto.randomUUID()}`;
  const now = () => new Date().toISOString().replace("Z", "000Z");
  const wanted = (): Lease => ({
    apiVersion: "coordination.k8s.io/v1",
    kind: "Lease",
    metadata: {
      name,
      namespace: api.service.namespace,
      labels: { "app.kubernetes.io/name": api.service.name },
      annotations: { [annotation]: token },
    },
    spec: {
      holderIdentity: identity,
      leaseDurationSeconds: Math.ceil(leaseSeconds),
      acquireTime: now(),
      renewTime: now(),
    },
  });
  /** Replaces the Lease that was read, and fails when it is another one by now. */
  const replace = (lease: Lease, { resourceVersion, uid }: KubeObject["metadata"]) =>
    api.json<Lease>(`${collection}/${name}`, {
      method: "PUT",
      body: { ...lease, metadata: { ...lease.metadata, resourceVersion, uid } },
      signal: undefined,
      fenced: false,
    });

  let watched: { version: string | undefined; since: number } | undefined;
  let mine: Lease | undefined;
  while (!mine) {
    const found = await readLock(api);
    if (!found) {
      mine = await unlessRaced([409], api.json<Lease>(collection, { method: "POST", body: wanted() }));
      continue;
    }
    const holder = found.spec.holderIdentity ?? "somebody";
    // A request whose answer was lost has taken it.
    if (found.metadata.annotations?.[annotation] === token) {
      mine = found;
      break;
    }
    const { resourceVersion: version, annotations } = found.metadata;
    const state = stateOf(annotations?.[annotation]);
    if (state === "alive" || (watched && watched.version !== version)) throw held(holder);
    if (!watched) {
      watched = { version, since: performance.now() };
      if (state === "unknown") say(`the lock is held by ${holder}: waiting for a sign of life`);
    }
    if (state === "dead" || performance.now() - watched.since >= leaseSeconds * 1000) {
      say(`the lock is taken over: ${holder} has ended without releasing it`);
      mine = await unlessRaced([404, 409], replace(wanted(), found.metadata));
      // Who else took it over is alive.
      watched = undefined;
      continue;
    }
    await Bun.sleep(Math.min(1, renewSeconds) * 1000);
  }

  const lost = new AbortController();
  let current = mine;
  let renewed = instant();
  let renewing: Promise<void> | undefined;
  /** Why the last renewal was not answered. */
  let unheard: ApiError | undefined;
  const lose = () => {
    clearInterval(timer);
    lost.abort(
      new PipelineError("environment", "the deploy lock was lost: somebody else may be deploying now", {
        hint: "Wait until that has ended.",
      }),
    );
  };
  const renewOnce = async () => {
    const asked = instant();
    try {
      current = await replace({ ...wanted(), spec: { ...current.spec, renewTime: now() } }, current.metadata);
      renewed = asked;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if ([404, 409].includes(error.status)) {
        // Also after a renewal of our own whose answer was lost: who holds it is looked up before anybody is called a thief.
        const found = await readLock(api).catch(() => "unheard" as const);
        if (found !== "unheard") {
          if (!found || found.metadata.annotations?.[annotation] !== token) return lose();
          current = found;
          return;
        }
      }
      // A server that is away does not hand the Lease to anybody either: who has it is asked when it is back.
      unheard = error;
    }
  };
  /** One at a time, however slow the server is. */
  const renew = (): Promise<void> => {
    renewing ??= renewOnce().finally(() => (renewing = undefined));
    return renewing;
  };
  const timer = setInterval(() => void renew(), renewSeconds * 1000);
  return {
    lost: lost.signal,
    async ensureHeld() {
      const end = performance.now() + api.retryBudgetSeconds * 1000;
      for (let failed = 0; ; failed += 1) {
        lost.signal.throwIfAborted();
        if (millisecondsSince(renewed) < renewSeconds * 2 * 1000) return;
        if (failed > 1) await Bun.sleep(backoffMs(failed - 1, unheard?.pauseSeconds));
        if (failed > 1 && unheard && performance.now() >= end) throw unheard;
        await renew();
      }
    },
    async release() {
      clearInterval(timer);
      await renewing;
      // Only what is still ours; where it is not, or the server is away, its end is its expiry.
      const { uid, resourceVersion } = current.metadata;
      const body = { preconditions: { uid, resourceVersion } };
      // Not a word to the server that an interruption could keep from being said.
      const request = {
        method: "DELETE",
        body,
        signal: undefined,
        fenced: false,
        retryBudgetSeconds: 2,
      } as const;
      await api.json(`${collection}/${name}`, request).catch((error: unknown) => {
        if (error instanceof ApiError && [404, 409].includes(error.status)) return;
        const why = error instanceof Error ? error.message : String(error);
        say(`the deploy lock could not be released, and ends by itself within ${leaseSeconds} s: ${why}`);
      });
    },
  };
}

/**
 * A moment on both clocks: the steady one stands still while the machine sleeps, the other may be set.
 * https://man7.org/linux/man-pages/man2/clock_gettime.2.html, CLOCK_MONOTONIC
 */
const instant = () => ({ steady: performance.now(), wall: Date.now() });

/** By the clock on which it is longer: a renewal too many does no harm. */
function millisecondsSince({ steady, wall }: ReturnType<typeof instant>): number {
  return Math.max(performance.now() - steady, Date.now() - wall);
}

/** Undefined where another one was quicker, or the answer was lost: reading shows which. */
async function unlessRaced(statuses: number[], attempt: Promise<Lease>): Promise<Lease | undefined> {
  return attempt.catch(async (error: unknown) => {
    if (!(error instanceof ApiError)) throw error;
    if (statuses.includes(error.status)) return undefined;
    if (!isTransientStatus(error.status)) throw error;
    await Bun.sleep(backoffMs(1, error.pauseSeconds));
    return undefined;
  });
}

function held(holder: string): PipelineError {
  return new PipelineError("environment", `another deploy is under way: ${holder} holds the lock`, {
    hint: "Run the command again when it has ended; `bun ci/pipeline.ts status` shows it.",
  });
}

/**
 * A process as nothing else on earth is called: the boot, the namespace of process ids (a container has its own), the
 * id, and when it started, because ids come round again. Empty where there is no such process, or no /proc.
 */
export function processIdentity(pid: number | "self" = "self"): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const namespace = readlinkSync("/proc/self/ns/pid");
    // proc_pid_stat(5): the program's name is in parentheses and may hold spaces; field 22 is the start.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, ...fields] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // What has ended and waits for its parent does nothing any more.
    if (state === "Z" || state === "X") return "";
    const started = fields[18];
    return [boot, namespace, stat.split(" ", 1)[0], started].join("/");
  } catch {
    return "";
  }
}

/** Whether the process of that name still runs; "unknown" where it cannot be seen from here. */
function stateOf(name = ""): "alive" | "dead" | "unknown" {
  const [process = ""] = name.split("#");
  const [boot, namespace, pid] = process.split("/");
  const [ownBoot, ownNamespace] = processIdentity().split("/");
  if (!process || boot !== ownBoot || namespace !== ownNamespace) return "unknown";
  return processIdentity(Number(pid)) === process ? "alive" : "dead";
}
