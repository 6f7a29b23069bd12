/**
 * Config in, a running server out: routes, limits and error replies, on the service's port and the admin port.
 *
 * Everything that is common to all requests happens in one place, `answer`: request id, trace, limits, method check,
 * errors, metrics, access log. It is written for speed where that costs no clarity: no promise for a route that needs
 * none, and replies that are always the same are made once.
 */
import http from "node:http";
import { hostname } from "node:os";
import type { Config } from "./config.ts";
import type { Lifecycle, Stoppable } from "./lifecycle.ts";
import { openapi } from "./openapi.ts";
import { json, noContent, problem, type Reply } from "./reply.ts";
import { greeting } from "./routes/greeting.ts";
import { healthz, readyz } from "./routes/health.ts";
import { version } from "./routes/version.ts";
import type { Logger } from "./telemetry/log.ts";
import { createMetrics, metricsType, openFiles, type Metrics, type Reason } from "./telemetry/metrics.ts";
import { requestId, trace, type Trace } from "./telemetry/trace.ts";

/** Answers a request. What it throws becomes a 500 and a line in the log. */
export type Handler = (request: Request, requestId: string) => Reply | Promise<Reply>;

export interface Route {
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

const ALLOW = "GET, HEAD, OPTIONS";
const options = noContent({ Allow: ALLOW });

/**
 * Starts listening.
 *
 * @param routes are added to the service's own, for who builds on this one
 * @param dropped lines that the log has thrown away so far, for the metrics
 * @throws the operating system's error (`code` EADDRINUSE, EACCES) when a port cannot be had; nothing listens then
 */
export function startServer(
  config: Config,
  {
    lifecycle,
    log,
    routes = {},
    dropped,
  }: { lifecycle: Lifecycle; log: Logger; routes?: Record<string, Route>; dropped?: () => number },
): RunningServer {
  const metrics = createMetrics(dropped ? { dropped } : {});
  const crowded = watchConnections(config.maxConnections);
  // Bun has one limit for all servers of a process, and Node's name for it. What is over it gets Bun's bare 431.
  (http as { maxHeaderSize: number }).maxHeaderSize = config.maxHeaderBytes;

  /** The replies to everything that comes to one route. */
  function answering(name: string, { handle, probe = false }: Route) {
    const counted = metrics.route(name);

    return (request: Request, server: Bun.Server<undefined>): Response | Promise<Response> => {
      const start = performance.now();
      metrics.inFlight += 1;
      const id = requestId(request.headers);
      const traced = trace(request.headers);
      const finish = (reply: Reply): Response => {
        metrics.inFlight -= 1;
        const milliseconds = performance.now() - start;
        counted.observe(request.method, reply.status, milliseconds / 1000);
        logAccess(request, reply, { name, probe, id, traced, milliseconds });
        return toResponse(reply, id, traced);
      };
      const failed = (error: unknown): Reply => {
        log.error("handler failed", {
          requestId: id,
          error: error instanceof Error ? error.stack : String(error),
        });
        return problem(500, "Internal Server Error", id);
      };

      try {
        const reply = refuse(request, id) ?? handle(request, id);
        if (!(reply instanceof Promise)) return finish(reply);
        // Bun's idle timeout would cut a handler that has not written yet without a word.
        server.timeout(request, Math.min(255, Math.ceil(config.requestTimeoutSeconds) + 5));
        return inTime(reply, id).catch(failed).then(finish);
      } catch (error) {
        return finish(failed(error));
      }
    };
  }

  /** The reply to a request that is over a limit or of a method that no route has; undefined for all others. */
  function refuse(request: Request, id: string): Reply | undefined {
    const { headers, method, url } = request;
    // What is left of a body is on its way, so the connection cannot be used again.
    const close = { Connection: "close" };
    if (metrics.inFlight > config.maxInFlight) {
      return reject("in-flight", 503, "Service Unavailable", id, { "Retry-After": "1" });
    }
    if (url.length > config.maxUrlBytes) return reject("url", 414, "URI Too Long", id, close);
    if (method === "GET" || method === "HEAD") {
      // A body has no meaning here (RFC 9110, section 9.3.1), but the limit holds for it too.
      if (headers.has("content-length") || headers.has("transfer-encoding")) return refuseBody(headers, id);
      return undefined;
    }
    const refused = refuseBody(headers, id);
    if (refused) return refused;
    return method === "OPTIONS"
      ? options
      : problem(405, "Method Not Allowed", id, { headers: { Allow: ALLOW } });
  }

  function refuseBody(headers: Headers, id: string): Reply | undefined {
    const close = { Connection: "close" };
    if (headers.has("transfer-encoding")) return reject("length", 411, "Length Required", id, close);
    if (Number(headers.get("content-length")) > config.maxBodyBytes) {
      return reject("body", 413, "Content Too Large", id, close);
    }
    return undefined;
  }

  function reject(
    reason: Reason,
    status: number,
    title: string,
    id: string,
    headers: Record<string, string>,
  ): Reply {
    metrics.reject(reason);
    return problem(status, title, id, { headers });
  }

  /** A route's reply, or 503 when it takes longer than a request may. The route is not stopped, only not waited for. */
  async function inTime(reply: Promise<Reply>, id: string): Promise<Reply> {
    const { promise, resolve } = Promise.withResolvers<Reply>();
    const timer = setTimeout(
      () => resolve(reject("time", 503, "Service Unavailable", id, { "Retry-After": "1" })),
      config.requestTimeoutSeconds * 1000,
    );
    return Promise.race([reply, promise]).finally(() => clearTimeout(timer));
  }

  function logAccess(
    request: Request,
    reply: Reply,
    of: { name: string; probe: boolean; id: string; traced: Trace | undefined; milliseconds: number },
  ): void {
    const slow = of.milliseconds >= config.slowRequestSeconds * 1000;
    if (config.accessLog === "off" && !slow) return;
    const level = slow ? "warn" : of.probe && reply.status < 500 ? "debug" : "info";
    if (!log.enabled(level)) return;
    log.request(level, {
      method: request.method,
      route: of.name,
      path: pathOf(request.url),
      status: reply.status,
      bytes: request.method === "HEAD" ? 0 : reply.bytes,
      milliseconds: of.milliseconds,
      requestId: of.id,
      traceId: of.traced?.traceId,
      slow,
    });
  }

  function toResponse({ status, headers, body }: Reply, id: string, traced: Trace | undefined): Response {
    const response = new Response(body ?? null, { status, headers });
    response.headers.set("X-Request-Id", id);
    if (traced) response.headers.set("traceresponse", traced.response);
    // Bun does not say so by itself, and a keep-alive client that is not told fails when the door closes.
    if (lifecycle.leaving) {
      response.headers.set("Connection", "close");
    } else if (crowded()) {
      metrics.shed += 1;
      response.headers.set("Connection", "close");
    }
    return response;
  }

  function listen(port: number, table: Record<string, Route>) {
    const notFound = answering("other", { handle: (_, id) => problem(404, "Not Found", id) });
    return Bun.serve({
      hostname: config.host,
      port,
      // Bun 1.4.5 shares a port by default: a second instance would take half of the connections and nobody notice.
      reusePort: false,
      // Else Bun shows source code in its error page whenever NODE_ENV is unset.
      development: false,
      idleTimeout: config.idleTimeoutSeconds,
      // Bun's own reply to a large body has no words; refuseBody() answers before a byte of it is read.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      routes: Object.fromEntries(
        Object.entries(table).map(([path, route]) => [path, answering(path, route)]),
      ),
      fetch: notFound,
    });
  }

  const description = json(openapi, { "Cache-Control": "public, max-age=3600" });
  const service = listen(config.port, {
    "/": { handle: greeting(config.greeting, config.podName || hostname()) },
    "/version": { handle: version },
    "/openapi.json": { handle: () => description },
    "/healthz": { handle: healthz, probe: true },
    "/readyz": { handle: readyz(lifecycle), probe: true },
    ...routes,
  });
  try {
    const admin = listen(config.adminPort, { "/metrics": { handle: metricsRoute(metrics), probe: true } });
    return { url: service.url, adminUrl: admin.url, servers: [service, admin] };
  } catch (error) {
    void service.stop(true);
    throw error;
  }
}

function metricsRoute(metrics: Metrics): Handler {
  const headers = new Headers({ "Content-Type": metricsType, "Cache-Control": "no-store" });
  return () => {
    const body = metrics.render();
    return { status: 200, headers, body, bytes: Buffer.byteLength(body) };
  };
}

/**
 * Bun accepts every connection and does not count them: the open files are counted instead, once a second, and while
 * there are too many each reply ends its connection. Those that ask nothing are ended by the idle timeout.
 */
function watchConnections(limit: number): () => boolean {
  const atStart = openFiles();
  let crowded = false;
  setInterval(() => (crowded = openFiles() - atStart > limit), 1000).unref();
  return () => crowded;
}

/** The path of a URL, as it was sent; `new URL()` would cost more than the whole rest of a request. */
function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  const query = url.indexOf("?", start);
  return start < 0 ? "/" : query < 0 ? url.slice(start) : url.slice(start, query);
}
