/**
 * Config in, a running server out: routes, limits and error replies, on the service's port and the admin port.
 *
 * Everything that is common to all requests happens in one place, `answer`: request id, trace, limits, method check,
 * errors, metrics, access log. It is written for speed where that costs no clarity: no promise for a route that needs
 * none, and replies that are always the same are made once.
 */
import { type Config, settings, urlHost } from "./config.ts";
import type { Lifecycle, Stoppable } from "slipway/service";
import { noContent, problem, type Reply } from "./reply.ts";
import { greeting } from "./routes/greeting.ts";
import { healthz, readyz } from "./routes/health.ts";
import { openapi } from "./routes/openapi.ts";
import { version } from "./routes/version.ts";
import type { Logger } from "./telemetry/log.ts";
import { createMetrics, metricsType, openFiles, type Metrics, type Reason } from "./telemetry/metrics.ts";
import { requestId, traceId, traceParent, traceResponse } from "./telemetry/trace.ts";

/** Answers a request. What it throws becomes a 500 and a line in the log. */
export type Handler = (request: Request, requestId: string) => Reply | Promise<Reply>;

export interface Route {
  handle: Handler;
  /** Probes come every second: their access log lines are worth reading only when something is wrong. */
  probe?: boolean;
}

export interface RunningServer {
  /** The service's address, for people: `http://127.0.0.1:8080/`. */
  url: string;
  adminUrl: string;
  servers: Stoppable[];
}

/** The name in logs and metrics of all paths that are no route. */
const OTHER = "other";
const ALLOW = "GET, HEAD, OPTIONS";
const options = noContent({ Allow: ALLOW });
/** What is left of a refused body is on its way, so that the connection cannot be used again. */
const CLOSE = { Connection: "close" };

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
  limitHeaders(config.maxHeaderBytes);
  const logging = config.accessLog === "on";
  const slowMilliseconds = config.slowRequestSeconds * 1000;

  /** The replies to everything that comes to one route. */
  function answering(name: string, { handle, probe = false }: Route) {
    const counted = metrics.route(name);

    return (request: Request, server: Bun.Server<undefined>): Response | Promise<Response> => {
      const start = performance.now();
      metrics.inFlight += 1;
      const { headers } = request;
      const id = requestId(headers);
      const traced = traceParent(headers);
      let reply: Reply | Promise<Reply>;
      try {
        reply = refuse(request, headers, id, probe) ?? handle(request, id);
      } catch (error) {
        reply = failed(error, id);
      }
      if (!(reply instanceof Promise)) return finish(request, reply, id, traced, start);
      // Bun's idle timeout would cut a handler that has not written yet without a word.
      server.timeout(request, Math.min(255, Math.ceil(config.requestTimeoutSeconds) + 5));
      return inTime(reply, id)
        .catch((error: unknown) => failed(error, id))
        .then((reply) => finish(request, reply, id, traced, start));
    };

    function finish(
      request: Request,
      reply: Reply,
      id: string,
      traced: string | undefined,
      start: number,
    ): Response {
      metrics.inFlight -= 1;
      const milliseconds = performance.now() - start;
      counted.observe(request.method, reply.status, milliseconds / 1000);
      const slow = milliseconds >= slowMilliseconds;
      if (slow || logging) logAccess(request, reply, id, traced, milliseconds, slow);
      return toResponse(reply, id, traced);
    }

    function logAccess(
      request: Request,
      reply: Reply,
      requestId: string,
      traced: string | undefined,
      milliseconds: number,
      slow: boolean,
    ): void {
      const level = slow ? "warn" : probe && reply.status < 500 ? "debug" : "info";
      if (!log.enabled(level)) return;
      log.request(level, {
        method: request.method,
        route: name,
        // A route's name is its path, or its pattern. Asking for the URL would cost as much as half of all else that is done here.
        path: name === OTHER ? pathOf(request.url) : name,
        status: reply.status,
        bytes: request.method === "HEAD" ? 0 : reply.bytes,
        milliseconds,
        requestId,
        traceId: traced && traceId(traced),
        slow,
      });
    }
  }

  function failed(error: unknown, requestId: string): Reply {
    log.error("handler failed", { requestId, error: error instanceof Error ? error.stack : String(error) });
    return problem(500, "Internal Server Error", requestId);
  }

  /** The reply to a request that is over a limit or of a method that no route has; undefined for all others. */
  function refuse({ method }: Request, headers: Headers, id: string, probe: boolean): Reply | undefined {
    // A probe that fails under load would have the instance killed, and the load fall on the others.
    if (!probe && metrics.inFlight > config.maxInFlight) {
      return reject("in-flight", 503, "Service Unavailable", id, { "Retry-After": "1" });
    }
    const refused = refuseBody(headers, id);
    if (refused) return refused;
    if (method === "GET" || method === "HEAD") return undefined;
    return method === "OPTIONS"
      ? options
      : problem(405, "Method Not Allowed", id, { headers: { Allow: ALLOW } });
  }

  function refuseBody(headers: Headers, id: string): Reply | undefined {
    if (headers.has("transfer-encoding")) return reject("length", 411, "Length Required", id, CLOSE);
    if (Number(headers.get("content-length")) > config.maxBodyBytes) {
      return reject("body", 413, "Content Too Large", id, CLOSE);
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

  function toResponse({ status, headers, body }: Reply, id: string, traced: string | undefined): Response {
    // The reply's own headers take what differs from request to request, and the Response copies them: that costs half
    // of making headers for each, or of changing the copy.
    headers.set("X-Request-Id", id);
    if (traced) headers.set("traceresponse", traceResponse(traced));
    else headers.delete("traceresponse");
    const response =
      status === 200 ? new Response(body, { headers }) : new Response(body ?? null, { status, headers });
    if (lifecycle.leaving || crowded()) {
      // Bun does not say so by itself, and a keep-alive client that is not told fails when the door closes.
      response.headers.set("Connection", "close");
      if (!lifecycle.leaving) metrics.shed += 1;
    }
    return response;
  }

  function listen(port: number, table: Record<string, Route>) {
    const notFound = answering(OTHER, {
      handle: ({ url }, id) =>
        url.length > config.maxUrlBytes
          ? reject("url", 414, "URI Too Long", id, CLOSE)
          : problem(404, "Not Found", id),
    });
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

  const service = listen(config.port, {
    "/": { handle: greeting(config.greeting, config.podName || hostName()) },
    "/version": { handle: version },
    "/openapi.json": { handle: openapi() },
    "/healthz": { handle: healthz, probe: true },
    "/readyz": { handle: readyz(lifecycle), probe: true },
    ...routes,
  });
  try {
    const admin = listen(config.adminPort, { "/metrics": { handle: metricsRoute(metrics), probe: true } });
    const url = (server: Bun.Server<undefined>) => `http://${urlHost(config.host)}:${server.port}/`;
    return { url: url(service), adminUrl: url(admin), servers: [service, admin] };
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
  // What the process has open for itself; it need not be exact.
  const own = 20;
  let crowded = false;
  setInterval(() => (crowded = openFiles() > limit + own), 1000).unref();
  return () => crowded;
}

/** The machine's or container's name. Loaded when needed, because loading takes a tenth of the start. */
function hostName(): string {
  return (require("node:os") as typeof import("node:os")).hostname();
}

/**
 * Bun has one limit for all servers of a process, 16 KiB at first, which Node's name for it changes; what is over it
 * gets Bun's bare 431. Loading that module takes longer than the rest of the start, so only who wants another limit
 * pays for it.
 */
function limitHeaders(bytes: number): void {
  if (bytes !== settings.maxHeaderBytes.fallback) require("node:http").maxHeaderSize = bytes;
}

/** The path of a URL, as it was sent; `new URL()` would cost more than the whole rest of a request. */
function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  const query = url.indexOf("?", start);
  return start < 0 ? "/" : query < 0 ? url.slice(start) : url.slice(start, query);
}
