/**
 * The Kubernetes API of one named cluster: never of whatever context happens to be current.
 *
 * kubectl's own proxy, on a socket that only this user reaches, deals with kubeconfigs, certificates, credential plugins
 * and tokens; questions are then plain HTTP and take milliseconds, where a kubectl for each takes a tenth of a second.
 */
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { onPath, run } from "../ground/process.ts";
import type { Service } from "../ground/service.ts";
import type { KubeObject } from "./objects.ts";

/** Seconds that a first question to the cluster may take. */
export const PATIENCE_SECONDS = 6;

/** An answer of the API server other than success. */
export class Refusal extends PipelineError {
  constructor(
    what: string,
    /** HTTP status; 0 when there was no answer. */
    readonly status: number,
    readonly reply: string,
  ) {
    const words = reply.trim().split("\n").at(-1) ?? "";
    super("surroundings", `${what}: ${words}`, { hint: hintFor(status, reply), output: reply });
  }

  /** Whether it is the object that the server does not take, rather than who asks or the server that is unwell. */
  get isInvalid(): boolean {
    const missingRights = /user "[^"]*" cannot/i.test(this.reply);
    return [400, 422].includes(this.status) || (this.status === 403 && !missingRights);
  }
}

function hintFor(status: number, reply: string): string {
  if (status === 401)
    return "The cluster does not know these credentials: have they expired? `kubectl config view` shows which are used.";
  if (status === 403)
    return "The kubeconfig's user lacks that right; `kubectl auth can-i --list` shows those that it has.";
  if (status === 0 || /refused|no route|timeout|timed out|EOF|TLS|certificate|unable to connect/i.test(reply))
    return "The API server does not answer. Is k3s running? `sudo systemctl status k3s` and `sudo journalctl -u k3s -n 50` tell.";
  return "Run the command again with --verbose to see all of it.";
}

export interface Request {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  query?: Record<string, string>;
  body?: unknown;
  /** Default: application/json. */
  contentType?: string;
  /** Seconds until the question counts as unanswered; default: 30. */
  timeoutSeconds?: number;
  /** Default: the run's. A change that must not stop half-way takes none. */
  signal?: AbortSignal | undefined;
}

export class Api {
  /** Plural names by `apiVersion/Kind`, as the server lists them. */
  readonly #resources = new Map<string, Promise<Map<string, { name: string; namespaced: boolean }>>>();

  /**
   * @param service the one whose objects are dealt with
   * @param open asks the server; `path` starts with a slash
   * @param signal ends every question that has no signal of its own
   */
  constructor(
    readonly service: Service,
    readonly open: (path: string, init: RequestInit) => Promise<Response>,
    readonly signal: AbortSignal,
    private readonly end: () => Promise<void> = async () => {},
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

  /** The reply as it comes. @throws {Refusal} with status 0 when there is none */
  async fetch(path: string, request: Request = {}): Promise<Response> {
    const {
      method = "GET",
      query = {},
      body,
      contentType = "application/json",
      timeoutSeconds = 30,
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
      throw new Refusal(`${method} ${path}`, 0, why);
    }
  }

  /** The reply's JSON. @throws {Refusal} for every status but success */
  async json<T>(path: string, request: Request = {}): Promise<T> {
    const response = await this.fetch(path, request);
    const text = await response.text();
    if (response.ok) return JSON.parse(text) as T;
    throw new Refusal(`${request.method ?? "GET"} ${path}`, response.status, messageOf(text));
  }

  /** As `json`, but undefined for what is not there. */
  async find<T>(path: string, request: Request = {}): Promise<T | undefined> {
    try {
      return await this.json<T>(path, request);
    } catch (error) {
      if (error instanceof Refusal && error.status === 404) return undefined;
      throw error;
    }
  }

  /** Objects of one collection, like `/api/v1/nodes`. */
  async list<T extends KubeObject>(
    path: string,
    query: Record<string, string> = {},
    request: Request = {},
  ): Promise<T[]> {
    return (await this.json<{ items: T[] }>(path, { ...request, query })).items;
  }

  /** Path of an object by what its manifest says. @throws {PipelineError} "change" for a kind that the server does not know */
  async pathOf({ apiVersion, kind, metadata: { name, namespace } }: KubeObject): Promise<string> {
    const base = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    let resources = this.#resources.get(base);
    if (!resources) this.#resources.set(base, (resources = this.#discover(base)));
    const resource = (await resources).get(kind);
    if (!resource) throw new PipelineError("change", `the cluster knows no ${kind} of ${apiVersion}`);
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

  /** Deletes an object; one that is gone already is as good. */
  async delete(object: KubeObject): Promise<void> {
    const body = { propagationPolicy: "Background" };
    await this.find(await this.pathOf(object), { method: "DELETE", body, signal: undefined });
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

export interface ApiOptions {
  service: Service;
  /** Program and options that select the cluster, like `["k3s", "kubectl", "--kubeconfig=…"]`. */
  kubectl: string[];
  /** What to run it with where the kubeconfig is not this user's to read: `["sudo", "-n"]`. */
  privilege?: string[];
  signal: AbortSignal;
}

// It ends, and what it holds is removed, when its standard input does: also when the pipeline was killed.
const keeper = `exec 3<&0
"$@" & proxy=$!
{ cat <&3; kill $proxy; } >/dev/null 2>&1 &
wait $proxy; code=$?; rm -rf "$DIRECTORY"; exit $code`;

/**
 * Starts kubectl's proxy and speaks through it.
 *
 * @throws {PipelineError} "surroundings": no kubectl, no such context, a kubeconfig that cannot be read
 */
export async function connectApi({ service, kubectl, privilege = [], signal }: ApiOptions): Promise<Api> {
  if (!onPath(kubectl[0]!)) {
    throw new PipelineError("surroundings", `there is no ${kubectl[0]} on PATH`, {
      hint: "https://kubernetes.io/docs/tasks/tools/ tells how to install kubectl.",
    });
  }
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-api-`));
  try {
    let command = kubectl;
    if (privilege.length > 0) {
      // The credentials are read with privilege, used without: a socket of root's would not open to this user.
      const view = [...privilege, ...kubectl, "config", "view", "--raw", "--flatten", "--minify"];
      const { code, stdout, stderr } = await run(view, { timeoutSeconds: PATIENCE_SECONDS, signal });
      if (code !== 0) throw unreadable(stderr);
      const copy = join(directory, "kubeconfig");
      await writeFile(copy, stdout, { mode: 0o600 });
      command = [...kubectl.filter((word) => !/^--(kubeconfig|context)=/.test(word)), `--kubeconfig=${copy}`];
    }
    const socket = join(directory, "socket");
    const proxy = Bun.spawn(["sh", "-c", keeper, "sh", ...command, "proxy", `--unix-socket=${socket}`], {
      env: { ...process.env, DIRECTORY: directory },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      // A group of its own: Ctrl-C is the pipeline's, which still has a word to say to the cluster then.
      detached: true,
    });
    const end = async () => {
      proxy.stdin.end();
      await proxy.exited;
    };
    proxy.unref();
    const stderr = new Response(proxy.stderr).text();
    const { value: greeting } = await proxy.stdout.getReader().read();
    if (!greeting) {
      await end();
      throw unreadable(await stderr);
    }
    await chmod(socket, 0o600);
    // HTTP_PROXY is not asked: the socket is this machine's.
    const open = (path: string, init: RequestInit) =>
      fetch(`http://localhost${path}`, { ...init, unix: socket, proxy: false });
    return new Api(service, open, signal, end);
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

function unreadable(stderr: string): PipelineError {
  const words = stderr.trim().split("\n").at(-1) || "kubectl ended without a word";
  const hint = /password is required|permission denied/i.test(stderr)
    ? "This user may not read the kubeconfig: run `sudo -v` first, or run the pipeline as root."
    : "`kubectl config get-contexts` lists the contexts that there are; --kubeconfig and --context choose.";
  return new PipelineError("surroundings", `kubectl cannot use the kubeconfig: ${words}`, {
    hint,
    output: stderr,
  });
}
