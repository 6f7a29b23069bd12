/**
 * An in-memory cluster for deploys: objects with resource versions, server-side apply, dry runs, preconditions, and
 * Deployments whose pods become ready or fail. test/e2e/cluster.test.ts runs the same deploys against a real cluster.
 */
import { ApiClient } from "../kubernetes/api.ts";
import type { ContainerStatus, Deployment, KubeObject, Pod, ReplicaSet } from "../kubernetes/objects.ts";
import { revisionOf } from "../kubernetes/workload-state.ts";
import { service } from "./helloapp-service.ts";

const kinds: Record<string, Record<string, string>> = {
  "/api/v1": {
    Namespace: "namespaces",
    Pod: "pods",
    ConfigMap: "configmaps",
    Secret: "secrets",
    PersistentVolumeClaim: "persistentvolumeclaims",
    ServiceAccount: "serviceaccounts",
    Service: "services",
    Event: "events",
  },
  "/apis/apps/v1": { Deployment: "deployments", ReplicaSet: "replicasets" },
  "/apis/autoscaling/v2": { HorizontalPodAutoscaler: "horizontalpodautoscalers" },
  "/apis/batch/v1": { Job: "jobs" },
  "/apis/coordination.k8s.io/v1": { Lease: "leases" },
};

export class FakeCluster {
  readonly objects = new Map<string, KubeObject>();
  /** Every write request, `PATCH /apis/…`. */
  readonly changes: string[] = [];
  /** Container state in pods of an image. Default: running and ready. */
  container: (image: string) => Partial<ContainerStatus> = () => ({});
  /** Called before each request. May throw like a connection, or return a response instead of the cluster's. */
  intercept: (method: string, path: string) => Response | undefined = () => undefined;
  #version = 0;

  api(signal: AbortSignal = new AbortController().signal): ApiClient {
    const api = new ApiClient(service, async (path, init) => this.#respond(path, init), signal);
    // Short, because test failures are either permanent or gone at the next attempt.
    api.retryBudgetSeconds = 0.5;
    return api;
  }

  get<T extends KubeObject>(path: string): T {
    return this.objects.get(path) as T;
  }

  /** Returns the version that the Service would serve: that of the current revision's pods. */
  served(): string {
    const ready = this.#of<Pod>("/pods/").filter(({ status }) => status.containerStatuses?.[0]?.ready);
    return ready.at(-1)?.metadata.labels?.["app.kubernetes.io/version"] ?? "nothing";
  }

  #of<T extends KubeObject>(part: string): T[] {
    return [...this.objects].filter(([path]) => path.includes(part)).map(([, object]) => object as T);
  }

  #respond(target: string, init: RequestInit): Response {
    const { method = "GET" } = init;
    const { pathname: path, searchParams } = new URL(target, "http://cluster");
    const intercepted = this.intercept(method, path);
    if (intercepted) return intercepted;
    if (path.endsWith("/selfsubjectrulesreviews"))
      return Response.json({ status: { resourceRules: [{ verbs: ["*"], apiGroups: ["*"], resources: ["*"] }] } });
    const body = init.body ? JSON.parse(init.body as string) : undefined;
    // A metrics-server is installed.
    if (path === "/apis/metrics.k8s.io") return Response.json({ kind: "APIGroup" });
    const resources = kinds[path];
    if (resources) {
      const list = Object.entries(resources).map(([kind, name]) => ({
        kind,
        name,
        namespaced: kind !== "Namespace",
      }));
      return Response.json({ resources: list });
    }
    const found = this.objects.get(path);
    const conflict = (message: string) => Response.json({ message }, { status: 409 });
    const missing = () => Response.json({ message: `${path} not found` }, { status: 404 });
    const dryRun = searchParams.has("dryRun");
    const namespace = /^(.*\/namespaces\/[^/]+)\/[^/]+/.exec(path)?.[1];
    const inMissingNamespace = () =>
      namespace && !this.objects.has(namespace.replace(/^\/apis\/[^/]+\/[^/]+/, "/api/v1"));
    if (method !== "GET" && !dryRun) this.changes.push(`${method} ${path}`);
    switch (method) {
      case "GET": {
        if (found) return Response.json(found);
        if (
          !/\/(pods|replicasets|services|persistentvolumeclaims|secrets|configmaps|events|nodes|horizontalpodautoscalers|storageclasses|persistentvolumes)$/.test(
            path,
          )
        )
          return missing();
        const selector = (searchParams.get("labelSelector") ?? "").split(",").filter(Boolean);
        const collection = path.replace(/.*\//, "/");
        const type = /^type=(.*)$/.exec(searchParams.get("fieldSelector") ?? "")?.[1];
        const named = /^metadata\.name=(.*)$/.exec(searchParams.get("fieldSelector") ?? "")?.[1];
        const items = this.#of<KubeObject>(`${collection}/`).filter(({ metadata }) =>
          selector.every((term) => metadata.labels?.[term.split("=")[0]!] === term.split("=")[1]),
        );
        const typed = items.filter(
          (item) =>
            (type === undefined || (item as { type?: string }).type === type) &&
            (named === undefined || item.metadata.name === named),
        );
        return Response.json({ items: typed });
      }
      case "POST": {
        if (inMissingNamespace()) return missing();
        const created = `${path}/${body.metadata.name}`;
        if (this.objects.has(created)) return conflict("already exists");
        return Response.json(this.#store(created, body));
      }
      case "PUT":
        if (!found) return missing();
        if (body.metadata.resourceVersion !== found.metadata.resourceVersion) return conflict("was modified");
        return Response.json(this.#store(path, body));
      case "PATCH": {
        if (inMissingNamespace()) return missing();
        const manager = searchParams.get("fieldManager") ?? "";
        if (path.endsWith("-slipway-secrets")) {
          const applied = Array.isArray(body) ? patchSecret(found!, body) : applySecret(found, body, manager);
          return Response.json(this.#store(path, applied));
        }
        // Field ownership is not implemented for other objects.
        if (Array.isArray(body)) return Response.json(found);
        const { "Content-Type": type } = (init.headers ?? {}) as Record<string, string>;
        if (type === "application/merge-patch+json")
          return found ? Response.json(this.#store(path, mergePatch(found, body) as KubeObject)) : missing();
        if (manager.endsWith("-secrets")) return Response.json(this.#store(path, mergeDeeply(found!, body)));
        const merged = { ...found, ...body, metadata: { ...found?.metadata, ...body.metadata } };
        if (body.spec?.replicas < 0) return Response.json({ message: "replicas: Invalid value" }, { status: 422 });
        return Response.json(dryRun ? merged : this.#store(path, merged));
      }
      case "DELETE": {
        if (path.endsWith("/")) {
          // A real server would delete the collection.
          for (const one of this.objects.keys()) if (one.startsWith(path)) this.objects.delete(one);
          return Response.json({});
        }
        if (!found) return missing();
        const { uid, resourceVersion } = body?.preconditions ?? {};
        if (uid && uid !== found.metadata.uid) return conflict("uid");
        if (resourceVersion && resourceVersion !== found.metadata.resourceVersion) return conflict("version");
        this.objects.delete(path);
        return Response.json({});
      }
    }
    return new Response("", { status: 405 });
  }

  #store(path: string, object: KubeObject): KubeObject {
    const before = this.objects.get(path);
    const { resourceVersion: _, ...own } = { ...before?.metadata, resourceVersion: "" };
    // An apply without changes keeps the resource version.
    const { resourceVersion: __, ...metadata } = { resourceVersion: "", ...object.metadata };
    const unchanged = before && Bun.deepEquals({ ...before, metadata: own }, { ...object, metadata });
    if (unchanged) return before;
    const stored = structuredClone(object);
    stored.metadata.uid ??= crypto.randomUUID();
    stored.metadata.resourceVersion = String(++this.#version);
    this.objects.set(path, stored);
    if (path.includes("/deployments/")) this.#roll(path, stored as Deployment);
    return stored;
  }

  /** Does the controllers' work at once: creates a ReplicaSet per template and its pods, and deletes the old pods. */
  #roll(path: string, deployment: Deployment): void {
    const { template, replicas } = deployment.spec;
    const image = template.spec.containers[0]!.image;
    const base = path.replace(/\/deployments\/.*/, "");
    const sets = this.#of<ReplicaSet>("/replicasets/");
    const next = String(Math.max(0, ...sets.map(revisionOf)) + 1);
    let own = sets.find((set) => Bun.deepEquals(set.spec.template, template));
    own ??= {
      apiVersion: "apps/v1",
      kind: "ReplicaSet",
      metadata: {
        name: `app-${next}`,
        labels: { "app.kubernetes.io/name": "helloapp" },
        ownerReferences: [{ kind: "Deployment", name: deployment.metadata.name }],
      },
      spec: { replicas, template },
      status: {},
    };
    const revision = { "deployment.kubernetes.io/revision": next };
    own.metadata.annotations = revision;
    const annotations = { ...deployment.metadata.annotations, ...revision };
    this.objects.set(`${base}/replicasets/${own.metadata.name}`, own);
    const state = this.container(image);
    const ready = state.ready ?? Object.keys(state).length === 0;
    const pods = base.replace("/apis/apps/v1", "/api/v1");
    for (const pod of this.#of<Pod>("/pods/")) {
      if (ready || pod.metadata.ownerReferences?.[0]?.name === own.metadata.name) {
        this.objects.delete(`${pods}/pods/${pod.metadata.name}`);
      }
    }
    for (let i = 0; i < replicas; i += 1) {
      const name = `${own.metadata.name}-${i}`;
      this.objects.set(`${pods}/pods/${name}`, {
        apiVersion: "v1",
        kind: "Pod",
        metadata: {
          name,
          labels: { "app.kubernetes.io/name": "helloapp", ...template.metadata?.labels },
          ownerReferences: [{ kind: "ReplicaSet", name: own.metadata.name }],
        },
        spec: template.spec,
        status: {
          conditions: [
            { type: "PodScheduled", status: "True" },
            { type: "Ready", status: ready ? "True" : "False" },
          ],
          containerStatuses: [{ name: "helloapp", ready, restartCount: 0, state: { running: {} }, ...state }],
        },
      } as Pod);
    }
    const generation = (deployment.metadata.generation ?? 0) + 1;
    deployment.metadata = { ...deployment.metadata, generation, annotations };
    const up = ready ? replicas : 0;
    deployment.status = {
      observedGeneration: generation,
      replicas: ready ? replicas : replicas * 2,
      updatedReplicas: replicas,
      availableReplicas: up,
    };
  }
}

/** https://www.rfc-editor.org/rfc/rfc7396 without the removal of fields. */
function mergePatch(target: unknown, patch: unknown): unknown {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const merged: Record<string, unknown> = { ...(target as Record<string, unknown> | undefined) };
  for (const [key, value] of Object.entries(patch)) merged[key] = mergePatch(merged[key], value);
  return merged;
}

type FakeSecret = KubeObject & { data?: Record<string, string> };

/** Server-side apply of a Secret: each manager owns the keys that it has applied. */
function applySecret(found: FakeSecret | undefined, body: FakeSecret, manager: string): FakeSecret {
  const data = { ...found?.data };
  const entries = structuredClone(found?.metadata.managedFields ?? []) as { manager: string; keys: string[] }[];
  const own = entries.find((entry) => entry.manager === manager);
  const keys = Object.keys(body.data ?? {});
  for (const key of own?.keys ?? []) if (!keys.includes(key)) delete data[key];
  for (const entry of entries) entry.keys = entry.keys.filter((key) => !keys.includes(key));
  const isSame = own && keys.every((key) => data[key] === body.data![key]);
  const time = isSame ? (own as { time?: string }).time : new Date().toISOString();
  const managedFields = [...entries.filter((entry) => entry !== own), { manager, keys, time }];
  const metadata = { ...found?.metadata, ...body.metadata, managedFields } as FakeSecret["metadata"];
  return { ...found, ...body, metadata, data: { ...data, ...body.data } };
}

/** JSON patch of a Secret's values and owners. */
function patchSecret(found: FakeSecret, operations: { op: string; path: string; value?: unknown }[]): FakeSecret {
  const patched = structuredClone(found) as FakeSecret & { data: Record<string, unknown> };
  for (const { op, path, value } of operations) {
    const [, key] = /^\/data\/(.+)$/.exec(path) ?? [];
    if (key === undefined) patched.metadata.managedFields = value as [];
    else if (op === "remove") delete patched.data[key];
    else patched.data[key] = value as string;
  }
  return patched;
}

function mergeDeeply<T extends object>(into: T, from: object): T {
  const merged = { ...into } as Record<string, unknown>;
  for (const [key, value] of Object.entries(from)) {
    const old = merged[key];
    const isNested = [old, value].every((one) => typeof one === "object" && one !== null && !Array.isArray(one));
    merged[key] = isNested ? mergeDeeply(old as object, value as object) : value;
  }
  return merged as T;
}
