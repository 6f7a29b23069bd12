/**
 * Deploy lock: a Lease in the service's namespace, so that only one deploy runs at a time. A dead holder loses it.
 *
 * No clock is trusted. A process that finds the Lease held watches it. A live holder renews it every RENEW_SECONDS,
 * and the waiting process gives up and names the holder. A Lease that is not renewed for its whole duration is taken
 * over. A holder on this machine is looked up among its processes, without waiting.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { userAtHost } from "../core/deployer.ts";
import { PipelineError } from "../core/errors.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import type { ApiClient, ApiRequest } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { backoffMs } from "../kubernetes/retry-policy.ts";

/** Seconds after its last renewal until a Lease expires. */
export const LEASE_SECONDS = 15;
/** Seconds between renewals. */
const RENEW_SECONDS = 4;

export interface Lease extends KubeObject {
  spec: {
    /** Holder and purpose, for messages. */
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    acquireTime?: string;
    renewTime?: string;
  };
}

export interface Lock {
  /** Aborted when another process holds the Lease, for example after this machine was suspended. */
  lost: AbortSignal;
  /**
   * Checks before a write that this process still holds the Lease. Renews it first if the last renewal is old.
   *
   * @throws {PipelineError} "environment" if the Lease is lost or the server does not respond
   */
  ensureHeld(): Promise<void>;
  release(): Promise<void>;
}

/** Returns the Lease's collection, its name, and the annotation that identifies the holder's process. */
function leaseLocation(api: ApiClient) {
  return {
    collection: api.collection("/apis/coordination.k8s.io/v1", "leases"),
    name: `${api.service.name}-deploy`,
    annotation: `${api.fieldManager}/process`,
  };
}

/** Reads the lock. @returns undefined if no process holds it */
export function readLock(api: ApiClient): Promise<Lease | undefined> {
  const { collection, name } = leaseLocation(api);
  return api.find<Lease>(`${collection}/${name}`);
}

export interface AcquireLockOptions {
  /** Purpose, for example `deploy of helloapp:abc`. */
  purpose: string;
  log(line: string): void;
  /** Seconds to wait for a live holder. Default: 0. */
  waitSeconds?: number;
  /** Seconds without a renewal after which a holder counts as dead. Default: LEASE_SECONDS. */
  leaseSeconds?: number;
  /** Seconds between renewals, and at most between polls of a held Lease. Default: RENEW_SECONDS. */
  renewSeconds?: number;
}

/**
 * Acquires the lock. The service's namespace must exist.
 *
 * @throws {PipelineError} "environment", naming the holder, if another deploy is running
 */
export async function acquireLock(api: ApiClient, options: AcquireLockOptions): Promise<Lock> {
  const { purpose, log, waitSeconds = 0, leaseSeconds = LEASE_SECONDS, renewSeconds = RENEW_SECONDS } = options;
  const end = performance.now() + waitSeconds * 1000;
  const { collection, name, annotation } = leaseLocation(api);
  const identity = `${userAtHost()} (${purpose})`;
  // A process may hold the locks of two services, and may try to acquire a lock twice.
  const token = `${processIdentity()}#${crypto.randomUUID()}`;
  const now = () => new Date().toISOString().replace("Z", "000Z");
  const newLease = (): Lease => ({
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
  /** Replaces the Lease. Fails if it has changed since it was read. */
  const replace = (lease: Lease, { resourceVersion, uid }: KubeObject["metadata"]) =>
    api.json<Lease>(`${collection}/${name}`, {
      method: "PUT",
      body: { ...lease, metadata: { ...lease.metadata, resourceVersion, uid } },
      signal: undefined,
      checksLock: false,
    });

  let watch: { version: string | undefined; since: number } | undefined;
  let acquired: Lease | undefined;
  /** The holder that a line has named. */
  let awaited: string | undefined;
  while (!acquired) {
    const found = await readLock(api);
    if (!found) {
      acquired = await tryWrite([409], api.json<Lease>(collection, { method: "POST", body: newLease() }));
      continue;
    }
    const holder = found.spec.holderIdentity ?? "an unknown holder";
    // An earlier request has acquired it, but its response was lost.
    if (found.metadata.annotations?.[annotation] === token) {
      acquired = found;
      break;
    }
    const { resourceVersion: version, annotations } = found.metadata;
    const state = stateOf(annotations?.[annotation]);
    if (state === "alive" || (watch && watch.version !== version)) {
      if (performance.now() >= end) throw heldError(holder);
      if (awaited !== holder) log(`waiting up to ${waitSeconds} s for ${(awaited = holder)}`);
      watch = { version, since: performance.now() };
    } else if (!watch) {
      watch = { version, since: performance.now() };
      if (state === "unknown") log(`${holder} holds the lock: waiting for its next renewal`);
    }
    if (state === "dead" || performance.now() - watch.since >= leaseSeconds * 1000) {
      log(`taking over the lock: ${holder} has ended without releasing it`);
      acquired = await tryWrite([404, 409], replace(newLease(), found.metadata));
      // If another process was faster, it is alive: start over.
      watch = undefined;
      continue;
    }
    await Bun.sleep(Math.min(1, renewSeconds) * 1000);
  }

  const lost = new AbortController();
  let current = acquired;
  let renewedAt = bothClocks();
  let renewing: Promise<void> | undefined;
  /** The error of the last renewal. */
  let renewalError: ApiError | undefined;
  const lose = () => {
    clearInterval(timer);
    lost.abort(
      new PipelineError("environment", "the deploy lock was lost: another deploy may be running", {
        code: "lock-lost",
        hint: "Wait until the other deploy has ended.",
      }),
    );
  };
  const renewOnce = async () => {
    const sentAt = bothClocks();
    try {
      const lease = { ...newLease(), spec: { ...current.spec, renewTime: now() } };
      current = await replace(lease, current.metadata);
      renewedAt = sentAt;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if ([404, 409].includes(error.status)) {
        // A conflict may also follow from an own renewal whose response was lost, so the holder is read first.
        const found = await readLock(api).catch(() => "unknown" as const);
        if (found !== "unknown") {
          if (!found || found.metadata.annotations?.[annotation] !== token) return lose();
          current = found;
          return;
        }
      }
      // Without the server, no other process can acquire the Lease either. The holder is checked when it is back.
      renewalError = error;
    }
  };
  /** A single renewal at a time, however slow the server is. */
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
        if (millisecondsSince(renewedAt) < renewSeconds * 2 * 1000) return;
        if (failed > 1) await Bun.sleep(backoffMs(failed - 1, renewalError?.pauseSeconds));
        if (failed > 1 && renewalError && performance.now() >= end) throw renewalError;
        await renew();
      }
    },
    async release() {
      clearInterval(timer);
      await renewing;
      // The preconditions protect a Lease that another process holds by now. If the delete fails, the Lease expires.
      const { uid, resourceVersion } = current.metadata;
      const body = { preconditions: { uid, resourceVersion } };
      // No signal: an interruption must not prevent the release.
      const options = { signal: undefined, checksLock: false, retryBudgetSeconds: 2 } satisfies ApiRequest;
      await api.json(`${collection}/${name}`, { method: "DELETE", body, ...options }).catch((error: unknown) => {
        if (error instanceof ApiError && [404, 409].includes(error.status)) return;
        const why = error instanceof Error ? error.message : String(error);
        log(`the deploy lock could not be released and expires within ${leaseSeconds} s: ${why}`);
      });
    },
  };
}

/**
 * Reads both clocks: the monotonic clock stops while the machine is suspended, the wall clock may be set.
 * https://man7.org/linux/man-pages/man2/clock_gettime.2.html, CLOCK_MONOTONIC
 */
const bothClocks = () => ({ monotonic: performance.now(), wall: Date.now() });

/** Returns the longer time of both clocks: an extra renewal does no harm. */
function millisecondsSince({ monotonic, wall }: ReturnType<typeof bothClocks>): number {
  return Math.max(performance.now() - monotonic, Date.now() - wall);
}

/** Writes the Lease. @returns undefined if it must be read again: a faster process, or a lost response */
async function tryWrite(statuses: number[], attempt: Promise<Lease>): Promise<Lease | undefined> {
  return attempt.catch(async (error: unknown) => {
    if (!(error instanceof ApiError)) throw error;
    if (statuses.includes(error.status)) return undefined;
    if (!error.isTransient) throw error;
    await Bun.sleep(backoffMs(1, error.pauseSeconds));
    return undefined;
  });
}

function heldError(holder: string): PipelineError {
  return new PipelineError("environment", `another deploy is under way: ${holder} holds the lock`, {
    code: "lock-held",
    hint: "Run the command again when it has ended, or with --wait SECONDS. `bun ci/pipeline.ts status` shows whether it has.",
  });
}

/**
 * Identifies a process globally: boot id, PID namespace (a container has its own), PID, and start time because PIDs
 * are reused. Empty if the process or /proc does not exist.
 */
export function processIdentity(pid: number | "self" = "self"): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const namespace = readlinkSync("/proc/self/ns/pid");
    // proc_pid_stat(5): the program's name is in parentheses and may hold spaces, field 22 is the start.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, ...fields] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // A zombie has ended.
    if (state === "Z" || state === "X") return "";
    const started = fields[18];
    return [boot, namespace, stat.split(" ", 1)[0], started].join("/");
  } catch {
    return "";
  }
}

/** Returns whether a process still runs. "unknown" if it is not visible from here. */
function stateOf(token = ""): "alive" | "dead" | "unknown" {
  const [process = ""] = token.split("#");
  const [boot, namespace, pid] = process.split("/");
  const [ownBoot, ownNamespace] = processIdentity().split("/");
  if (!process || boot !== ownBoot || namespace !== ownNamespace) return "unknown";
  return processIdentity(Number(pid)) === process ? "alive" : "dead";
}
