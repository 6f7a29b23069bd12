/**
 * Config in, a running server out: routes, limits and error replies, on the service's port and the admin port.
 *
 * Everything that is common to all requests happens in one place, `answering`: request id, trace, limits, method check,
 * errors, metrics, access log. It is written for speed where that costs no clarity: no promise for a route that needs
 * none, and replies that are always the same are made once.
 */
import { Call } from "./request-context.ts";
import { type Config, settings, urlHost } from "./config.ts";
import type { Lifecycle, Stoppable } from "slipway/service";
import { noContent, once, problem, reply, type Reply } from "./responses.ts";
import { greeting } from "./routes/greeting.ts";
import { healthz, readyz } from "./routes/health.ts";
import { openapi } from "./routes/openapi.ts";
import { version } from "./routes/version.ts";
import type { Logger } from "./telemetry/log.ts";
import {
  createMetrics,
  metricsType,
  openFiles,
  type Begun,
  type Metrics,
  type Reason,
} from "./telemetry/metrics.ts";
import { traceId, traceResponse } from "./telemetry/trace.ts";

/** Answers a request. What it throws becomes a 500 and a line in the log. */
export type Handler = (call: Call) => Reply | Promise<Reply>;

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

const ALLOW = "GET, HEAD, OPTIONS";
const options = once(() => noContent(204, { Allow: ALLOW }));
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

  /** The replies to everything that comes to one route; undefined: to no route. */
  function answering(name: string | undefined, { handle, probe = false }: Route) {
    const counted = metrics.route(name);

    return (request: Request, server: Bun.Server<undefined>): Response | Promise<Response> => {
      const call = new Call(request);
      const begun = counted.begin(call.method);
      let reply: Reply | Promise<Reply>;
      try {
        reply = refuse(call, probe) ?? handle(call);
      } catch (error) {
        reply = failed(error, call.id);
      }
      if (!(reply instanceof Promise)) return finish(call, reply, begun);
      // Bun's idle timeout would cut a handler that has not written yet without a word.
      server.timeout(request, Math.min(255, Math.ceil(config.requestTimeoutSeconds) + 5));
      return inTime(reply, call)
        .catch((error: unknown) => failed(error, call.id))
        .then((reply) => finish(call, reply, begun));
    };

    function finish(call: Call, reply: Reply, begun: Begun): Response {
      const milliseconds = performance.now() - call.start;
      begun.end(reply.status, milliseconds / 1000);
      const slow = milliseconds >= slowMilliseconds;
      if (slow || logging) logAccess(call, reply, milliseconds, slow);
      return toResponse(reply, call);
    }

    function logAccess(call: Call, reply: Reply, milliseconds: number, slow: boolean): void {
      const level = slow ? "warn" : probe && reply.status < 500 ? "debug" : "info";
      if (!log.enabled(level)) return;
      log.request(level, {
        method: call.method,
        route: name,
        // A route's name is its path, or its pattern. Asking for the URL would cost as much as half of all else that is done here.
        path: name ?? pathOf(call.request.url),
        status: reply.status,
        bytes: call.method === "HEAD" ? 0 : reply.bytes,
        milliseconds,
        requestId: call.id,
        traceId: call.traceParent && traceId(call.traceParent),
        slow,
      });
    }
  }

  function failed(error: unknown, requestId: string): Reply {
    log.error("handler failed", { requestId, error: error instanceof Error ? error.stack : String(error) });
    return problem(500, "Internal Server Error", requestId);
  }

  /** The reply to a request that is over a limit or of a method that no route has; undefined for all others. */
  function refuse(call: Call, probe: boolean): Reply | undefined {
    // A probe that fails under load would have the instance killed, and the load fall on the others.
    if (!probe && metrics.inFlight > config.maxInFlight) {
      return reject("in-flight", 503, "Service Unavailable", call.id, { "Retry-After": "1" });
    }
    const refused = refuseBody(call);
    if (refused) return refused;
    if (call.method === "GET" || call.method === "HEAD") return undefined;
    return call.method === "OPTIONS"
      ? options()
      : problem(405, "Method Not Allowed", call.id, { headers: { Allow: ALLOW } });
  }

  function refuseBody(call: Call): Reply | undefined {
    if (call.headers.get("transfer-encoding") !== null) {
      return reject("length", 411, "Length Required", call.id, CLOSE);
    }
    if (Number(call.headers.get("content-length")) > config.maxBodyBytes) {
      return reject("body", 413, "Content Too Large", call.id, CLOSE);
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
  async function inTime(reply: Promise<Reply>, call: Call): Promise<Reply> {
    const { promise, resolve } = Promise.withResolvers<Reply>();
    const timer = setTimeout(
      () => resolve(reject("time", 503, "Service Unavailable", call.id, { "Retry-After": "1" })),
      config.requestTimeoutSeconds * 1000,
    );
    return Promise.race([reply, promise]).finally(() => clearTimeout(timer));
  }

  function toResponse(reply: Reply, call: Call): Response {
    const response = reply.response.clone();
    // Most replies are the copy as it is: each header that is set costs as much as the copy.
    if (call.knownId) response.headers.set("X-Request-Id", call.knownId);
    if (call.traceParent) response.headers.set("traceresponse", traceResponse(call.traceParent));
    // Bun writes one for all methods but this.
    if (call.method === "HEAD") response.headers.set("Date", new Date().toUTCString());
    if (lifecycle.leaving || crowded()) {
      // Bun does not say so by itself, and a keep-alive client that is not told fails when the door closes.
      response.headers.set("Connection", "close");
      if (!lifecycle.leaving) metrics.shed += 1;
    } else if (asksToClose(call.headers.get("connection"))) {
      // Bun does what the client asks for; to say it is what RFC 9112 (section 9.6) wants of a server.
      response.headers.set("Connection", "close");
    }
    return response;
  }

  function listen(port: number, table: Record<string, Route>) {
    const answers = new Map<string, ReturnType<typeof answering>>();
    for (const [path, route] of Object.entries(table)) answers.set(path, answering(path, route));
    const notFound = answering(undefined, {
      handle: ({ request: { url }, id }) =>
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
      routes: Object.fromEntries(answers),
      // Bun looks a path up as it was sent and tells it without its dot segments. What is told is answered, so that reply, log
      // and metrics are of one path.
      fetch: (request, server) => (answers.get(pathOf(request.url)) ?? notFound)(request, server),
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

const metricsRoute =
  (metrics: Metrics): Handler =>
  () =>
    reply(metricsType, metrics.render());

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
  return process.getBuiltinModule("node:os").hostname();
}

/**
 * Bun has one limit for all servers of a process, 16 KiB at first, which Node's name for it changes; what is over it
 * gets Bun's bare 431. Loading that module takes longer than the rest of the start, so only who wants another limit
 * pays for it.
 */
function limitHeaders(bytes: number): void {
  if (bytes === settings.maxHeaderBytes.fallback) return;
  // Bun lets it be set, which its types do not know.
  (process.getBuiltinModule("node:http") as { maxHeaderSize: number }).maxHeaderSize = bytes;
}

/**
 * The path of a URL as Bun tells it: without dot segments, and whole where the Host makes no URL of it. `new URL()` would
 * cost more than the whole rest of a request.
 */
function pathOf(url: string): string {
  const start = url.startsWith("/") ? 0 : url.indexOf("/", url.indexOf("://") + 3);
  // The target of CONNECT is no path.
  if (start < 0) return url;
  const query = url.indexOf("?", start);
  return query < 0 ? url.slice(start) : url.slice(start, query);
}

/** Whether `close` is among the options of a Connection header. */
function asksToClose(connection: string | null): boolean {
  return connection !== null && /(?:^|,)\s*close\s*(?:,|$)/i.test(connection);
}
