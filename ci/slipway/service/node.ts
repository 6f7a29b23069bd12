/** A server of node:http or node:https, with the three paths and a drain. */
import { builtInRoutes, drainState, type DrainableServer } from "./shutdown.ts";
import type { NodeServer } from "./service.d";

/** The parts of a Node request and reply that are used. */
interface NodeRequest {
  method: string;
  url: string;
}
interface NodeReply {
  headersSent: boolean;
  setHeader(name: string, value: string): void;
  writeHead(status: number, headers: Record<string, string>): unknown;
  end(body?: string): void;
}

export function isNodeServer(target: object): target is NodeServer {
  return "closeAllConnections" in target && "emit" in target;
}

export function serveNode(server: NodeServer, paths: string[]): DrainableServer {
  /** What the server's replies have in common. */
  let replies: NodeReply | undefined;
  const emit = server.emit as (this: unknown, event: string, ...values: unknown[]) => boolean;
  // A listener could not keep the others, the framework's among them, from answering as well.
  server.emit = function (this: unknown, event: string, ...values: unknown[]): boolean {
    if (event !== "request") return emit.call(this, event, ...values);
    const [request, reply] = values as [NodeRequest, NodeReply];
    if (!replies) {
      replies = Object.getPrototypeOf(reply) as NodeReply;
      if (drainState.leaving) endConnections(replies);
    }
    const path = pathOf(request.url);
    if (!paths.includes(path) || (request.method !== "GET" && request.method !== "HEAD")) {
      return emit.call(this, event, ...values);
    }
    void send(reply, builtInRoutes[path]!());
    return true;
  };
  return {
    startDraining: () => replies && endConnections(replies),
    async stop(force) {
      if (force) return server.closeAllConnections();
      const { promise, resolve } = Promise.withResolvers<void>();
      // Its one error says that it was not listening, which is as good.
      server.close(() => resolve());
      server.closeIdleConnections();
      return promise;
    },
  };
}

/**
 * From now on every reply of this kind says `Connection: close`, also to what was asked before. To keep a list of what is
 * in flight would cost a tenth of all else that Node's server does.
 */
function endConnections(replies: NodeReply): void {
  const { writeHead } = replies;
  replies.writeHead = function (...values) {
    if (!this.headersSent) this.setHeader("Connection", "close");
    return writeHead.apply(this, values);
  };
}

async function send(reply: NodeReply, answer: Response): Promise<void> {
  const body = await answer.text();
  // With its length said, also a HEAD is answered as Bun does it.
  const headers = {
    ...Object.fromEntries(answer.headers),
    "content-length": String(Buffer.byteLength(body)),
  };
  reply.writeHead(answer.status, headers);
  reply.end(body);
}

const pathOf = (url: string) => (url.includes("?") ? url.slice(0, url.indexOf("?")) : url);
