/**
 * Config in, a running server out: routes, limits and error replies, on the service's port and the admin port.
 *
 * Everything that is common to all requests happens in one place, `answer`: request id, method check, limits, errors,
 * metrics, access log.
 */
import { hostname } from "node:os";
import type { Config } from "./config.ts";
import type { Lifecycle, Stoppable } from "./lifecycle.ts";
import { problem, type Reply } from "./reply.ts";
import { greeting } from "./routes/greeting.ts";
import { healthz, readyz } from "./routes/health.ts";
import { version } from "./routes/version.ts";
import type { Logger } from "./telemetry/log.ts";
import { createMetrics, metricsType } from "./telemetry/metrics.ts";
import { requestId, traceId } from "./telemetry/trace.ts";

type Handler = (request: Request, requestId: string) => Reply | Promise<Reply>;

interface Route {
  handle: Handler;
  /** Probes come every second: their access log lines are worth reading only when something is wrong. */
  probe?: boolean;
}

export interface RunningServer {
  /** The service's address, for people: `http://127.0.0.1:8080/`. */
  url: URL;
  adminUrl: URL;
  servers: Stoppable[];
}

const allow = "GET, HEAD, OPTIONS";
/** Methods that get a series of their own in the metrics; a client can invent others without end. */
const methods = new Set(["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]);

/**
 * Starts listening.
 *
 * @param routes are added to the service's own; tests use this
 * @throws the operating system's error (`code` EADDRINUSE, EACCES) when a port cannot be had; nothing listens then
 */
export function startServer(
  config: Config,
  { lifecycle, log, routes = {} }: { lifecycle: Lifecycle; log: Logger; routes?: Record<string, Route> },
): RunningServer {
  const metrics = createMetrics();

  async function answer(name: string, route: Route, request: Request): Promise<Response> {
    const start = performance.now();
    metrics.inFlight += 1;
    const id = requestId(request.headers);
    const reply = await dispatch(route, request, id);
    const seconds = (performance.now() - start) / 1000;
    metrics.inFlight -= 1;
    metrics.observe(name, methods.has(request.method) ? request.method : "other", reply.status, seconds);
    if (config.accessLog === "on") logAccess(name, route, request, id, reply, seconds);
    return toResponse(reply, id);
  }

  async function dispatch({ handle }: Route, request: Request, id: string): Promise<Reply> {
    const refused = refuseBody(request, id);
    if (refused) return refused;
    if (request.method === "OPTIONS") return { status: 204, headers: { Allow: allow } };
    if (request.method !== "GET" && request.method !== "HEAD") {
      return problem(405, "Method Not Allowed", id, { headers: { Allow: allow } });
    }
    try {
      return await handle(request, id);
    } catch (error) {
      log.error("handler failed", {
        requestId: id,
        error: error instanceof Error ? error.stack : String(error),
      });
      return problem(500, "Internal Server Error", id);
    }
  }

  /** The reply to a body that is too large, or could be because it does not say; it is not read. */
  function refuseBody({ headers }: Request, id: string): Reply | undefined {
    // The rest of the body is on its way, so the connection cannot be used again.
    const close = { Connection: "close" };
    if (headers.has("transfer-encoding")) return problem(411, "Length Required", id, { headers: close });
    if (!(Number(headers.get("content-length")) > config.maxBodyBytes)) return undefined;
    return problem(413, "Content Too Large", id, {
      detail: `at most ${config.maxBodyBytes} bytes`,
      headers: close,
    });
  }

  function logAccess(
    name: string,
    route: Route,
    request: Request,
    id: string,
    reply: Reply,
    seconds: number,
  ) {
    const level = route.probe && reply.status < 500 ? "debug" : "info";
    if (!log.enabled(level)) return;
    log[level]("request", {
      method: request.method,
      route: name,
      // The path alone: a query string may carry what does not belong in a log.
      path: new URL(request.url).pathname,
      status: reply.status,
      bytes: request.method === "HEAD" || !reply.body ? 0 : Buffer.byteLength(reply.body),
      durationMs: Math.round(seconds * 1e6) / 1000,
      requestId: id,
      traceId: traceId(request.headers),
    });
  }

  function toResponse(reply: Reply, id: string): Response {
    const response = new Response(reply.body ?? null, { status: reply.status, headers: reply.headers ?? {} });
    response.headers.set("X-Request-Id", id);
    if (reply.type) response.headers.set("Content-Type", reply.type);
    // Bun does not say so by itself, and a keep-alive client that is not told fails when the door closes.
    if (lifecycle.leaving) response.headers.set("Connection", "close");
    return response;
  }

  const notFound: Route = { handle: (_, id) => problem(404, "Not Found", id) };

  function listen(port: number, table: Record<string, Route>) {
    return Bun.serve({
      hostname: config.host,
      port,
      // Bun 1.4.5 shares a port by default: a second instance would take half of the connections and nobody notice.
      reusePort: false,
      // Else Bun shows source code in its error page whenever NODE_ENV is unset.
      development: false,
      idleTimeout: config.idleTimeoutSeconds,
      // Bun's own reply to a large body has no words; dispatch() answers before a byte of it is read.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      routes: Object.fromEntries(
        Object.entries(table).map(([path, route]) => [
          path,
          (request: Request) => answer(path, route, request),
        ]),
      ),
      fetch: (request) => answer("other", notFound, request),
    });
  }

  const service = listen(config.port, {
    "/": { handle: greeting(config.greeting, config.podName || hostname()) },
    "/version": { handle: version },
    "/healthz": { handle: healthz, probe: true },
    "/readyz": { handle: readyz(lifecycle), probe: true },
    ...routes,
  });
  try {
    const admin = listen(config.adminPort, {
      "/metrics": { handle: () => ({ status: 200, type: metricsType, body: metrics.render() }), probe: true },
    });
    return { url: service.url, adminUrl: admin.url, servers: [service, admin] };
  } catch (error) {
    void service.stop(true);
    throw error;
  }
}
