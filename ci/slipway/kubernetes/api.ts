/** Client of the Kubernetes HTTP API: queries, and server-side apply. */
import { describeFetchError } from "../core/fetch-error.ts";
import { PipelineError } from "../core/errors.ts";
import { parseJson } from "../core/lossless-json.ts";
import type { Service } from "../core/resolve-service.ts";
import { ApiError, type ConnectionInfo } from "./api-error.ts";
import type { KubeObject } from "./objects.ts";
import { retryAfterSeconds } from "../core/retry-after.ts";
import { RETRY_BUDGET_SECONDS, sleep, transientCodes, backoffMs } from "./retry-policy.ts";

/** Seconds that the first request to a cluster may take, and for which it is retried after an error. */
export const CONNECT_TIMEOUT_SECONDS = 6;
export const CONNECT_RETRY_SECONDS = 1;

export interface ApiRequest {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  query?: Record<string, string>;
  body?: unknown;
  /** Default: application/json. */
  contentType?: string;
  /** Seconds until the request times out. Default: 10. */
  timeoutSeconds?: number;
  /**
   * Seconds for which the request is retried after a transient error. Default: the client's budget for requests that
   * are safe to repeat (GET, PATCH, DELETE), none for others.
   */
  retryBudgetSeconds?: number;
  /** Default: the client's. A change that must not be interrupted passes undefined. */
  signal?: AbortSignal | undefined;
  /** True if `beforeWrite` is called before a request that changes something. Default: true. */
  checksLock?: boolean;
}

export class ApiClient {
  /** Seconds for which a request is retried, unless it sets its own budget. */
  retryBudgetSeconds = RETRY_BUDGET_SECONDS;
  /** Called before each attempt of a request that changes something. Throws if nothing may be written any more. */
  beforeWrite: (() => Promise<void>) | undefined;
  /** Resources of each API group version by kind, from the server's discovery endpoints. */
  readonly #resources = new Map<string, Promise<Map<string, { name: string; namespaced: boolean }>>>();

  /**
   * @param service whose objects are managed
   * @param open sends a request. `path` starts with a slash
   * @param signal aborts every request that has no signal of its own
   * @param onClose ends the connection
   * @param connection for hints. Default: k3s without output
   */
  constructor(
    readonly service: Service,
    readonly open: (path: string, init: RequestInit) => Promise<Response>,
    readonly signal: AbortSignal,
    private readonly onClose: () => Promise<void> = async () => {},
    private readonly connection?: ConnectionInfo,
  ) {}

  /** The server-side apply field manager. It owns the fields in the manifests, also after a manual edit. */
  get fieldManager(): string {
    return `${this.service.name}-pipeline`;
  }

  /**
   * Returns a command that runs kubectl in the service's namespace, with the connection's credentials.
   *
   * @param hasTerminal whether kubectl gets this process's terminal
   */
  async kubectlCommand(args: string[], hasTerminal = false): Promise<string[]> {
    if (!this.connection?.kubectlCommand) throw new Error("this connection has no kubectl");
    return this.connection.kubectlCommand([`--namespace=${this.service.namespace}`, ...args], hasTerminal);
  }

  /** Returns the address here of a port that kubectl has opened where it runs. */
  async dial(port: number): Promise<{ path: string } | { host: string; port: number }> {
    if (!this.connection?.forward) return { host: "127.0.0.1", port };
    return { path: await this.connection.forward(`127.0.0.1:${port}`) };
  }

  /** Label selector of the service's objects. */
  get selector(): string {
    return `app.kubernetes.io/name=${this.service.name}`;
  }

  /** Returns the path of a collection in the service's namespace, for example for `/api/v1` and `pods`. */
  collection(group: string, resources: string): string {
    return `${group}/namespaces/${this.service.namespace}/${resources}`;
  }

  /** Sends one request and returns the raw response. @throws {ApiError} with status 0 if there is none */
  async fetch(path: string, request: ApiRequest = {}): Promise<Response> {
    const { method = "GET", query = {}, body, timeoutSeconds = 10 } = request;
    const { contentType = "application/json" } = request;
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
      if (error instanceof PipelineError && !transientCodes.has(error.code)) throw error;
      const why = limit.aborted ? `no response within ${timeoutSeconds} s` : describeFetchError(error);
      throw new ApiError(`${method} ${path}`, 0, why, undefined, this.connection);
    }
  }

  /**
   * Returns the response's JSON. Retries transient errors.
   *
   * @throws {ApiError} if the request does not succeed
   */
  async json<T>(path: string, request: ApiRequest = {}): Promise<T> {
    const { method = "GET", checksLock = true, query = {} } = request;
    const isWrite = method !== "GET" && !("dryRun" in query);
    const isRepeatable = ["GET", "PATCH", "DELETE"].includes(method);
    const { retryBudgetSeconds = isRepeatable ? this.retryBudgetSeconds : 0 } = request;
    const signal = "signal" in request ? request.signal : this.signal;
    const end = performance.now() + retryBudgetSeconds * 1000;
    for (let failed = 1; ; failed += 1) {
      if (isWrite && checksLock) await this.beforeWrite?.();
      try {
        return await this.#once<T>(path, request);
      } catch (error) {
        if (!(error instanceof ApiError) || !error.isTransient) throw error;
        const wait = backoffMs(failed, error.pauseSeconds);
        if (performance.now() + wait >= end) throw error;
        await sleep(wait, signal);
      }
    }
  }

  async #once<T>(path: string, request: ApiRequest): Promise<T> {
    const name = `${request.method ?? "GET"} ${path}`;
    const response = await this.fetch(path, request);
    const text = await response.text().catch((error: Error) => {
      throw new ApiError(name, 0, `the response was cut off: ${describeFetchError(error)}`, undefined, this.connection);
    });
    if (!response.ok) {
      const { status, headers } = response;
      const { message, reason } = statusOf(text);
      throw new ApiError(name, status, message, retryAfterSeconds(headers), this.connection, reason);
    }
    try {
      return parseJson<T>(text);
    } catch {
      throw new ApiError(name, 0, "the response was cut off", undefined, this.connection);
    }
  }

  /** Like `json`, but returns undefined if the object does not exist (404). */
  async find<T>(path: string, request: ApiRequest = {}): Promise<T | undefined> {
    try {
      return await this.json<T>(path, request);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return undefined;
      throw error;
    }
  }

  /** Lists the objects of a collection, for example `/api/v1/nodes`. */
  async list<T extends KubeObject>(
    path: string,
    query: Record<string, string> = {},
    request: ApiRequest = {},
  ): Promise<T[]> {
    return (await this.json<{ items: T[] }>(path, { ...request, query })).items;
  }

  /** Returns an object's path. @throws {PipelineError} "project" if the cluster does not have its kind */
  async pathOf(object: KubeObject): Promise<string> {
    const path = await this.findPath(object);
    if (path !== undefined) return path;
    throw new PipelineError("project", unknownKindMessage(object), { code: "kind-unknown" });
  }

  /** Like pathOf(), but returns undefined if the cluster does not have the kind, or not yet. */
  async findPath({ apiVersion, kind, metadata: { name, namespace } }: KubeObject): Promise<string | undefined> {
    // An empty name would address the collection of all objects.
    if (!name) throw new Error(`a ${kind} without a name`);
    const base = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    let resources = this.#resources.get(base);
    if (!resources) this.#resources.set(base, (resources = this.#discover(base)));
    const resource = (await resources.catch(() => undefined))?.get(kind);
    if (!resource) {
      // Nothing is cached on failure: the manifests themselves may define the kind later.
      this.#resources.delete(base);
      await resources;
      return undefined;
    }
    const scope = resource.namespaced ? `/namespaces/${namespace ?? this.service.namespace}` : "";
    return `${base}${scope}/${resource.name}/${name}`;
  }

  async #discover(base: string) {
    const found = await this.find<{ resources: { name: string; kind: string; namespaced: boolean }[] }>(base);
    // Subresources such as `deployments/scale` have kinds of their own.
    const resources = found?.resources.filter(({ name }) => !name.includes("/")) ?? [];
    return new Map(resources.map(({ kind, name, namespaced }) => [kind, { name, namespaced }]));
  }

  /**
   * Applies one object server-side.
   *
   * @param dryRun validates and merges without storing
   * @returns the object as it is stored, or would be
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

  /** Deletes an object. It is no error if the object or its kind does not exist. */
  async delete(object: KubeObject): Promise<void> {
    const path = await this.findPath(object);
    if (path === undefined) return;
    const body = { propagationPolicy: "Background" };
    await this.find(path, { method: "DELETE", body, signal: undefined });
  }

  close(): Promise<void> {
    return this.onClose();
  }
}

/** Returns an error's message and reason. The API server sends objects of kind Status, kubectl's proxy plain text. */
function statusOf(text: string): { message: string; reason?: string | undefined } {
  try {
    const { message = text, reason } = JSON.parse(text) as { message?: string; reason?: string };
    return { message, reason };
  } catch {
    return { message: text };
  }
}

/** Returns the error message for a kind that the cluster does not have. */
export function unknownKindMessage({ kind, apiVersion }: KubeObject): string {
  return `the cluster has no kind ${kind} in ${apiVersion}`;
}
