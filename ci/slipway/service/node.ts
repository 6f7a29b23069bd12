/** Adds the health endpoints and the drain to a server of node:http or node:https. */
import { builtInRoutes, drainState, type DrainableServer } from "./shutdown.ts";
import type { NodeServer } from "./service.d";

/** Parts of Node's request and response that this module uses. */
interface NodeRequest {
  method: string;
  url: string;
}
interface NodeResponse {
  headersSent: boolean;
  setHeader(name: string, value: string): void;
  writeHead(status: number, headers: Record<string, string>): unknown;
  end(body?: string): void;
}

export function isNodeServer(target: object): target is NodeServer {
  return "closeAllConnections" in target && "emit" in target;
}

export function serveNode(server: NodeServer, paths: string[]): DrainableServer {
  /** Prototype of the server's responses, known after the first request. */
  let responsePrototype: NodeResponse | undefined;
  const emit = server.emit as (this: unknown, event: string, ...values: unknown[]) => boolean;
  // Replaces emit(), because a listener could not keep other listeners, such as the framework's, from
  // responding too.
  server.emit = function (this: unknown, event: string, ...values: unknown[]): boolean {
    if (event !== "request") return emit.call(this, event, ...values);
    const [request, response] = values as [NodeRequest, NodeResponse];
    if (!responsePrototype) {
      responsePrototype = Object.getPrototypeOf(response) as NodeResponse;
      if (drainState.leaving) addConnectionClose(responsePrototype);
    }
    const path = pathOf(request.url);
    if (!paths.includes(path) || (request.method !== "GET" && request.method !== "HEAD")) {
      return emit.call(this, event, ...values);
    }
    void send(response, builtInRoutes[path]!());
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

async function send(target: NodeResponse, response: Response): Promise<void> {
  const body = await response.text();
  // With an explicit length, a HEAD response equals Bun's.
  const headers = {
    ...Object.fromEntries(response.headers),
    "content-length": String(Buffer.byteLength(body)),
  };
  target.writeHead(response.status, headers);
  target.end(body);
}

const pathOf = (url: string) => (url.includes("?") ? url.slice(0, url.indexOf("?")) : url);
