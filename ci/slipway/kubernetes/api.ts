/** The Kubernetes API as HTTP: questions, server-side apply, and a sentence for every refusal. */
import { PipelineError } from "../core/errors.ts";
import { parseJson } from "../core/lossless-json.ts";
import type { Service } from "../core/service-config.ts";
import type { KubeObject } from "./objects.ts";
import { parseRetryAfter } from "../core/retry-after.ts";
import { isTransientStatus, RETRY_BUDGET_SECONDS, sleep, backoffMs } from "./retry.ts";

/** Seconds that a first question to the cluster may take, and in which one that was refused is asked again. */
export const CONNECT_TIMEOUT_SECONDS = 6;
export const CONNECT_RETRY_SECONDS = 1;

/** An answer of the API server other than success. */
export class ApiError extends PipelineError {
  constructor(
    what: string,
    /** HTTP status; 0 when there was no answer, or none to its end. */
    readonly status: number,
    readonly reply: string,
    /** Seconds that it asks to be left alone for. */
    readonly pauseSeconds?: number | undefined,
    way?: ConnectionInfo,
  ) {
    const words = reply.trim().split("\n").at(-1) ?? "";
    const told = isUnheard(status, reply) ? (way?.stderrTail() ?? "") : "";
    const output = told ? `${reply.trimEnd()}\nkubectl says:\n${told}` : reply;
    super("environment", `${what}: ${words}`, { hint: hintFor(status, reply, way, told), output });
  }

  /** Whether it is the object that the server does not take, rather than who asks or the server that is unwell. */
  get isInvalid(): boolean {
    return [400, 422].includes(this.status) || (this.status === 403 && !missingRights.test(this.reply));
  }
}

/** A 403 that is about who asks; every other one is about the object: an admission policy, a quota. */
const missingRights = /user "[^"]*" cannot/i;

/** How the API is reached. */
export interface ConnectionInfo {
  /** Program and options that select the cluster. */
  kubectl: string[];
  /** The last of what it has said, its credential plugin's words among it; empty: nothing. */
  stderrTail(): string;
}

/** Whether a refusal is not the API server's word about the object: it does not know who asks, or did not answer. */
function isUnheard(status: number, reply: string): boolean {
  return status === 0 || status === 401 || (status >= 500 && isUnanswered(reply));
}

/** Whether a reply is the proxy's: nobody answered it, or the credential plugin gave it nothing. */
function isUnanswered(reply: string): boolean {
  return /refused|no route|no such host|timeout|timed out|EOF|TLS|certificate|unable to connect|getting credentials/i.test(
    reply,
  );
}

function hintFor(status: number, reply: string, way: ConnectionInfo | undefined, told: string): string {
  const kubectl = way?.kubectl.join(" ") ?? "kubectl";
  if (/getting credentials|exec plugin/i.test(`${reply}\n${told}`))
    return `The kubeconfig's credential plugin gives no credentials: log in where it says. \`${kubectl} version\` shows when it does.`;
  if (status === 401)
    return "The cluster does not know these credentials: have they expired? `kubectl config view` shows which are used.";
  if (status === 403) {
    return missingRights.test(reply)
      ? "The kubeconfig's user lacks that right; `kubectl auth can-i --list` shows those that it has."
      : "The cluster's admission refuses it: its words name the policy or the webhook.";
  }
  if (status === 0 || isUnanswered(reply)) {
    const isK3s = way === undefined || way.kubectl[0] === "k3s";
    return isK3s
      ? "The API server does not answer. Is k3s running? `sudo systemctl status k3s` and `sudo journalctl -u k3s -n 50` tell."
      : `The API server does not answer. Does the cluster run, and does this machine reach it? \`${kubectl} cluster-info\` tells.`;
  }
  return "Run the command again with --verbose to see all of it.";
}

export interface ApiRequest {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  query?: Record<string, string>;
  body?: unknown;
  /** Default: application/json. */
  contentType?: string;
  /** Seconds until the question counts as unanswered; default: 10. */
  timeoutSeconds?: number;
  /**
   * Seconds in which it is asked again when the failure may pass; default: those of patience.ts for what can be said twice
   * (GET, PATCH, DELETE), none for the rest.
   */
  retryBudgetSeconds?: number;
  /** Default: the run's. A change that must not stop half-way takes none. */
  signal?: AbortSignal | undefined;
  /** Whether the fence is asked before it, where it changes something; default: true. */
  fenced?: boolean;
}

export class ApiClient {
  /** Seconds of patience, where a request has none of its own. */
  retryBudgetSeconds = RETRY_BUDGET_SECONDS;
  /** Asked before each try of a request that changes something: throws where nothing may be written any more. */
  beforeWrite: (() => Promise<void>) | undefined;
  /** Plural names by `apiVersion/Kind`, as the server lists them. */
  readonly #resources = new Map<string, Promise<Map<string, { name: string; namespaced: boolean }>>>();

  /**
   * @param service the one whose objects are dealt with
   * @param open asks the server; `path` starts with a slash
   * @param signal ends every question that has no signal of its own
   * @param way for the sentence about a refusal; default: k3s, and nothing was said
   */
  constructor(
    readonly service: Service,
    readonly open: (path: string, init: RequestInit) => Promise<Response>,
    readonly signal: AbortSignal,
    private readonly end: () => Promise<void> = async () => {},
    private readonly way?: ConnectionInfo,
  ) {}

  /** Name under which the pipeline owns, on the server, what the manifests say; also after a manual edit. */
  get fieldManager(): string {
    return `${this.service.name}-pipeline`;
  }

  /** Selects the service's objects. */
  get selector(): string {
    return `app.kubernetes.io/name=${this.service.name}`;
  }

  /** Path of a collection in the service's namespace, like `/api/v1` and `pods`. */
  collection(group: string, resources: string): string {
    return `${group}/namespaces/${this.service.namespace}/${resources}`;
  }

  /** The reply as it comes. @throws {ApiError} with status 0 when there is none */
  async fetch(path: string, request: ApiRequest = {}): Promise<Response> {
    const {
      method = "GET",
      query = {},
      body,
      contentType = "application/json",
      timeoutSeconds = 10,
    } = request;
    const signal = "signal" in request ? request.signal : this.signal;
    signal?.throwIfAborted();
    const search = new URLSearchParams(query).toString();
    const limit = AbortSignal.timeout(timeoutSeconds * 1000);
    try {
      return await this.open(search ? `${path}?${search}` : path, {
        method,
        ...(body !== undefined && { body: JSON.stringify(body), headers: { "Content-Type": contentType } }),
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
    } catch (error) {
      signal?.throwIfAborted();
      const why = limit.aborted ? `no answer within ${timeoutSeconds} s` : (error as Error).message;
      throw new ApiError(`${method} ${path}`, 0, why, undefined, this.way);
    }
  }

  /** The reply's JSON; what fails in passing is asked again. @throws {ApiError} for every status but success */
  async json<T>(path: string, request: ApiRequest = {}): Promise<T> {
    const { method = "GET", fenced = true, query = {} } = request;
    const changes = method !== "GET" && !("dryRun" in query);
    const again = ["GET", "PATCH", "DELETE"].includes(method);
    const { retryBudgetSeconds = again ? this.retryBudgetSeconds : 0 } = request;
    const signal = "signal" in request ? request.signal : this.signal;
    const end = performance.now() + retryBudgetSeconds * 1000;
    for (let failed = 1; ; failed += 1) {
      if (changes && fenced) await this.beforeWrite?.();
      try {
        return await this.#once<T>(path, request);
      } catch (error) {
        if (!(error instanceof ApiError) || !isTransientStatus(error.status)) throw error;
        const wait = backoffMs(failed, error.pauseSeconds);
        if (performance.now() + wait >= end) throw error;
        await sleep(wait, signal);
      }
    }
  }

  async #once<T>(path: string, request: ApiRequest): Promise<T> {
    const what = `${request.method ?? "GET"} ${path}`;
    const response = await this.fetch(path, request);
    const text = await response.text().catch((error: Error) => {
      throw new ApiError(what, 0, `the reply ended before its end: ${error.message}`, undefined, this.way);
    });
    if (!response.ok) {
      const { status, headers } = response;
      throw new ApiError(what, status, messageOf(text), parseRetryAfter(headers), this.way);
    }
    try {
      return parseJson<T>(text);
    } catch {
      throw new ApiError(what, 0, "the reply ended before its end", undefined, this.way);
    }
  }

  /** As `json`, but undefined for what is not there. */
  async find<T>(path: string, request: ApiRequest = {}): Promise<T | undefined> {
    try {
      return await this.json<T>(path, request);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return undefined;
      throw error;
    }
  }

  /** Objects of one collection, like `/api/v1/nodes`. */
  async list<T extends KubeObject>(
    path: string,
    query: Record<string, string> = {},
    request: ApiRequest = {},
  ): Promise<T[]> {
    return (await this.json<{ items: T[] }>(path, { ...request, query })).items;
  }

  /** Path of an object by what its manifest says. @throws {PipelineError} "project" for a kind that the server does not know */
  async pathOf(object: KubeObject): Promise<string> {
    const path = await this.findPath(object);
    if (path !== undefined) return path;
    throw new PipelineError("project", `the cluster knows no ${object.kind} of ${object.apiVersion}`);
  }

  /** As pathOf(); undefined for a kind that the server does not know, or not yet. */
  async findPath({
    apiVersion,
    kind,
    metadata: { name, namespace },
  }: KubeObject): Promise<string | undefined> {
    // The path would be that of all objects of the kind.
    if (!name) throw new Error(`a ${kind} without a name`);
    const base = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    let resources = this.#resources.get(base);
    if (!resources) this.#resources.set(base, (resources = this.#discover(base)));
    const resource = (await resources.catch(() => undefined))?.get(kind);
    if (!resource) {
      // A definition may come with the same manifests, and an answer that failed is none to keep.
      this.#resources.delete(base);
      await resources;
      return undefined;
    }
    const place = resource.namespaced ? `/namespaces/${namespace ?? "default"}` : "";
    return `${base}${place}/${resource.name}/${name}`;
  }

  async #discover(base: string) {
    const found = await this.find<{ resources: { name: string; kind: string; namespaced: boolean }[] }>(base);
    // `deployments/scale` is a part of one, and has a kind of its own.
    const whole = found?.resources.filter(({ name }) => !name.includes("/")) ?? [];
    return new Map(whole.map(({ kind, name, namespaced }) => [kind, { name, namespaced }]));
  }

  /**
   * Server-side apply of one object. @returns the object as it is then, or would be
   *
   * @param dryRun checks and merges, keeps nothing
   */
  async apply<T extends KubeObject>(object: T, { dryRun = false }: { dryRun?: boolean } = {}): Promise<T> {
    return this.json<T>(await this.pathOf(object), {
      method: "PATCH",
      contentType: "application/apply-patch+yaml",
      query: { fieldManager: this.fieldManager, force: "true", ...(dryRun && { dryRun: "All" }) },
      body: object,
      ...(!dryRun && { signal: undefined }),
    });
  }

  /** Deletes an object; one that is gone already is as good, and so is one of a kind that is gone. */
  async delete(object: KubeObject): Promise<void> {
    const path = await this.findPath(object);
    if (path === undefined) return;
    const body = { propagationPolicy: "Background" };
    await this.find(path, { method: "DELETE", body, signal: undefined });
  }

  close(): Promise<void> {
    return this.end();
  }
}

/** Errors of the API server are objects of kind Status; those of the proxy in front are plain text. */
function messageOf(text: string): string {
  try {
    return (JSON.parse(text) as { message?: string }).message ?? text;
  } catch {
    return text;
  }
}
