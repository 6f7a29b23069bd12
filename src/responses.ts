/**
 * A route's reply: a Response to clone, and the facts that the log and the metrics need.
 *
 * A reply that never changes is created once, see `memoizeReply`. Cloning a Response costs half of creating one, and a
 * change to a clone does not affect the others.
 */
export interface Reply {
  status: number;
  /** Has all headers except those that differ between requests. Only clones of it are sent. */
  response: Response;
  /** Length of the body in bytes, for the access log. */
  bytes: number;
}

export const TEXT_TYPE = "text/plain; charset=utf-8";
export const HTML_TYPE = "text/html; charset=utf-8";

/**
 * Creates a reply with a body.
 *
 * @param type `Content-Type`
 * @param headers more headers. `Cache-Control` defaults to "no-store", because replies describe the current state
 */
export function createReply(type: string, body: string, headers: Record<string, string> = {}, status = 200): Reply {
  const init = { status, headers: { "Content-Type": type, "Cache-Control": "no-store", ...headers } };
  return { status, response: new Response(body, init), bytes: Buffer.byteLength(body) };
}

/** Creates a constant reply at its first use, so that the start of the service does not wait for it. */
export function memoizeReply(create: () => Reply): () => Reply {
  let created: Reply | undefined;
  return () => (created ??= create());
}

/** Creates a reply without a body: 204, 304. */
export function createEmptyReply(status: number, headers: Record<string, string>): Reply {
  return { status, response: new Response(null, { status, headers }), bytes: 0 };
}

export function createJsonReply(value: unknown, headers?: Record<string, string>): Reply {
  return createReply("application/json", JSON.stringify(value) + "\n", headers);
}

/** Creates an error reply (RFC 9457). `detail` is for the client and never contains an internal message. */
export function createProblemReply(
  status: number,
  title: string,
  requestId: string,
  { detail, headers }: { detail?: string; headers?: Record<string, string> } = {},
): Reply {
  const body = JSON.stringify({ type: "about:blank", title, status, detail, requestId }) + "\n";
  return createReply("application/problem+json", body, headers, status);
}
