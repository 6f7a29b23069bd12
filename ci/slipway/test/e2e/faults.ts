/**
 * An API server that fails when it is told to: a proxy in front of the real one, to which a kubeconfig of its own leads, and
 * which does one fault at one request.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { must } from "./setup.ts";

/** What becomes of the one request. */
export const faults = [
  /** The connection is closed before the server has seen the request. */
  "refuse",
  /** The answer takes its time, and less than the client has. */
  "delay",
  /** The request is carried out, and the connection ends in the middle of the answer. */
  "cut",
  /** The request is carried out, and nothing of the answer arrives. */
  "lose",
  "409",
  /** With a Retry-After of a second. */
  "429",
  "500",
  "403",
  /** 403 for this request and all that come after it. */
  "revoke",
] as const;
export type Fault = (typeof faults)[number];

/** Faults that the next try need not meet. */
export const passing: ReadonlySet<Fault> = new Set(["refuse", "delay", "cut", "lose", "429", "500"]);

/** A request as another run of the same command makes it, too: `PATCH /api/…`, and the how-manieth of these. */
export interface Place {
  request: string;
  nth: number;
}

/** Milliseconds. */
const DELAY = 1500;

type Upstream = (path: string, init: RequestInit) => Promise<Response>;

/** The real server, with the credentials of this machine's k3s. */
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
  /** What was done to which; undefined: the request did not come. */
  struck: string | undefined;
  #armed: (Place & { fault: Fault }) | undefined;
  readonly #server = createServer((request, reply) => void this.#answer(request, reply));

  /** @param nameOf what a request is called, whatever ids and hashes are in it */
  constructor(
    readonly upstream: Upstream,
    readonly nameOf: (method: string, path: string) => string,
  ) {}

  /** @returns a kubeconfig that leads to it, as JSON */
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

  /** Fails at that place from now on; undefined: nowhere. */
  arm(at: (Place & { fault: Fault }) | undefined): void {
    this.#armed = at;
    this.seen = [];
    this.struck = undefined;
  }

  #faultFor(name: string): Fault | undefined {
    this.seen.push(name);
    const at = this.#armed;
    if (!at) return undefined;
    if (this.struck !== undefined) return at.fault === "revoke" ? "revoke" : undefined;
    if (name !== at.request || this.seen.filter((one) => one === name).length !== at.nth) return undefined;
    this.struck = name;
    return at.fault;
  }

  async #answer(request: IncomingMessage, reply: ServerResponse): Promise<void> {
    const { method = "GET", url: path = "/" } = request;
    // What kubectl's proxy sends again by itself over a kept connection would be no fault to its client.
    reply.setHeader("Connection", "close");
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const name = this.nameOf(method, path);
    const fault = this.#faultFor(name);
    if (fault === "refuse") return void request.socket.destroy();
    const refusal = fault && refusals[fault]?.(name);
    if (refusal) return send(reply, refusal.code, JSON.stringify({ kind: "Status", ...refusal }));
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

/** What a server says of them; https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.32/#status-v1-meta */
const refusals: Partial<Record<Fault, (name: string) => { code: number; reason: string; message: string }>> =
  {
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
  const message = `${name} is forbidden: User "campaign" cannot do that in the namespace`;
  return { code: 403, reason: "Forbidden", message };
}
