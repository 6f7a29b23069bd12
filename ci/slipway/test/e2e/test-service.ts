/**
 * A service of the campaign: a namespace and a NodePort of its own, with things in it that somebody made by hand, two versions
 * that are built once, and clients that ask all the time.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { converse } from "./clients.ts";
import { Copy } from "./copies.ts";
import { FaultyServer, realServer, type Fault, type Place } from "./faults.ts";
import { eventually } from "./setup.ts";

/** Connections that are kept, and clients that open one for each request. */
const KEPT = 64;
const FRESH = 16;
/** Milliseconds between a client's requests. */
const PAUSE = 200;
/** Seconds that a reply may take on a machine that has other things to do. */
const PATIENCE = 10;

/** Kinds that controllers make, and what a pipeline does not answer for. */
const controllers = new Set(["pods", "replicasets", "events", "endpoints", "endpointslices"]);

interface Item {
  kind?: string;
  metadata: {
    name: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
  } & Record<string, unknown>;
}

export type Objects = Record<string, unknown>;

export interface Ended {
  code: number;
  output: string;
  /** Names of all requests, in their order. */
  requests: string[];
  /** Whether the fault was met. */
  struck: boolean;
  /** Causes of failed requests of the clients. */
  failed: string[];
  /** Requests of the clients. */
  asked: number;
}

export class Lane {
  readonly copy: Copy;
  readonly server: FaultyServer;
  readonly ids: { a: string; b: string };
  readonly #kubeconfig: string;
  readonly #upstream = realServer();
  #collections: string[] | undefined;
  #round = 0;
  /** Not those of a run a minute ago. */
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
    // Checks and tests are not what is asked about.
    for (const script of ["check", "test", "test:unit"])
      copy.rewrite("package.json", `"${script}":`, `"no-${script}":`);
    copy.rewrite("ci/pipeline.ts", "attach: false,", "attach: false,\n  keepVersions: 2,");
    // A machine that has other things to do takes its time to answer the kubelet, and may have no room by its requests.
    copy.rewrite(
      "k8s/base/deployment.yaml",
      "failureThreshold: 2",
      "failureThreshold: 10\n            timeoutSeconds: 10",
    );
    copy.rewrite("k8s/base/deployment.yaml", "timeoutSeconds: 2", "timeoutSeconds: 30");
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

  /** Makes it one of the two versions, by default the other one, with other manifests than ever before. */
  version(version: "a" | "b" = this.#last === "a" ? "b" : "a", { crashes = false } = {}): "a" | "b" {
    const { copy } = this;
    this.#last = version;
    copy.restore();
    copy.state(`if (process.env.CAMPAIGN === "${version}") console.log("${version}");`);
    copy.rewrite("k8s/base/kustomization.yaml", "ROUND=0", `ROUND=${(this.#round += 1)}`);
    const env = "/spec/template/spec/containers/0/env/-";
    const value = { name: "PORT", value: "nonsense" };
    if (crashes) copy.patch([{ op: "add", path: env, value }]);
    return version;
  }

  /**
   * Runs the pipeline while clients ask.
   *
   * @param ids those that may answer
   * @param at where the API server fails; default: nowhere
   * @param killAfter milliseconds after which the pipeline is killed (SIGKILL); default: it is not
   */
  async run(
    args: string[],
    ids: string[],
    { at, killAfter }: { at?: Place & { fault: Fault }; killAfter?: number } = {},
  ): Promise<Ended> {
    this.server.arm(at);
    const clients = askAll(this.#nextUrl(), ids);
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
    const { failed, asked } = await clients();
    const { seen, struck } = this.server;
    return {
      code,
      output: stdout + stderr,
      requests: [...seen],
      struck: struck !== undefined,
      failed,
      asked,
    };
  }

  /**
   * Another address of this machine for each run. The kernel remembers for two minutes which pod a client's port was led to; on a
   * machine with many clients that port is somebody's again by then, and the pod may be gone.
   */
  #nextUrl(): string {
    this.#address += 1;
    return `http://127.${this.place.port % 256}.${(this.#address >> 8) % 256}.${this.#address % 256}:${this.place.port}/version`;
  }

  /** Who answers new connections. */
  async served(): Promise<string> {
    const url = this.#nextUrl();
    const init = { keepalive: false, headers: { Connection: "close" } };
    const answers = await Promise.all(
      Array.from({ length: 10 }, () =>
        fetch(url, init).then(
          async (reply) => ((await reply.json()) as { id: string }).id,
          (error: Error) => error.message,
        ),
      ),
    );
    return [...new Set(answers)].join(", ");
  }

  /** Makes the namespace, and what is nobody's but somebody's who has made it by hand. */
  async plant(): Promise<void> {
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

  /** Removes all but what was there then. */
  async reset(then: Objects): Promise<void> {
    const now = await this.objects();
    for (const path of Object.keys(now)) if (!(path in then)) await this.ask("DELETE", path);
    const own = `/api/v1/namespaces/${this.place.namespace}`;
    await this.ask("PUT", own, then[own]);
    const pods = `/api/v1/namespaces/${this.place.namespace}/pods`;
    await this.ask("DELETE", `${pods}?gracePeriodSeconds=0`);
    await eventually(
      async () => (await this.ask<{ items: [] }>("GET", pods)).items.length === 0 || undefined,
    );
    await this.#silent();
  }

  /** Until nobody answers: a pod that is deleted at once lives a little longer. */
  async #silent(): Promise<void> {
    await eventually(async () => {
      const answer = await this.served();
      return !Object.values(this.ids).some((id) => answer.includes(id)) || undefined;
    }, 120);
  }

  /** Removes the namespace, and waits until it is gone. */
  async remove(): Promise<void> {
    const { namespace } = this.place;
    const path = `/api/v1/namespaces/${namespace}`;
    await this.ask("DELETE", `${path}/pods?gracePeriodSeconds=0`).catch(() => {});
    await this.ask("DELETE", path).catch(() => {});
    const isGone = () => this.#upstream(path, {}).then(({ status }) => status === 404 || undefined);
    await eventually(isGone, 120);
    await this.#silent();
  }

  /** All objects of the namespace and itself, by their paths, without what counts up and what controllers make and say. */
  async objects(): Promise<Objects> {
    const all = Object.entries(await this.everything());
    const own = all.filter(([path]) => !controllers.has(path.split("/").at(-2)!));
    return Object.fromEntries(own.map(([path, item]) => [path, plain(item)]));
  }

  /** All objects of the namespace and itself, by their paths. */
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
    const { groups } = await this.ask<{ groups: { preferredVersion: { groupVersion: string } }[] }>(
      "GET",
      "/apis",
    );
    const bases = [
      "/api/v1",
      ...groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`),
    ];
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

  /** What a pod has said. */
  async logOf(pod: string): Promise<string> {
    const reply = await this.#upstream(`/api/v1/namespaces/${this.place.namespace}/pods/${pod}/log`, {});
    return reply.text();
  }

  /** The answer of the real server. */
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

  /** The same for every version and every pod. */
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

/** Asks with 80 clients. @returns ends them, and says what failed since the first good reply */
function askAll(url: string, ids: string[]): () => Promise<{ failed: string[]; asked: number }> {
  const failed: string[] = [];
  let [over, answered, asked] = [false, false, 0];
  const { host, pathname } = new URL(url);
  const client = async (kept: boolean) => {
    const request = `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\n${kept ? "" : "Connection: close\r\n"}\r\n`;
    while (!over) {
      // What was asked before anybody was answered may be refused a moment after.
      let counts = false;
      await converse(url, {
        request,
        pause: PAUSE,
        patience: PATIENCE,
        over: () => over || !kept,
        asked() {
          asked += 1;
          counts = answered;
        },
        judge(body) {
          const id = idOf(body);
          if (!ids.includes(id)) return `${id} answers`;
          answered = true;
          return undefined;
        },
        failed: (why) => void (counts && failed.push(why)),
      });
      await Bun.sleep(PAUSE);
    }
  };
  const clients = [
    ...Array.from({ length: KEPT }, () => client(true)),
    ...Array.from({ length: FRESH }, () => client(false)),
  ];
  return async () => {
    over = true;
    await Promise.all(clients);
    return { failed, asked };
  };
}

function idOf(body: string): string {
  try {
    return String((JSON.parse(body) as { id: unknown }).id);
  } catch {
    return `no JSON: ${body.slice(0, 40)}`;
  }
}

function plain(item: Item): unknown {
  const { status: _, metadata, ...rest } = structuredClone(item) as Item & { status?: unknown };
  const { managedFields: __, resourceVersion: ___, generation: ____, ...own } = metadata;
  delete own.annotations?.["deployment.kubernetes.io/revision"];
  return { ...rest, metadata: own };
}
