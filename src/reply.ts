/**
 * What a route answers, before it becomes a Response: plain data, so routes are tested without a server. A reply that
 * is always the same is made once and served often: a Response is made from it for every request.
 */
export interface Reply {
  status: number;
  /** All headers but those that differ from request to request. */
  headers: Headers;
  /** Left out for a reply without one. */
  body?: string;
  /** Length of the body in bytes, for the access log. */
  bytes: number;
}

export const TEXT = "text/plain; charset=utf-8";
export const HTML = "text/html; charset=utf-8";

/**
 * @param type `Content-Type`
 * @param headers more headers. Without a Cache-Control among them it is "no-store": what this service says is true now
 */
export function reply(type: string, body: string, headers: Record<string, string> = {}): Reply {
  return {
    status: 200,
    headers: new Headers({ "Content-Type": type, "Cache-Control": "no-store", ...headers }),
    body,
    bytes: Buffer.byteLength(body),
  };
}

/** A reply without a body: 204. */
export function noContent(headers: Record<string, string>): Reply {
  return { status: 204, headers: new Headers(headers), bytes: 0 };
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
  return { ...reply("application/problem+json", body, headers), status };
}
