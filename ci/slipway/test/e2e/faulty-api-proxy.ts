/**
 * A proxy in front of the real API server that injects one fault into one request. A separate kubeconfig points to
 * it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { must } from "./setup.ts";

/** Kinds of faults. */
export const faults = [
  /** The connection is closed before the server has seen the request. */
  "refuse",
  /** The response is slow, but within the client's timeout. */
  "delay",
  /** The request is executed, and the connection closes in the middle of the response. */
  "cut",
  /** The request is executed, and the response is lost. */
  "lose",
  "409",
  /** With `Retry-After: 1`. */
  "429",
  "500",
  "403",
  /** 403 for this request and all later ones. */
  "revoke",
] as const;
export type Fault = (typeof faults)[number];

/** Faults that a retry can overcome. */
export const transientFaults: ReadonlySet<Fault> = new Set(["refuse", "delay", "cut", "lose", "429", "500"]);

/** A request that every run of the command makes: `PATCH /api/…`, and which of several equal ones. */
export interface RequestPosition {
  request: string;
  nth: number;
}

/** Milliseconds of the fault "delay". */
const DELAY = 1500;

type Upstream = (path: string, init: RequestInit) => Promise<Response>;

/** Returns a client of the real server, with the credentials of this machine's k3s. */
export function realServer(): Upstream {
  const view = ["k3s", "kubectl", "config", "view", "--raw", "--flatten", "--minify", "-o", "json"];
  const config = JSON.parse(must(view));
  const text = (base64: string) => Buffer.from(base64, "base64").toString();
  const { cluster } = config.clusters[0];
  const { user } = config.users[0];
  const tls = {
    ca: text(cluster["certificate-authority-data"]),
    cert: text(user["client-certificate-data"]),
    key: text(user["client-key-data"]),
  };
  return (path, init) => fetch(cluster.server + path, { ...init, tls, proxy: false } as RequestInit);
}

export class FaultyServer {
  /** All requests since the last arm(). */
  seen: string[] = [];
  /** The request that met the fault. Undefined if it has not come. */
  faultedRequest: string | undefined;
  #armed: (RequestPosition & { fault: Fault }) | undefined;
  readonly #server = createServer((request, reply) => void this.#handle(request, reply));

  /** @param nameOf returns a request's name, independent of ids and hashes */
  constructor(
    readonly upstream: Upstream,
    readonly nameOf: (method: string, path: string) => string,
  ) {}

  /** Starts the proxy. @returns a kubeconfig for it, as JSON */
  async start(): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.listen(0, "127.0.0.1", resolve);
    await promise;
    const server = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    return JSON.stringify({
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "faulty", cluster: { server } }],
      users: [{ name: "faulty", user: {} }],
      contexts: [{ name: "faulty", context: { cluster: "faulty", user: "faulty" } }],
      "current-context": "faulty",
    });
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  /** Sets the fault for the next run. undefined: none. */
  arm(at: (RequestPosition & { fault: Fault }) | undefined): void {
    this.#armed = at;
    this.seen = [];
    this.faultedRequest = undefined;
  }

  #faultFor(name: string): Fault | undefined {
    this.seen.push(name);
    const at = this.#armed;
    if (!at) return undefined;
    if (this.faultedRequest !== undefined) return at.fault === "revoke" ? "revoke" : undefined;
    if (name !== at.request || this.seen.filter((one) => one === name).length !== at.nth) return undefined;
    this.faultedRequest = name;
    return at.fault;
  }

  async #handle(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    const { method = "GET", url: path = "/" } = request;
    // kubectl's proxy would retry on a kept connection, and hide the fault from its client.
    reply.setHeader("Connection", "close");
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const name = this.nameOf(method, path);
    const fault = this.#faultFor(name);
    if (fault === "refuse") return void request.socket.destroy();
    const error = fault && errorResponses[fault]?.(name);
    if (error) return send(reply, error.code, JSON.stringify({ kind: "Status", ...error }));
    if (fault === "delay") await Bun.sleep(DELAY);
    const type = request.headers["content-type"];
    const body = chunks.length > 0 ? { body: Buffer.concat(chunks) } : {};
    const headers: Record<string, string> = type === undefined ? {} : { "Content-Type": type };
    const answer = await this.upstream(path, { method, headers, ...body }).catch(() => undefined);
    if (!answer) return void request.socket.destroy();
    const bytes = await answer.bytes();
    if (fault === "lose") return void request.socket.destroy();
    const length = fault === "cut" ? bytes.length >> 1 : bytes.length;
    reply.setHeader("Content-Type", answer.headers.get("content-type") ?? "application/json");
    reply.writeHead(answer.status, { "Content-Length": bytes.length });
    if (fault === "cut") reply.write(bytes.subarray(0, length), () => request.socket.destroy());
    else reply.end(bytes);
  }
}

function send(reply: ServerResponse, status: number, body: string): void {
  if (status === 429) reply.setHeader("Retry-After", "1");
  reply.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  reply.end(body);
}

/**
 * Error responses as a real server sends them.
 * https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.32/#status-v1-meta
 */
const errorResponses: Partial<Record<Fault, (name: string) => { code: number; reason: string; message: string }>> = {
  "409": (name) => ({
    code: 409,
    reason: "Conflict",
    message: `Operation cannot be fulfilled on ${name}: the object has been modified; please apply your changes to the latest version and try again`,
  }),
  "429": () => ({ code: 429, reason: "TooManyRequests", message: "too many requests, please try again" }),
  "500": () => ({ code: 500, reason: "InternalError", message: "etcdserver: leader changed" }),
  "403": forbidden,
  revoke: forbidden,
};

function forbidden(name: string) {
  const message = `${name} is forbidden: User "tester" cannot do that in the namespace`;
  return { code: 403, reason: "Forbidden", message };
}
