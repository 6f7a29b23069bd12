/** Who a request belongs to: its own id and the trace that it is part of. Both are taken over when they are valid. */

// Unique without a random number for each: a random start for the process, and a count.
const processId = crypto.randomUUID().slice(0, 18).replaceAll("-", "");
let count = 0;

/**
 * The request's id: the client's `X-Request-Id` when it is 1 to 64 harmless characters, else a new one.
 * Anything else could forge log lines or break headers downstream.
 */
export function requestId(headers: Headers): string {
  const given = headers.get("x-request-id");
  return given !== null && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : `${processId}-${(count += 1)}`;
}

export interface Trace {
  /** 32 hex digits. */
  traceId: string;
  /** For the reply's `traceresponse`: the same trace, the span of this request, the caller's flags. */
  response: string;
}

/**
 * The trace of a valid W3C `traceparent` (version 00, neither id all zeros), else undefined: who does not trace gets
 * no trace. https://www.w3.org/TR/trace-context-2/
 */
export function trace(headers: Headers): Trace | undefined {
  const given = headers.get("traceparent");
  if (given === null) return undefined;
  const match = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})$/.exec(given);
  if (!match) return undefined;
  const [, traceId, flags] = match as unknown as [string, string, string];
  const span = processId.slice(0, 8) + (count + 1).toString(16).padStart(8, "0").slice(-8);
  return { traceId, response: `00-${traceId}-${span}-${flags}` };
}
