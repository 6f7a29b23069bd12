/** `destroy` over an in-memory cluster: what it lists, deletes, leaves and continues. */
import { beforeEach, expect, test } from "bun:test";
import type { PipelineError } from "../core/errors.ts";
import { planDeploy, type DeployContext } from "../deploy/plan.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { assertDeletable, deleteInventory, describeInventory, takeInventory } from "../operations/destroy.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";
import { contextWith, deploy } from "./run-prepared-flow.ts";

const { namespace } = service;
const labels = { "app.kubernetes.io/name": "helloapp" };
const metadata = { name: "helloapp", namespace };
const template = { metadata: { labels }, spec: { containers: [{ name: "helloapp", image: "helloapp" }] } };
const manifests: KubeObject[] = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } },
  { apiVersion: "v1", kind: "ConfigMap", metadata: { ...metadata, name: "settings" } },
  { apiVersion: "v1", kind: "ConfigMap", metadata: { ...metadata, name: "shared" } },
  { apiVersion: "v1", kind: "Service", metadata, spec: { ports: [{ port: 80 }] } } as KubeObject,
  { apiVersion: "apps/v1", kind: "Deployment", metadata, spec: { replicas: 2, template } } as KubeObject,
];
const at = (path: string, group = "/api/v1") => `${group}/namespaces/${namespace}/${path}`;
const everything = { hasVolumes: false, hasNamespace: false };

let cluster: FakeCluster;
let run: DeployContext;
let images: Set<string>;
let states: string[];

beforeEach(async () => {
  cluster = new FakeCluster();
  images = new Set();
  states = [];
  process.env.MANIFESTS = JSON.stringify(manifests);
  run = contextWith(cluster);
  run.recordState = (text) => void states.push(text);
  run.target.clean = async (kept) => {
    const keep = await kept();
    const removed = [...images].filter((name) => !keep.has(name));
    for (const name of removed) images.delete(name);
    return removed;
  };
  // Made by others before the first deploy.
  cluster.objects.set(`/api/v1/namespaces/${namespace}`, manifests[0]!);
  cluster.objects.set(at("configmaps/shared"), structuredClone(manifests[2]!));
  for (const id of ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]) await deploy(run, await planDeploy(run, id), "x.tar");
  images = new Set(["helloapp:aaaaaaaaaaaa", "helloapp:bbbbbbbbbbbb"]);
  const claim = { ...metadata, name: "data", labels };
  const spec = { resources: { requests: { storage: "5Gi" } } };
  cluster.objects.set(at("persistentvolumeclaims/data"), {
    kind: "PersistentVolumeClaim",
    metadata: claim,
    spec,
  } as never);
  // The controllers delete the pods of a deleted Deployment.
  cluster.intercept = (method, path) => {
    if (method === "DELETE" && path.endsWith("/deployments/helloapp"))
      for (const key of cluster.objects.keys()) if (/\/(pods|replicasets)\//.test(key)) cluster.objects.delete(key);
    return undefined;
  };
});

const left = () => [...cluster.objects.keys()].filter((path) => !path.includes("/leases/")).toSorted();
const failureOf = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

test("lists what it deletes and what stays, and changes nothing by it", async () => {
  const before = left();
  const lines = describeInventory(await takeInventory(run), everything, namespace);
  const text = lines.join("\n");
  const [deleted, stays] = text.split("this stays:") as [string, string];
  for (const name of ["Deployment/helloapp", "Service/helloapp", "ConfigMap/settings", "stored version aaaaaaaaaaaa"])
    expect(deleted).toContain(name);
  expect(deleted).toContain("helloapp:bbbbbbbbbbbb  image on the nodes");
  for (const name of ["PersistentVolumeClaim/data  5Gi", `Namespace/${namespace}`, "ConfigMap/shared  made by others"])
    expect(stays).toContain(name);
  expect(left()).toEqual(before);
  expect(images.size).toBe(2);
});

test("deletes what slipway made, and leaves claims, the namespace and what others made", async () => {
  await deleteInventory(run, await takeInventory(run), everything);
  expect(left()).toEqual([
    ...[`/api/v1/namespaces/${namespace}`, at("configmaps/shared"), at("persistentvolumeclaims/data")].toSorted(),
  ]);
  expect(images.size).toBe(0);
  const inventory = await takeInventory(run);
  expect(describeInventory(inventory, everything, namespace)).toEqual([]);
});

test("--volumes deletes the claims, and an image that another namespace uses stays", async () => {
  const other = { name: "p", namespace: "staging" };
  const pod = { metadata: other, spec: { containers: [{ name: "x", image: "helloapp:aaaaaaaaaaaa" }] }, status: {} };
  const { intercept } = cluster;
  cluster.intercept = (method, path) =>
    path === "/api/v1/pods" ? Response.json({ items: [pod] }) : intercept(method, path);
  await deleteInventory(run, await takeInventory(run), { hasVolumes: true, hasNamespace: false });
  expect(left()).not.toContain(at("persistentvolumeclaims/data"));
  expect([...images]).toEqual(["helloapp:aaaaaaaaaaaa"]);
});

test("a failure at each deletion is partial, and the same command continues", async () => {
  const { intercept } = cluster;
  const inventory = await takeInventory(run);
  let deletions = 0;
  cluster.intercept = (method, path) => {
    if (method === "DELETE") deletions += 1;
    return method === "DELETE" && deletions === 3
      ? Response.json({ message: "forbidden by a webhook" }, { status: 403 })
      : intercept(method, path);
  };
  const error = await failureOf(deleteInventory(run, inventory, everything));
  expect(error).toMatchObject({ kind: "partial" });
  expect(error.hint).toContain("Run the same command again");
  expect(states.at(-1)).toContain("same command");
  cluster.intercept = intercept;
  await deleteInventory(run, await takeInventory(run), everything);
  expect(left().filter((path) => /deployments|secrets|services/.test(path))).toEqual([]);
});

test("an interruption between two deletions stops, and the history that a repetition needs stays", async () => {
  const inventory = await takeInventory(run);
  const interrupted = new AbortController();
  const { intercept } = cluster;
  cluster.intercept = (method, path) => {
    if (method === "DELETE" && path.includes("/services/")) interrupted.abort(new Error("stop"));
    return intercept(method, path);
  };
  const context = { ...run, signal: interrupted.signal };
  expect((await failureOf(deleteInventory(context, inventory, everything))).message).toBe("stop");
  expect(left().filter((path) => path.includes("/secrets/"))).toHaveLength(2);
});

test("the objects of another project are refused, and missing rights are named before a deletion", async () => {
  const inventory = await takeInventory(run);
  const rules = [{ verbs: ["get", "list"], apiGroups: ["*"], resources: ["*"] }];
  const { intercept } = cluster;
  cluster.intercept = (method, path) =>
    path.endsWith("/selfsubjectrulesreviews")
      ? Response.json({ status: { resourceRules: rules } })
      : intercept(method, path);
  const error = await failureOf(assertDeletable(run, inventory, { hasVolumes: true, hasNamespace: true }));
  expect(error).toMatchObject({ kind: "environment", code: "rights-missing" });
  for (const right of [
    "deployments (delete)",
    "secrets (delete)",
    "persistentvolumeclaims (delete)",
    "namespaces (delete)",
  ])
    expect(error.message).toContain(right);
  cluster.intercept = intercept;
  cluster.get(at("deployments/helloapp", "/apis/apps/v1")).metadata.annotations = { "slipway/project": "other" };
  expect(await failureOf(takeInventory(run))).toMatchObject({ code: "project-differs" });
});
