/**
 * The HTTP server: routes, limits and error replies, on the service's port and the admin port.
 *
 * `createRouteHandler` does everything that is common to all requests: request ID, trace, limits, method check, errors,
 * metrics, access log. It avoids work for speed: synchronous routes create no promise, and constant replies are created
 * once.
 */
import { RequestContext } from "./request-context.ts";
import { type Config, formatUrlHost, settings } from "./config.ts";
import type { Lifecycle, Stoppable } from "slipway/service";
import { createEmptyReply, createProblemReply, createReply, memoizeReply, type Reply } from "./responses.ts";
import { createGreetingHandler } from "./routes/greeting.ts";
import { createReadinessHandler, handleLiveness } from "./routes/health.ts";
import { createOpenApiHandler } from "./routes/openapi.ts";
import { handleVersion } from "./routes/version.ts";
import type { Logger } from "./telemetry/log.ts";
import {
  countOpenFiles,
  createMetrics,
  METRICS_TYPE,
  type ActiveRequest,
  type Metrics,
  type RejectionReason,
} from "./telemetry/metrics.ts";
import { createTraceResponse, traceIdOf } from "./telemetry/trace.ts";

/** Handles a request. An exception is logged and becomes a 500. */
export type Handler = (context: RequestContext) => Reply | Promise<Reply>;

export interface Route {
  handle: Handler;
  /** Marks a probe. Probes come every second, so they are logged at level debug unless they fail. */
  isProbe?: boolean;
}

export interface RunningServer {
  /** URL of the service for log messages: `http://127.0.0.1:8080/`. */
  url: string;
  adminUrl: string;
  servers: Stoppable[];
}

const ALLOW = "GET, HEAD, OPTIONS";
const handleOptions = memoizeReply(() => createEmptyReply(204, { Allow: ALLOW }));
/** Closes the connection: the client may still send the rest of a rejected body on it. */
const CLOSE = { Connection: "close" };

/**
 * Starts listening on both ports.
 *
 * @param routes additional routes
 * @param countDroppedLines returns the number of log lines dropped so far, for the metrics
 * @throws the operating system's error (`code` EADDRINUSE, EACCES) if a port is not available. No port is open then
 */
export function startServer(
  config: Config,
  {
    lifecycle,
    log,
    routes = {},
    countDroppedLines,
  }: {
    lifecycle: Lifecycle;
    log: Logger;
    routes?: Record<string, Route>;
    countDroppedLines?: () => number;
  },
): RunningServer {
  const metrics = createMetrics(countDroppedLines ? { countDroppedLines } : {});
  const isOverConnectionLimit = watchConnections(config.maxConnections);
  setHeaderLimit(config.maxHeaderBytes);
  const isAccessLogOn = config.accessLog === "on";
  const slowMilliseconds = config.slowRequestSeconds * 1000;

  /** Creates the handler of a route. @param name the route's path, or undefined if no route matched */
  function createRouteHandler(name: string | undefined, { handle, isProbe = false }: Route) {
    const routeMetrics = metrics.route(name);

    return (request: Request, server: Bun.Server<undefined>): Response | Promise<Response> => {
      const context = new RequestContext(request);
      const active = routeMetrics.begin(context.method);
      let reply: Reply | Promise<Reply>;
      try {
        reply = rejectEarly(context, isProbe) ?? handle(context);
      } catch (error) {
        reply = createErrorReply(error, context.id);
      }
      if (!(reply instanceof Promise)) return finish(context, reply, active);
      // Bun's idle timeout would close the connection of a slow handler without a reply.
      server.timeout(request, Math.min(255, Math.ceil(config.requestTimeoutSeconds) + 5));
      return withTimeout(reply, context)
        .catch((error: unknown) => createErrorReply(error, context.id))
        .then((reply) => finish(context, reply, active));
    };

    function finish(context: RequestContext, reply: Reply, active: ActiveRequest): Response {
      const milliseconds = performance.now() - context.start;
      active.end(reply.status, milliseconds / 1000);
      const slow = milliseconds >= slowMilliseconds;
      if (slow || isAccessLogOn) logAccess(context, reply, milliseconds, slow);
      return toResponse(reply, context);
    }

    function logAccess(context: RequestContext, reply: Reply, milliseconds: number, slow: boolean): void {
      const level = slow ? "warn" : isProbe && reply.status < 500 ? "debug" : "info";
      if (!log.enabled(level)) return;
      log.request(level, {
        method: context.method,
        route: name,
        // The name of a route is its path or pattern. Reading the URL would cost half as much as the rest of this function.
        path: name ?? pathOf(context.request.url),
        status: reply.status,
        bytes: context.method === "HEAD" ? 0 : reply.bytes,
        milliseconds,
        requestId: context.id,
        traceId: context.traceParent && traceIdOf(context.traceParent),
        slow,
      });
    }
  }

  function createErrorReply(error: unknown, requestId: string): Reply {
    log.error("handler failed", { requestId, error: error instanceof Error ? error.stack : String(error) });
    return createProblemReply(500, "Internal Server Error", requestId);
  }

  /** Returns the reply to an OPTIONS request, an unsupported method or a request over a limit, else undefined. */
  function rejectEarly(context: RequestContext, isProbe: boolean): Reply | undefined {
    // Probes are exempt: a failed probe under load would restart the pod and move its load to the others.
    if (!isProbe && metrics.inFlight > config.maxInFlight) {
      return reject("in-flight", 503, "Service Unavailable", context.id, { "Retry-After": "1" });
    }
    const rejected = rejectBody(context);
    if (rejected) return rejected;
    if (context.method === "GET" || context.method === "HEAD") return undefined;
    return context.method === "OPTIONS"
      ? handleOptions()
      : createProblemReply(405, "Method Not Allowed", context.id, { headers: { Allow: ALLOW } });
  }

  function rejectBody(context: RequestContext): Reply | undefined {
    if (context.headers.get("transfer-encoding") !== null) {
      return reject("length", 411, "Length Required", context.id, CLOSE);
    }
    if (Number(context.headers.get("content-length")) > config.maxBodyBytes) {
      return reject("body", 413, "Content Too Large", context.id, CLOSE);
    }
    return undefined;
  }

  function reject(
    reason: RejectionReason,
    status: number,
    title: string,
    id: string,
    headers: Record<string, string>,
  ): Reply {
    metrics.reject(reason);
    return createProblemReply(status, title, id, { headers });
  }

  /** Replies 503 after the request timeout. The route's handler continues in the background. */
  async function withTimeout(reply: Promise<Reply>, context: RequestContext): Promise<Reply> {
    const { promise, resolve } = Promise.withResolvers<Reply>();
    const timer = setTimeout(
      () => resolve(reject("time", 503, "Service Unavailable", context.id, { "Retry-After": "1" })),
      config.requestTimeoutSeconds * 1000,
    );
    return Promise.race([reply, promise]).finally(() => clearTimeout(timer));
  }

  function toResponse(reply: Reply, context: RequestContext): Response {
    const response = reply.response.clone();
    // Headers are set only if needed: each costs as much as the clone.
    if (context.knownId) response.headers.set("X-Request-Id", context.knownId);
    if (context.traceParent) response.headers.set("traceresponse", createTraceResponse(context.traceParent));
    // Bun sets Date for all methods except HEAD.
    if (context.method === "HEAD") response.headers.set("Date", new Date().toUTCString());
    if (lifecycle.leaving || isOverConnectionLimit()) {
      // Bun does not set this header. Without it, a keep-alive client's next request would fail.
      response.headers.set("Connection", "close");
      if (!lifecycle.leaving) metrics.shedConnections += 1;
    } else if (hasCloseOption(context.headers.get("connection"))) {
      // Bun closes the connection as requested, but RFC 9112 (section 9.6) also requires this header.
      response.headers.set("Connection", "close");
    }
    return response;
  }

  function listen(port: number, table: Record<string, Route>) {
    const handlers = new Map<string, ReturnType<typeof createRouteHandler>>();
    for (const [path, route] of Object.entries(table)) handlers.set(path, createRouteHandler(path, route));
    const notFound = createRouteHandler(undefined, {
      handle: ({ request: { url }, id }) =>
        url.length > config.maxUrlBytes
          ? reject("url", 414, "URI Too Long", id, CLOSE)
          : createProblemReply(404, "Not Found", id),
    });
    return Bun.serve({
      hostname: config.host,
      port,
      // Bun 1.4.5 shares ports by default: a second process would silently get half of the connections.
      reusePort: false,
      // The default shows source code in error pages if NODE_ENV is unset.
      development: false,
      idleTimeout: config.idleTimeoutSeconds,
      // Bun's own 413 has no body. rejectBody() replies before any of the request body is read.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      routes: Object.fromEntries(handlers),
      // Bun matches the raw path but reports it without dot segments. The second look-up uses the reported path, so that
      // reply, log and metrics agree.
      fetch: (request, server) => (handlers.get(pathOf(request.url)) ?? notFound)(request, server),
    });
  }

  const service = listen(config.port, {
    "/": { handle: createGreetingHandler(config.greeting, config.podName || hostName()) },
    "/version": { handle: handleVersion },
    "/openapi.json": { handle: createOpenApiHandler() },
    "/healthz": { handle: handleLiveness, isProbe: true },
    "/readyz": { handle: createReadinessHandler(lifecycle), isProbe: true },
    ...routes,
  });
  try {
    const admin = listen(config.adminPort, {
      "/metrics": { handle: createMetricsHandler(metrics), isProbe: true },
    });
    const url = (server: Bun.Server<undefined>) => `http://${formatUrlHost(config.host)}:${server.port}/`;
    return { url: url(service), adminUrl: url(admin), servers: [service, admin] };
  } catch (error) {
    void service.stop(true);
    throw error;
  }
}

const createMetricsHandler =
  (metrics: Metrics): Handler =>
  () =>
    createReply(METRICS_TYPE, metrics.render());

/**
 * Checks once a second whether there are more connections than the limit.
 *
 * Bun has no limit and no count of connections, so this counts open files. Above the limit, each reply closes its
 * connection. The idle timeout closes connections without requests.
 */
function watchConnections(limit: number): () => boolean {
  // Approximate number of files that are not connections.
  const otherFiles = 20;
  let isOverLimit = false;
  setInterval(() => (isOverLimit = countOpenFiles() > limit + otherFiles), 1000).unref();
  return () => isOverLimit;
}

/** Returns the name of the machine or container. Loading the module takes a tenth of the start, so it is lazy. */
function hostName(): string {
  return process.getBuiltinModule("node:os").hostname();
}

/**
 * Sets the maximum size of request headers for all servers of the process. Above it, Bun replies 431 without a body.
 *
 * Bun's default is 16 KiB, and only `node:http` can change it. Loading that module takes longer than the rest of the
 * start, so the default setting skips it.
 */
function setHeaderLimit(bytes: number): void {
  if (bytes === settings.maxHeaderBytes.fallback) return;
  // The property is writable in Bun, but readonly in its types.
  (process.getBuiltinModule("node:http") as { maxHeaderSize: number }).maxHeaderSize = bytes;
}

/**
 * Extracts the path from a request's URL, which has no dot segments. If the Host header is invalid, Bun's URL is the path
 * alone. `new URL()` would cost more than the rest of the request.
 */
function pathOf(url: string): string {
  const start = url.startsWith("/") ? 0 : url.indexOf("/", url.indexOf("://") + 3);
  // The target of CONNECT has no path.
  if (start < 0) return url;
  const query = url.indexOf("?", start);
  return query < 0 ? url.slice(start) : url.slice(start, query);
}

/** Checks whether a Connection header contains the option `close`. */
function hasCloseOption(connection: string | null): boolean {
  return connection !== null && /(?:^|,)\s*close\s*(?:,|$)/i.test(connection);
}
