/**
 * What a route answers: a Response to copy, and what the log and the metrics have to know of it. A reply that is always
 * the same is made once, see `once`: to copy a Response costs half of making one, and no copy can change another.
 */
export interface Reply {
  status: number;
  /** With all headers but those that differ from request to request. It is never sent itself. */
  response: Response;
  /** Length of the body in bytes, for the access log. */
  bytes: number;
}

export const TEXT = "text/plain; charset=utf-8";
export const HTML = "text/html; charset=utf-8";

/**
 * @param type `Content-Type`
 * @param headers more headers. Without a Cache-Control among them it is "no-store": what this service says is true now
 */
export function reply(type: string, body: string, headers: Record<string, string> = {}, status = 200): Reply {
  const init = { status, headers: { "Content-Type": type, "Cache-Control": "no-store", ...headers } };
  return { status, response: new Response(body, init), bytes: Buffer.byteLength(body) };
}

/** A reply that is always the same. It is made when it is first asked for: no start waits for what nobody may ask. */
export function once(make: () => Reply): () => Reply {
  let made: Reply | undefined;
  return () => (made ??= make());
}

/** A reply without a body: 204, 304. */
export function noContent(status: number, headers: Record<string, string>): Reply {
  return { status, response: new Response(null, { status, headers }), bytes: 0 };
}

export function json(value: unknown, headers?: Record<string, string>): Reply {
  return reply("application/json", JSON.stringify(value) + "\n", headers);
}

/**
 * An error reply as RFC 9457 describes it. `detail` is for the client: it never carries an internal message.
 */
export function problem(
  status: number,
  title: string,
  requestId: string,
  { detail, headers }: { detail?: string; headers?: Record<string, string> } = {},
): Reply {
  const body = JSON.stringify({ type: "about:blank", title, status, detail, requestId }) + "\n";
  return reply("application/problem+json", body, headers, status);
}
