/** Adds the health endpoints and the drain to a server of node:http or node:https. */
import { builtInReplies, isReplaced, UnroutedPaths } from "./built-in-replies.ts";
import { listen } from "./bun.ts";
import { endRequest, hasMetrics, RouteCounter, serveMetrics } from "./metrics.ts";
import { drainState, noteRequest, type DrainableServer } from "./shutdown.ts";
import type { NodeServer } from "./service.d";
import { build, BUILD_HEADER, VERSION_PATH } from "./version.ts";

/** Parts of Node's request and response that this module uses. */
interface NodeRequest {
  method: string;
  url: string;
  headers: Record<string, string | undefined>;
}
interface NodeResponse {
  headersSent: boolean;
  once(event: "close", listener: () => void): unknown;
  statusCode: number;
  getHeaderNames(): string[];
  removeHeader(name: string): void;
  setHeader(name: string, value: string): unknown;
  flushHeaders(...values: unknown[]): unknown;
  writeHead(status: number, ...values: unknown[]): unknown;
  write(...values: unknown[]): unknown;
  end(...values: unknown[]): unknown;
}

export function isNodeServer(target: object): target is NodeServer {
  return "closeAllConnections" in target && "emit" in target;
}

/** @param isAttached whether the service's own replies to the paths come first */
export function serveNode(server: NodeServer, paths: string[], isAttached: boolean): DrainableServer {
  serveMetrics(listen);
  const unrouted = new UnroutedPaths();
  /** Prototype of the server's responses, known after the first request. */
  let responsePrototype: NodeResponse | undefined;
  const emit = server.emit as (this: unknown, event: string, ...values: unknown[]) => boolean;
  // Replaces emit(), because a listener could not keep other listeners, such as the framework's, from
  // responding too.
  server.emit = function (this: unknown, event: string, ...values: unknown[]): boolean {
    if (event !== "request") return emit.call(this, event, ...values);
    const [request, response] = values as [NodeRequest, NodeResponse];
    if (drainState.leaving) noteRequest(request.headers["user-agent"]);
    if (!responsePrototype) {
      responsePrototype = Object.getPrototypeOf(response) as NodeResponse;
      if (drainState.leaving) addConnectionClose(responsePrototype);
    }
    const path = pathOf(request.url);
    if (hasMetrics) {
      const active = RouteCounter.of(paths.includes(path) ? path : undefined).begin(request.method);
      response.once("close", () => endRequest(active, response.statusCode));
    }
    if (!paths.includes(path) || (request.method !== "GET" && request.method !== "HEAD")) {
      return emit.call(this, event, ...values);
    }
    const send = replyUnlessRouted(path, response, responsePrototype, unrouted);
    if (!isAttached || unrouted.has(path) || !emit.call(this, event, ...values)) send();
    return true;
  };
  return {
    startDraining: () => responsePrototype && addConnectionClose(responsePrototype),
    async stop(force) {
      if (force) return server.closeAllConnections();
      const { promise, resolve } = Promise.withResolvers<void>();
      // The only possible error is that the server was not listening, which needs no handling.
      server.close(() => resolve());
      server.closeIdleConnections();
      return promise;
    },
  };
}

/**
 * Adds `Connection: close` to every later response, including responses to earlier requests.
 *
 * It patches the prototype, because a list of the requests in flight would cost a tenth of the time that
 * Node's server takes for everything else.
 */
function addConnectionClose(prototype: NodeResponse): void {
  const { writeHead } = prototype;
  prototype.writeHead = function (...values) {
    if (!this.headersSent) this.setHeader("Connection", "close");
    return writeHead.apply(this, values);
  };
}

/**
 * Replaces the service's reply, as soon as its status is known, if the service has no such route.
 *
 * @param prototype the original methods, to which the drain adds a header
 * @returns a function that sends the reply of this package
 */
function replyUnlessRouted(
  path: string,
  response: NodeResponse,
  prototype: NodeResponse,
  unrouted: UnroutedPaths,
): () => void {
  let state: "unknown" | "sending" | "replaced" | "own" = "unknown";
  const send = () => {
    state = "sending";
    const { status, headers, body } = builtInReplies[path]!();
    for (const name of response.getHeaderNames()) response.removeHeader(name);
    // With an explicit length, a HEAD response equals Bun's.
    const length = { "content-length": String(Buffer.byteLength(body)) };
    prototype.writeHead.call(response, status, { ...headers, ...length });
    prototype.end.call(response, body);
    state = "replaced";
  };
  const decide = (status: number) => {
    if (state !== "unknown") return;
    unrouted.note(path, status);
    if (isReplaced(path, status)) return send();
    state = "own";
    if (path === VERSION_PATH) response.setHeader(BUILD_HEADER, build.id);
  };
  /** Calls the original method, or ignores the call if the reply was replaced. */
  const override = (name: "writeHead" | "write" | "end" | "flushHeaders" | "setHeader", ignored: () => unknown) => {
    response[name] = (...values: unknown[]): unknown => {
      if (name !== "setHeader") decide(name === "writeHead" ? (values[0] as number) : response.statusCode);
      if (state !== "replaced") return (prototype[name] as (...values: unknown[]) => unknown).apply(response, values);
      const callback = values.at(-1);
      if (typeof callback === "function") queueMicrotask(callback as () => void);
      return ignored();
    };
  };
  override("write", () => true);
  for (const name of ["writeHead", "end", "flushHeaders", "setHeader"] as const) override(name, () => response);
  return send;
}

const pathOf = (url: string) => (url.includes("?") ? url.slice(0, url.indexOf("?")) : url);
