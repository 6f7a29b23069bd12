/**
 * A test service with its own namespace and NodePort, objects created by hand, two prepared versions, and clients
 * that send requests during every run.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { converse } from "./raw-http-client.ts";
import { Copy } from "./project-versions.ts";
import { FaultyServer, realServer, type Fault, type RequestPosition } from "./faulty-api-proxy.ts";
import { eventually } from "./setup.ts";

/** Clients that keep their connection, and clients that open one per request. */
const KEEPALIVE_CLIENTS = 64;
const NEW_CONNECTION_CLIENTS = 16;
/** Milliseconds between two requests of a client. */
const PAUSE = 200;
/** Seconds that a response may take on a busy machine. */
const TIMEOUT_SECONDS = 10;

/** Kinds that controllers create. The pipeline does not restore them. */
const controllerKinds = new Set(["pods", "replicasets", "events", "endpoints", "endpointslices"]);

interface Item {
  kind?: string;
  metadata: {
    name: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
  } & Record<string, unknown>;
}

export type ObjectsByPath = Record<string, unknown>;

export interface RunResult {
  code: number;
  output: string;
  /** Names of all API requests, in order. */
  requests: string[];
  /** True if a request met the fault. */
  faulted: boolean;
  /** Causes of the clients' failed requests. */
  failed: string[];
  /** Number of the clients' requests. */
  sent: number;
}

export class TestService {
  readonly copy: Copy;
  readonly server: FaultyServer;
  readonly ids: { a: string; b: string };
  readonly #kubeconfig: string;
  readonly #upstream = realServer();
  #collections: string[] | undefined;
  #round = 0;
  /** Differs from those of a run a minute ago. */
  #address = Math.floor(Date.now() / 1000) % 65_536;
  #last: "a" | "b" = "a";

  constructor(
    directory: string,
    readonly name: string,
    readonly place: { namespace: string; port: number },
  ) {
    mkdirSync(join(directory, name), { recursive: true });
    this.#kubeconfig = join(directory, name, "kubeconfig.json");
    this.copy = new Copy(join(directory, name), "project", place);
    const { copy } = this;
    // Skips checks and tests.
    for (const script of ["check", "test", "test:unit"])
      copy.rewrite("package.json", `"${script}":`, `"no-${script}":`);
    copy.rewrite("ci/pipeline.ts", "attach: false,", "attach: false,\n  keepVersions: 2,");
    // On a busy machine, probes are slow and resource requests may not fit.
    copy.rewrite(
      "k8s/base/deployment.yaml",
      "failureThreshold: 2",
      "failureThreshold: 10\n            timeoutSeconds: 10",
    );
    copy.rewrite(
      "k8s/base/deployment.yaml",
      "timeoutSeconds: 2",
      "timeoutSeconds: 30\n            failureThreshold: 6",
    );
    copy.rewrite(
      "ci/pipeline.ts",
      "keepVersions: 2,",
      "keepVersions: 2,\n  readyTimeoutSeconds: 60,\n  scheduleTimeoutSeconds: 60,\n  rolloutTimeoutSeconds: 300,",
    );
    copy.rewrite("k8s/base/deployment.yaml", "cpu: 50m", "cpu: 1m");
    const settings = "          envFrom:\n            - configMapRef:\n                name: settings\n";
    copy.rewrite("k8s/base/deployment.yaml", "          ports:\n", `${settings}          ports:\n`);
    const generator = "configMapGenerator:\n  - name: settings\n    literals:\n      - ROUND=0\nresources:\n";
    copy.rewrite("k8s/base/kustomization.yaml", "resources:\n", generator);
    copy.keepChanges();
    const idOf = (version: "a" | "b") => {
      this.version(version);
      return copy.id();
    };
    this.ids = { a: idOf("a"), b: idOf("b") };
    this.server = new FaultyServer(this.#upstream, (method, path) => this.#nameOf(method, path));
  }

  async start(): Promise<void> {
    writeFileSync(this.#kubeconfig, await this.server.start());
  }

  /** Switches the copy to a version, by default the other one, with manifests that have not been deployed before. */
  version(version: "a" | "b" = this.#last === "a" ? "b" : "a", { crashes = false } = {}): "a" | "b" {
    const { copy } = this;
    this.#last = version;
    copy.restore();
    copy.state(`if (process.env.TEST_VERSION === "${version}") console.log("${version}");`);
    copy.rewrite("k8s/base/kustomization.yaml", "ROUND=0", `ROUND=${(this.#round += 1)}`);
    const env = "/spec/template/spec/containers/0/env/-";
    const value = { name: "PORT", value: "nonsense" };
    if (crashes) copy.patch([{ op: "add", path: env, value }]);
    return version;
  }

  /**
   * Runs the pipeline while clients send requests.
   *
   * @param ids ids that clients accept in responses
   * @param at where the API server fails. Default: nowhere
   * @param killAfter milliseconds after which the pipeline is killed (SIGKILL). Default: never
   */
  async run(
    args: string[],
    ids: string[],
    { at, killAfter }: { at?: RequestPosition & { fault: Fault }; killAfter?: number } = {},
  ): Promise<RunResult> {
    this.server.arm(at);
    const clients = startClients([this.#nextUrl(), this.#nextUrl()], ids);
    const child = Bun.spawn([process.execPath, "ci/pipeline.ts", ...args, "--kubeconfig", this.#kubeconfig], {
      cwd: this.copy.directory,
      env: { ...process.env, GITHUB_STEP_SUMMARY: undefined },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const timer = killAfter !== undefined && setTimeout(() => child.kill("SIGKILL"), killAfter);
    const [stdout, stderr, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    if (timer) clearTimeout(timer);
    const { failed, sent } = await clients();
    const { seen, faultedRequest } = this.server;
    return {
      code,
      output: stdout + stderr,
      requests: [...seen],
      faulted: faultedRequest !== undefined,
      failed,
      sent,
    };
  }

  /**
   * Returns another local address for each run. The kernel remembers for two minutes to which pod a client's port was
   * routed. With many clients, a port is reused within that time, and its pod may be gone. It also remembers for 10 s that
   * a port was refused, and then refuses it although the Service has endpoints.
   */
  #nextUrl(): string {
    this.#address += 1;
    return `http://127.${this.place.port % 256}.${(this.#address >> 8) % 256}.${this.#address % 256}:${this.place.port}/version`;
  }

  /** Returns the ids that new connections get. */
  async served(): Promise<string> {
    const url = this.#nextUrl();
    const init = { keepalive: false, headers: { Connection: "close" } };
    const ids = await Promise.all(
      Array.from({ length: 10 }, () =>
        fetch(url, init).then(
          async (reply) => ((await reply.json()) as { id: string }).id,
          (error: Error) => error.message,
        ),
      ),
    );
    return [...new Set(ids)].join(", ");
  }

  /** Creates the namespace, with objects that the pipeline does not own. */
  async createForeignObjects(): Promise<void> {
    const { namespace } = this.place;
    await this.ask("POST", "/api/v1/namespaces", { metadata: { name: namespace } });
    const core = `/api/v1/namespaces/${namespace}`;
    const metadata = { name: "by-hand", labels: { "app.kubernetes.io/name": "helloapp" } };
    await this.ask("POST", `${core}/configmaps`, { metadata, data: { made: "by hand" } });
    await this.ask("POST", `${core}/services`, { metadata, spec: { ports: [{ port: 80 }] } });
    await this.ask("POST", `${core}/secrets`, { metadata, stringData: { made: "by hand" } });
    const resources = { requests: { storage: "1Mi" } };
    const spec = { accessModes: ["ReadWriteOnce"], storageClassName: "", resources };
    await this.ask("POST", `${core}/persistentvolumeclaims`, { metadata, spec });
  }

  /** Deletes all objects that are not in `initial`. */
  async reset(initial: ObjectsByPath): Promise<void> {
    const now = await this.objects();
    for (const path of Object.keys(now)) if (!(path in initial)) await this.ask("DELETE", path);
    const own = `/api/v1/namespaces/${this.place.namespace}`;
    await this.ask("PUT", own, initial[own]);
    const pods = `/api/v1/namespaces/${this.place.namespace}/pods`;
    await this.ask("DELETE", `${pods}?gracePeriodSeconds=0`);
    await eventually(async () => (await this.ask<{ items: [] }>("GET", pods)).items.length === 0 || undefined);
    await this.#waitUntilSilent();
  }

  /** Waits until no version responds: a force-deleted pod lives a little longer. */
  async #waitUntilSilent(): Promise<void> {
    await eventually(async () => {
      const served = await this.served();
      return !Object.values(this.ids).some((id) => served.includes(id)) || undefined;
    }, 120);
  }

  /** Deletes the namespace, and waits until it is gone. */
  async remove(): Promise<void> {
    const { namespace } = this.place;
    const path = `/api/v1/namespaces/${namespace}`;
    await this.ask("DELETE", `${path}/pods?gracePeriodSeconds=0`).catch(() => {});
    await this.ask("DELETE", path).catch(() => {});
    const isGone = () => this.#upstream(path, {}).then(({ status }) => status === 404 || undefined);
    await eventually(isGone, 120);
    await this.#waitUntilSilent();
  }

  /** Reads the namespace and its objects by path, without counters and without controllers' objects and status. */
  async objects(): Promise<ObjectsByPath> {
    const all = Object.entries(await this.everything());
    const own = all.filter(([path]) => !controllerKinds.has(path.split("/").at(-2)!));
    return Object.fromEntries(own.map(([path, item]) => [path, comparable(item)]));
  }

  /** Reads the namespace and all its objects by path. */
  async everything(): Promise<Record<string, Item>> {
    const { namespace } = this.place;
    const own = `/api/v1/namespaces/${namespace}`;
    const reply = await this.#upstream(own, {});
    if (reply.status === 404) return {};
    const lists = await Promise.all(
      (await this.#collectionsOf(namespace)).map(async (path) => {
        const { items } = await this.ask<{ items: Item[] }>("GET", path);
        return items.map((item): [string, Item] => [`${path}/${item.metadata.name}`, item]);
      }),
    );
    return Object.fromEntries([[own, (await reply.json()) as Item], ...lists.flat()]);
  }

  async #collectionsOf(namespace: string): Promise<string[]> {
    if (this.#collections) return this.#collections;
    const { groups } = await this.ask<{ groups: { preferredVersion: { groupVersion: string } }[] }>("GET", "/apis");
    const bases = ["/api/v1", ...groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`)];
    const found = await Promise.all(
      bases.map(async (base) => {
        const { resources } = await this.ask<{
          resources: { name: string; namespaced: boolean; verbs: string[] }[];
        }>("GET", base);
        return resources
          .filter(({ namespaced, verbs }) => namespaced && verbs.includes("list"))
          .map(({ name }) => `${base}/namespaces/${namespace}/${name}`);
      }),
    );
    return (this.#collections = found.flat());
  }

  /** Returns a pod's log. */
  async logOf(pod: string): Promise<string> {
    const reply = await this.#upstream(`/api/v1/namespaces/${this.place.namespace}/pods/${pod}/log`, {});
    return reply.text();
  }

  /** Sends a request to the real server. */
  async ask<T>(method: string, path: string, body?: unknown): Promise<T> {
    const reply = await this.#upstream(path, {
      method,
      ...(body !== undefined && {
        body: JSON.stringify(body),
        headers: { "Content-Type": method === "PATCH" ? "application/merge-patch+json" : "application/json" },
      }),
    });
    if (!reply.ok) throw new Error(`${method} ${path}: ${await reply.text()}`);
    return (await reply.json()) as T;
  }

  /** Returns a name that is equal for every version and pod. */
  #nameOf(method: string, path: string): string {
    const { pathname, searchParams } = new URL(path, "http://server");
    const name = pathname
      .replace(/version-[0-9a-f]{12}-[0-9a-f]{8}/, "version-ID")
      .replace(/settings-[a-z0-9]{10}/, "settings-HASH")
      .replace(/pods\/helloapp-[a-z0-9-]+/, "pods/POD")
      .replace(`namespaces/${this.place.namespace}`, "namespaces/NAMESPACE");
    return `${method} ${name}${searchParams.has("dryRun") ? " (dry run)" : ""}`;
  }
}

/**
 * Starts 80 clients.
 *
 * @param urls address until the first good response, and address from then on
 * @returns a function that stops them and returns the failures since the first good response
 */
function startClients(urls: [string, string], ids: string[]): () => Promise<{ failed: string[]; sent: number }> {
  const failed: string[] = [];
  let [isStopped, isServed, sent] = [false, false, 0];
  const client = async (keepAlive: boolean) => {
    while (!isStopped) {
      const url = urls[isServed ? 1 : 0];
      const { host, pathname } = new URL(url);
      const request = `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\n${keepAlive ? "" : "Connection: close\r\n"}\r\n`;
      // Requests before the first good response may fail.
      let counts = false;
      await converse(url, {
        request,
        pause: PAUSE,
        patience: TIMEOUT_SECONDS,
        over: () => isStopped || !keepAlive,
        asked() {
          sent += 1;
          counts = isServed;
        },
        judge(body) {
          const id = idOf(body);
          if (!ids.includes(id)) return `response from ${id}`;
          isServed = true;
          return undefined;
        },
        failed: (why) => void (counts && failed.push(why)),
      });
      await Bun.sleep(PAUSE);
    }
  };
  const clients = [
    ...Array.from({ length: KEEPALIVE_CLIENTS }, () => client(true)),
    ...Array.from({ length: NEW_CONNECTION_CLIENTS }, () => client(false)),
  ];
  return async () => {
    isStopped = true;
    await Promise.all(clients);
    return { failed, sent };
  };
}

function idOf(body: string): string {
  try {
    return String((JSON.parse(body) as { id: unknown }).id);
  } catch {
    return `not JSON: ${body.slice(0, 40)}`;
  }
}

function comparable(item: Item): unknown {
  const { status: _, metadata, ...rest } = structuredClone(item) as Item & { status?: unknown };
  const { managedFields: __, resourceVersion: ___, generation: ____, ...own } = metadata;
  delete own.annotations?.["deployment.kubernetes.io/revision"];
  return { ...rest, metadata: own };
}
