/** Who a request belongs to: its own id and the trace that it is part of. Both are taken over when they are valid. */

// Unique without a random number for each: a random start for the process, and a count.
let made: string | undefined;
let count = 0;

/** Sixteen hex digits, made when they are first needed: they cost a start 0.2 ms. */
const processId = (): string => (made ??= crypto.randomUUID().slice(0, 18).replaceAll("-", ""));

/**
 * The client's `X-Request-Id` when it is 1 to 64 harmless characters: anything else could forge log lines or break
 * headers downstream.
 */
export function givenId(headers: Headers): string | undefined {
  const given = headers.get("x-request-id");
  return given !== null && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : undefined;
}

/** An id for a request that came without one. */
export const newId = (): string => `${processId()}-${(count += 1)}`;

/**
 * The valid W3C `traceparent` of a request (version 00, neither id all zeros), else undefined: who does not trace gets
 * no trace. https://www.w3.org/TR/trace-context-2/
 */
export function traceParent(headers: Headers): string | undefined {
  const given = headers.get("traceparent");
  return given !== null && /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/.test(given)
    ? given
    : undefined;
}

/** The 32 hex digits that all spans of a trace share. */
export function traceId(traceParent: string): string {
  return traceParent.slice(3, 35);
}

/** What a reply says of its trace in `traceresponse`: the same trace, a span of this service, the caller's flags. */
export function traceResponse(traceParent: string): string {
  // Eight hex digits without padding.
  const span = (0x10000000 + ((count += 1) & 0xfffffff)).toString(16);
  return `${traceParent.slice(0, 36)}${processId().slice(0, 8)}${span}${traceParent.slice(52)}`;
}
