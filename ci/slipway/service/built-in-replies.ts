/**
 * Decides whether the service or this package replies to a request for /version, /readyz or /healthz.
 *
 * The service replies first. Its reply is replaced if the service has no such route, so nobody has to know its routes.
 */
import { lifecycle } from "./shutdown.ts";
import { build, BUILD_HEADER, NO_STORE_HEADERS, VERSION_PATH } from "./version.ts";

export interface Reply {
  status: number;
  body: string;
  headers: Record<string, string>;
}

const text = (status: number, body: string): Reply => ({
  status,
  body,
  headers: { ...NO_STORE_HEADERS, "Content-Type": "text/plain;charset=utf-8" },
});

/** Replies of this package, by path. */
export const builtInReplies: Record<string, () => Reply> = {
  [VERSION_PATH]: () => ({
    status: 200,
    body: JSON.stringify(build),
    headers: {
      ...NO_STORE_HEADERS,
      "Content-Type": "application/json;charset=utf-8",
      [BUILD_HEADER]: build.id,
    },
  }),
  "/readyz": () => text(lifecycle.state === "ready" ? 200 : 503, lifecycle.state),
  // Returns 200 during the drain too. Otherwise Kubernetes would kill the container before it finishes.
  "/healthz": () => text(200, "ok"),
};

export const createResponse = (path: string): Response => {
  const { body, ...options } = builtInReplies[path]!();
  return new Response(body, options);
};

/**
 * Whether this package replies instead of the service.
 *
 * @param status status of the service's reply
 */
export function isReplaced(path: string, status: number): boolean {
  if (path === VERSION_PATH) return status === 404;
  // Such a status is about the request, not about the service's health. Often, all paths require a login.
  if (status >= 400 && status < 500) return true;
  // A service that replies to every path does not know that it is not ready, or that it drains.
  return path === "/readyz" && status < 400 && lifecycle.state !== "ready";
}

/** Time for a service to add its routes after it has begun to listen. */
const LATE_ROUTES_MS = 5_000;

/**
 * Remembers the paths for which a server has no route, because it replied with 404 for some seconds. From then on it is not asked
 * again, so that probes fill neither its log nor the budget of its rate limiter.
 */
export class UnroutedPaths {
  readonly #since = new Map<string, number>();

  /** @param status of the service's reply */
  note(path: string, status: number): void {
    if (status !== 404) this.#since.delete(path);
    else if (!this.#since.has(path)) this.#since.set(path, performance.now());
  }

  has(path: string): boolean {
    const since = this.#since.get(path);
    return since !== undefined && performance.now() - since > LATE_ROUTES_MS;
  }
}
