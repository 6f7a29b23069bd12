/**
 * Deploys with the permissions of k8s/rbac/deployer.yaml only, against a cluster in memory that checks them as the API
 * server does. Each permission of the Role must be needed.
 */
import { beforeEach, expect, setSystemTime, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { CommandContext } from "../cli/context.ts";
import { readOptions } from "../cli/options.ts";
import { secretSteps } from "../cli/secrets-flow.ts";
import type { PipelineError } from "../core/errors.ts";
import { runSteps } from "../core/step-graph.ts";
import type { Engine } from "../engines/engine.ts";
import { planDeploy, type DeployContext } from "../deploy/plan.ts";
import { requiredRights } from "../deploy/required-rights.ts";
import { describeStatus, readStatus } from "../deploy/status-report.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { SecretChange } from "../kubernetes/secret-store.ts";
import { connectRegistryTarget } from "../targets/registry.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { deploy, rollback } from "./run-prepared-flow.ts";
import { root, service } from "./helloapp-service.ts";

interface Rule {
  apiGroups: string[];
  resources: string[];
  resourceNames?: string[];
  verbs: string[];
}

const readYaml = <T>(path: string) => Bun.YAML.parse(readFileSync(join(root, path), "utf8")) as T;
const base = "k8s/base/";
const overlay = readYaml<{ resources: string[] }>(`${base}kustomization.yaml`).resources.map((file) => {
  const object = readYaml<KubeObject>(base + file);
  if (object.kind !== "Namespace") object.metadata.namespace = service.namespace;
  return object;
});
const deployerObjects = readYaml<(KubeObject & { rules?: Rule[] })[]>("k8s/rbac/deployer.yaml");
const { rules } = deployerObjects.find(({ kind }) => kind === "Role") as { rules: Rule[] };

/** Names of the API's resources by kind, for the groups that FakeCluster does not know completely. */
const discovery: Record<string, Record<string, string>> = {
  "/api/v1": {
    Namespace: "namespaces",
    Secret: "secrets",
    Service: "services",
    ServiceAccount: "serviceaccounts",
  },
  "/apis/networking.k8s.io/v1": { NetworkPolicy: "networkpolicies" },
  "/apis/policy/v1": { PodDisruptionBudget: "poddisruptionbudgets" },
};

let cluster: FakeCluster;
let context: DeployContext;
let manifests: KubeObject[];
/** The rules that the API server grants. */
let granted = rules;
const denied = new Set<string>();
const used = new Set<string>();

/** Returns whether a rule allows the request. https://kubernetes.io/docs/reference/access-authn-authz/rbac/ */
function isAllowed(verb: string, group: string, resource: string, name: string | undefined): boolean {
  const matching = rules.filter(
    ({ apiGroups, resources, resourceNames, verbs }) =>
      apiGroups.includes(group) &&
      resources.includes(resource) &&
      verbs.includes(verb) &&
      (resourceNames === undefined || (name !== undefined && resourceNames.includes(name))),
  );
  for (const rule of matching) used.add(`${rules.indexOf(rule)} ${group} ${resource} ${verb}`);
  if (matching.length === 0) denied.add(`${verb} ${resource}.${group} ${name ?? ""}`);
  return matching.length > 0;
}

/** Checks a request as the API server does. An apply that creates its object also needs the verb `create`. */
function authorize(method: string, path: string): boolean {
  const [, group = "", rest = ""] = /^\/(?:api|apis\/([^/]+))\/v\d+\/(.*)$/.exec(path) ?? [];
  const parts = rest.split("/");
  // Only the namespace itself has a path of two parts.
  const [resource = "", name, subresource] = parts.length > 2 ? parts.slice(2) : parts;
  expect(parts[0] === "namespaces" && parts[1] === service.namespace, `${path} is in the namespace`).toBeTrue();
  const full = subresource ? `${resource}/${subresource}` : resource;
  const verbs: Record<string, string[]> = {
    GET: [name ? "get" : "list"],
    POST: ["create"],
    PUT: ["update"],
    PATCH: cluster.objects.has(path) ? ["patch"] : ["patch", "create"],
    DELETE: ["delete"],
  };
  return verbs[method]!.map((verb) => isAllowed(verb, group, full, name)).every(Boolean);
}

beforeEach(async () => {
  cluster = new FakeCluster();
  granted = rules;
  manifests = structuredClone(overlay);
  const namespace = structuredClone(manifests.find(({ kind }) => kind === "Namespace")!);
  namespace.metadata = { ...namespace.metadata, uid: "1", resourceVersion: "1" };
  cluster.objects.set(`/api/v1/namespaces/${service.namespace}`, namespace);
  cluster.intercept = (method, path) => {
    if (path === "/version") return Response.json({});
    // Allowed for all users by default (system:basic-user).
    if (path.endsWith("/selfsubjectrulesreviews"))
      return Response.json({ status: { resourceRules: granted, incomplete: false } });
    if (path in discovery) {
      const kinds = Object.entries(discovery[path]!);
      return Response.json({
        resources: kinds.map(([kind, name]) => ({ kind, name, namespaced: kind !== "Namespace" })),
      });
    }
    // Optional: without it, `status` shows no usage.
    if (path.startsWith("/apis/metrics.k8s.io/")) return Response.json({ message: "forbidden" }, { status: 403 });
    // Allowed for all users by default (system:discovery).
    if (/^\/apis\/[^/]+\/v\d+$/.test(path)) return undefined;
    if (!authorize(method, path)) {
      const message = `User "system:serviceaccount:helloapp:helloapp-deployer" cannot ${method} ${path}`;
      return Response.json({ message }, { status: 403 });
    }
    if (path.includes("/proxy/")) return Response.json({ id: cluster.served() });
    return undefined;
  };
  const signal = AbortSignal.timeout(60_000);
  const target = await connectRegistryTarget({
    service,
    context: "test",
    repository: "registry.example/helloapp",
    signal,
    connect: async () => cluster.api(signal),
  });
  target.find = async (id) => `registry.example/helloapp:${id}`;
  target.kustomize = async () => ({ code: 0, stdout: JSON.stringify(manifests), stderr: "" }) as never;
  context = {
    target,
    service: { ...service, rolloutTimeoutSeconds: 3 },
    signal,
    recordState: () => {},
    log: () => {},
    step: async (_, work) => (await work(() => {})).value,
  };
});

const deployVersion = async (id: string) => deploy(context, await planDeploy(context, id), "x.tar");

/** Changes every object of the overlay. */
function changeManifests(value: string): void {
  for (const { metadata } of manifests) metadata.labels = { ...metadata.labels, test: value };
}

/** Removes all objects except the namespace and the workload. Without a Service, the version is read elsewhere. */
function keepWorkloadOnly(): void {
  manifests = manifests.filter(({ kind }) => ["Namespace", "Deployment"].includes(kind));
  for (const { spec } of manifests.flatMap(podTemplates))
    delete (spec as { serviceAccountName?: string }).serviceAccountName;
  const { endpoint } = context.target;
  context.target.endpoint = (rendered) =>
    rendered.some(({ kind }) => kind === "Service")
      ? endpoint(rendered)
      : { url: "http://service", open: async () => Response.json({ id: cluster.served() }) };
}

test("deploy, update, prune, status and rollback need no other permissions", async () => {
  await deployVersion("a");
  changeManifests("2");
  await deployVersion("b");
  keepWorkloadOnly();
  await deployVersion("c");
  expect(cluster.objects.has(`/api/v1/namespaces/${service.namespace}/services/helloapp`)).toBeFalse();
  expect(describeStatus(await readStatus(context)).join("\n")).toContain("helloapp:c is rolled out");
  manifests = structuredClone(overlay);
  expect(await rollback(context)).toBe("b");
  expect([...denied]).toEqual([]);
});

test("the automatic rollback after a failed rollout needs no other permissions", async () => {
  await deployVersion("a");
  changeManifests("2");
  cluster.container = (image) =>
    image.endsWith(":b") ? { restartCount: 1, state: { terminated: { exitCode: 7 } } } : {};
  await expect(deployVersion("b")).rejects.toThrow(/helloapp:a/);
  expect(cluster.served()).toBe("a");
  expect([...denied]).toEqual([]);
});

test("undoing a first deploy that cannot be observed needs no other permissions", async () => {
  const { intercept } = cluster;
  cluster.intercept = (method, path) => {
    const isApplied = cluster.changes.some((change) => change.includes("/deployments/"));
    if (isApplied && path.endsWith("/replicasets")) return Response.json({ message: "down" }, { status: 503 });
    return intercept(method, path);
  };
  await expect(deployVersion("a")).rejects.toThrow("down");
  expect([...cluster.objects.keys()].some((path) => path.includes("/deployments/"))).toBeFalse();
  expect([...denied]).toEqual([]);
});

test("renewing the deploy lock needs no other permissions", async () => {
  const { step } = context;
  context.step = async (name, work) => {
    // The clock of a machine that was suspended. The lock is renewed before the next write.
    if (name === "rollout") setSystemTime(new Date(Date.now() + 3600_000));
    return step(name, work);
  };
  try {
    await deployVersion("a");
  } finally {
    setSystemTime();
  }
  expect([...denied]).toEqual([]);
});

test("undoing an apply that fails at the last object needs no other permissions", async () => {
  keepWorkloadOnly();
  await deployVersion("a");
  manifests = structuredClone(overlay);
  const { intercept } = cluster;
  let isFailing = false;
  cluster.intercept = (method, path) => {
    const isWorkload = path.includes("/deployments/");
    isFailing ||= isWorkload && method === "PATCH" && cluster.changes.some((one) => one.includes("/policy/"));
    if (isFailing && isWorkload && method === "PATCH")
      return Response.json({ message: "denied by a webhook" }, { status: 403 });
    return intercept(method, path);
  };
  await expect(deployVersion("b")).rejects.toThrow();
  expect([...cluster.objects.keys()].some((path) => path.includes("/poddisruptionbudgets/"))).toBeFalse();
  expect([...denied]).toEqual([]);
});

test("secrets set, its undo, unset and a deploy with secrets need no other permissions", async () => {
  context.service = { ...context.service, secrets: [{ name: "A" }] };
  const change = (values: Record<string, string>, removed: string[] = []) => {
    const encoded = Object.entries(values).map(([name, value]) => [name, Buffer.from(value)] as const);
    const options = readOptions({}, [], service, {});
    const command = new CommandContext({ ...context, options, engine: {} as Engine });
    return runSteps(secretSteps(command, new SecretChange(encoded, removed), true), {
      signal: context.signal,
      report: context.step,
      choose: ([first]: unknown[]) => first,
      goals: ["complete", "verify"],
      given: { connect: context },
    });
  };
  await change({ A: "1", OLD: "2" });
  await deployVersion("a");
  expect((await change({ A: "2" })).prepare).toBeDefined();
  await change({}, ["OLD"]);
  cluster.container = () => ({ restartCount: 1, state: { terminated: { exitCode: 7 } } });
  await expect(change({ A: "bad" })).rejects.toThrow();
  expect([...denied]).toEqual([]);
});

test("each permission of the Role is needed", () => {
  const permissions = rules.flatMap(({ apiGroups, resources, verbs }, i) =>
    apiGroups.flatMap((group) =>
      resources.flatMap((resource) => verbs.map((verb) => `${i} ${group} ${resource} ${verb}`)),
    ),
  );
  expect(permissions.filter((permission) => !used.has(permission))).toEqual([]);
});

const removals = rules.flatMap(({ resources, verbs }, i) =>
  resources.flatMap((resource) => verbs.map((verb) => [verb, resource, i] as const)),
);

test.each(removals)(
  "without the right to %s %s (rule %d), nothing is written and the right is named",
  async (...at) => {
    const [verb, resource, index] = at;
    granted = rules.flatMap((rule, i) => {
      if (i !== index) return [rule];
      const others = rule.resources.filter((one) => one !== resource);
      const rest = { ...rule, resources: [resource], verbs: rule.verbs.filter((one) => one !== verb) };
      return [{ ...rule, resources: others }, rest];
    });
    const error = (await deployVersion("a").catch((failure: unknown) => failure)) as PipelineError;
    expect(error).toMatchObject({ kind: "environment", code: "rights-missing" });
    expect(error.message).toContain(`lacks 1 right in helloapp: ${resource} (${verb})`);
    expect(error.output).toContain(`resources: [${resource}], verbs: [${verb}]`);
    expect(cluster.changes).toEqual([]);
  },
);

test("all missing rights are named at once", async () => {
  granted = rules.filter(
    ({ resources }) => !resources.some((one) => ["secrets", "deployments", "events"].includes(one)),
  );
  const error = (await deployVersion("a").catch((failure: unknown) => failure)) as PipelineError;
  for (const resource of ["secrets", "deployments", "events"]) expect(error.message).toContain(`${resource} (`);
  expect(Bun.YAML.parse(error.output!)).toMatchObject({ kind: "Role", metadata: { namespace: "helloapp" } });
  expect(cluster.changes).toEqual([]);
});

test("an ordered StatefulSet also needs the right to delete pods, a parallel one does not", async () => {
  const statefulSet = (podManagementPolicy?: string) => [
    { apiVersion: "apps/v1", kind: "StatefulSet", metadata: { name: "db" }, spec: { podManagementPolicy } } as never,
  ];
  const verbs = async (policy?: string) =>
    (await requiredRights(context.target.api, statefulSet(policy), undefined))
      .filter(({ resource }) => resource === "pods")
      .map(({ verb }) => verb);
  expect(await verbs()).toEqual(["get", "list", "delete"]);
  expect(await verbs("Parallel")).toEqual(["get", "list"]);
});

test("without a Service, pods/proxy is asked for", async () => {
  const proxied = `/api/v1/namespaces/${service.namespace}/pods/*:3000/proxy/version`;
  const rights = await requiredRights(context.target.api, [], proxied);
  expect(rights).toContainEqual({ verb: "get", group: "", resource: "pods/proxy", name: undefined });
});

test("a rollback names missing rights before it changes an object", async () => {
  await deployVersion("a");
  changeManifests("2");
  await deployVersion("b");
  const before = cluster.changes.length;
  granted = rules.filter(({ resources }) => !resources.includes("deployments"));
  const error = (await rollback(context).catch((failure: unknown) => failure)) as PipelineError;
  expect(error).toMatchObject({ kind: "environment", code: "rights-missing" });
  expect(cluster.changes.slice(before).filter((change) => !change.includes("/leases"))).toEqual([]);
});
