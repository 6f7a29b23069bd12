/** Who a request belongs to: its own id and the trace that it is part of. Both are taken over when they are valid. */

/**
 * The request's id: the client's `X-Request-Id` when it is 1 to 64 harmless characters, else a new UUID.
 * Anything else could forge log lines or break headers downstream.
 */
export function requestId(headers: Headers): string {
  const given = headers.get("x-request-id");
  return given !== null && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : crypto.randomUUID();
}

/** The trace id of a valid W3C `traceparent` (version 00, neither id all zeros), else undefined. */
export function traceId(headers: Headers): string | undefined {
  const given = headers.get("traceparent");
  if (given === null) return undefined;
  const match = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.exec(given);
  return match?.[1];
}
