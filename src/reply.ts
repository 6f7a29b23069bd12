/** What a route answers, before it becomes a Response: plain data, so routes are tested without a server. */
export interface Reply {
  status: number;
  /** `Content-Type`; left out for a reply without a body. */
  type?: string;
  body?: string;
  headers?: Record<string, string>;
}

export const TEXT = "text/plain; charset=utf-8";
export const JSON_TYPE = "application/json";
export const HTML = "text/html; charset=utf-8";

export function json(value: unknown, headers: Record<string, string> = {}): Reply {
  return {
    status: 200,
    type: JSON_TYPE,
    body: JSON.stringify(value) + "\n",
    headers: { "Cache-Control": "no-store", ...headers },
  };
}

/**
 * An error reply as RFC 9457 describes it. `detail` is for the client: it never carries an internal message.
 */
export function problem(
  status: number,
  title: string,
  requestId: string,
  { detail, headers = {} }: { detail?: string; headers?: Record<string, string> } = {},
): Reply {
  return {
    status,
    type: "application/problem+json",
    body: JSON.stringify({ type: "about:blank", title, status, detail, requestId }) + "\n",
    headers: { "Cache-Control": "no-store", ...headers },
  };
}
