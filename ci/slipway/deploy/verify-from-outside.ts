/** Verifies the served version as a client outside the cluster. The pods of a worker are observed instead. */
import { PipelineError } from "../core/errors.ts";
import { describeFetchError } from "../core/fetch-error.ts";
import type { WorkloadState } from "../kubernetes/workload-state.ts";
import { verifyStaysUp, type StayUpResult } from "./stay-up.ts";

/** Endpoint of the Service's version. */
export interface Endpoint {
  /** The URL, for requests and messages. */
  url: string;
  /** Requests `url`. Default: fetch(), which uses HTTP_PROXY if set. */
  open?: ((init: RequestInit) => Promise<Response>) | undefined;
  /** True if requests are slow and traffic is limited. Requests are then concurrent and rarer. Default: false. */
  isRemote?: boolean;
  /** Observes the workloads of a worker, which gets no requests. Default: the service answers requests. */
  observe?: () => Promise<WorkloadState[]>;
}

/** Header with the ID, if the service has a route of its own at the version path. The service's code has it too. */
export const BUILD_ID_HEADER = "Slipway-Build";

/** Concurrent requests to a remote endpoint. */
const CONCURRENT_REQUESTS = 10;

export interface VerificationOptions {
  /** Number of responses in a row. For 1, the pods of a worker are observed once. Default: 20 */
  replies?: number;
  /** Default: 30 */
  deadlineSeconds?: number;
  /** The workloads of a worker when they became ready. */
  since?: WorkloadState[];
  signal: AbortSignal;
}

/** `ok` is true if `replies` responses in a row had the id. `last` is the last other id or error. */
export type VerificationResult = StayUpResult;

/** Describes a successful verification. */
export function describeVerified({ observe }: Endpoint, id: string): string {
  return observe ? `the pods of ${id} stay up` : `20 replies in a row carry ${id}`;
}

/** Describes where a version serves or runs. */
export function describeServing({ url, observe }: Endpoint, name: string): string {
  return observe ? `${name} runs as the worker ${url}` : `${name} serves at ${url}`;
}

/**
 * Sends requests over new connections until `replies` responses in a row have `id`.
 *
 * @throws {PipelineError} if the last request could not be sent, for example after a lost SSH connection. That says
 * nothing about the version
 */
export async function verifyVersion(
  endpoint: Endpoint,
  id: string,
  { replies = 20, deadlineSeconds = 30, since, signal }: VerificationOptions,
): Promise<VerificationResult> {
  if (endpoint.observe) {
    const seconds = replies === 1 ? 0 : undefined;
    return verifyStaysUp(endpoint.observe, id, { since, seconds, deadlineSeconds, signal });
  }
  const end = performance.now() + deadlineSeconds * 1000;
  let consecutive = 0;
  let last = "no response";
  while (consecutive < replies) {
    signal.throwIfAborted();
    const count = endpoint.isRemote ? Math.min(CONCURRENT_REQUESTS, replies - consecutive) : 1;
    const results = await Promise.all(Array.from({ length: count }, () => fetchVersion(endpoint, { signal })));
    const other = results.find((reply) => reply.id !== id);
    if (other === undefined) {
      consecutive += count;
    } else {
      [consecutive, last] = [0, other.id ?? other.failure];
      // At least one request is sent, however short the deadline.
      if (performance.now() > end) {
        if (other.connectionError) throw other.connectionError;
        return { ok: false, last };
      }
      await Bun.sleep(50);
    }
  }
  return { ok: true, last };
}

export type VersionReply =
  | { id: string; failure?: undefined; connectionError?: undefined }
  | {
      id?: undefined;
      failure: string;
      /** Set if the connection to the cluster failed, as opposed to the service. */
      connectionError?: PipelineError;
    };

/** Requests the version once. @returns its id, or the failure */
export async function fetchVersion(
  { url, open = (init) => fetch(url, init), observe }: Endpoint,
  { keepalive = false, signal }: { keepalive?: boolean; signal: AbortSignal },
): Promise<VersionReply> {
  if (observe) return { failure: "a worker gets no requests" };
  try {
    const init = {
      keepalive,
      ...(!keepalive && { headers: { Connection: "close" } }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(2000)]),
    };
    let response = await open({ ...init, redirect: "manual" });
    // A service that has its own route with another content may reply with any status. A 5xx is a failure anyway.
    const id = response.headers.get(BUILD_ID_HEADER);
    if (id !== null && response.status < 500) {
      await response.body?.cancel();
      return { id };
    }
    if (response.status >= 300 && response.status < 400) response = await open(init);
    const text = await response.text();
    if (!response.ok) return { failure: `status ${response.status}` };
    return { id: String((JSON.parse(text) as { id?: unknown }).id) };
  } catch (error) {
    if (error instanceof PipelineError) return { failure: error.message, connectionError: error };
    return { failure: describeFetchError(error) };
  }
}
