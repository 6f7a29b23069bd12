/** Objects and keys that pods name: refused at the plan if neither the manifests nor the cluster have them. */
import { expect, test } from "bun:test";
import { PipelineError } from "../core/errors.ts";
import { assertSuitable } from "../deploy/manifest-checks.ts";
import { openReferences } from "../deploy/reference-checks.ts";
import { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { readReferenced } from "../kubernetes/read-referenced.ts";
import { service } from "./helloapp-service.ts";

const object = (kind: string, name: string, more: object = {}, apiVersion = "v1") =>
  ({ apiVersion, kind, metadata: { name }, ...more }) as unknown as KubeObject;
const podOf = (pod: object, container: object = {}) => ({
  containers: [{ name: "helloapp", image: "helloapp", ...container }],
  ...pod,
});
const deployment = (pod: object, container: object = {}) =>
  object("Deployment", "helloapp", { spec: { template: { spec: podOf(pod, container) } } }, "apps/v1");
const env = (valueFrom: object) =>
  deployment(
    {},
    {
      env: [
        { name: "A", value: "1" },
        { name: "B", valueFrom },
      ],
    },
  );
const volume = (...volumes: object[]) => deployment({ volumes });
const live = (kind: string, name: string, data: Record<string, string> = {}) => object(kind, name, { data });

interface Cluster {
  objects?: KubeObject[];
  isImported?: boolean;
  hasNamespace?: boolean;
  forbidden?: string;
}

/** Checks manifests against a cluster. @returns the refusal, and the paths of the requests */
async function check(manifests: KubeObject[], cluster: Cluster = {}) {
  const { objects = [], isImported = false, hasNamespace = true, forbidden } = cluster;
  const requests: string[] = [];
  const api = new ApiClient(
    service,
    async (path) => {
      requests.push(path);
      const { pathname, searchParams } = new URL(path, "http://cluster");
      const [kind, name] = pathname.split("/").slice(-2) as [string, string];
      if (forbidden !== undefined && pathname.includes(forbidden)) return Response.json({}, { status: 403 });
      const of = (plural: string) =>
        objects.filter((one) => `${one.kind.toLowerCase()}s` === plural.replace(/ses$/, "ss"));
      const selected = searchParams.get("fieldSelector")?.replace("metadata.name=", "");
      if (selected !== undefined)
        return Response.json({ items: of(name).filter(({ metadata }) => metadata.name === selected) });
      const found = of(kind).find(({ metadata }) => metadata.name === name);
      return found ? Response.json(found) : Response.json({}, { status: 404 });
    },
    new AbortController().signal,
  );
  const findLive = await readReferenced(api, openReferences({ service, manifests, isImported }));
  let refusal: PipelineError | undefined;
  try {
    assertSuitable({
      service,
      overlay: "k8s",
      manifests,
      namespace: hasNamespace ? object("Namespace", "helloapp") : null,
      hasNamespace: () => false,
      findLive,
      isImported,
      wasVerified: true,
    });
  } catch (error) {
    refusal = error as PipelineError;
  }
  return { refusal, requests };
}

const podPath = "Deployment/helloapp spec.template.spec.";
const missing = "is neither in the manifests nor in the cluster";

test.each<[string, KubeObject, string, string]>([
  [
    "a Secret of a variable",
    env({ secretKeyRef: { name: "db", key: "url" } }),
    `${podPath}containers[0].env[1].valueFrom.secretKeyRef.name: Secret/db ${missing}`,
    "`bun ci/pipeline.ts kubectl -- create secret generic db --from-literal=url=…`",
  ],
  [
    "a ConfigMap of a variable",
    env({ configMapKeyRef: { name: "settings", key: "level" } }),
    `${podPath}containers[0].env[1].valueFrom.configMapKeyRef.name: ConfigMap/settings ${missing}`,
    "create configmap settings --from-literal=level=…`",
  ],
  [
    "a Secret of all variables, in an init container",
    deployment({ initContainers: [{ name: "i", image: "helloapp", envFrom: [{}, { secretRef: { name: "all" } }] }] }),
    `${podPath}initContainers[0].envFrom[1].secretRef.name: Secret/all ${missing}`,
    "create secret generic all --from-literal=KEY=…`",
  ],
  [
    "a ConfigMap of all variables",
    deployment({}, { envFrom: [{ configMapRef: { name: "all" } }] }),
    `${podPath}containers[0].envFrom[0].configMapRef.name: ConfigMap/all`,
    "create configmap all",
  ],
  [
    "a Secret in a volume",
    volume({ secret: { secretName: "tls", items: [{ key: "tls.crt" }, { key: "tls.key" }] } }),
    `${podPath}volumes[0].secret.secretName: Secret/tls`,
    "create secret generic tls --from-literal=tls.crt=… --from-literal=tls.key=…`",
  ],
  [
    "a ConfigMap in a projected volume",
    volume({}, { projected: { sources: [{}, { configMap: { name: "ca" } }] } }),
    `${podPath}volumes[1].projected.sources[1].configMap.name: ConfigMap/ca`,
    "create configmap ca",
  ],
  [
    "the credentials of a CSI volume",
    volume({ csi: { nodePublishSecretRef: { name: "vault" } } }),
    `${podPath}volumes[0].csi.nodePublishSecretRef.name: Secret/vault`,
    "create secret generic vault",
  ],
  [
    "a claim",
    volume({ persistentVolumeClaim: { claimName: "data" } }),
    `${podPath}volumes[0].persistentVolumeClaim.claimName: PersistentVolumeClaim/data`,
    "Add PersistentVolumeClaim/data to the manifests",
  ],
  [
    "a pull secret",
    deployment({ imagePullSecrets: [{ name: "ghcr" }] }),
    `${podPath}imagePullSecrets[0].name: Secret/ghcr`,
    "create secret docker-registry ghcr --docker-server=…",
  ],
  [
    "a service account",
    deployment({ serviceAccountName: "api" }),
    `${podPath}serviceAccountName: ServiceAccount/api`,
    "create serviceaccount api`",
  ],
  [
    "a service account by its old name",
    deployment({ serviceAccount: "api" }),
    "ServiceAccount/api",
    "serviceaccount api",
  ],
  [
    "a priority class",
    deployment({ priorityClassName: "high" }),
    `${podPath}priorityClassName: PriorityClass/high`,
    "create priorityclass high --value=1000`",
  ],
  [
    "a runtime class",
    deployment({ runtimeClassName: "gvisor" }),
    `${podPath}runtimeClassName: RuntimeClass/gvisor`,
    "Install its runtime",
  ],
])("%s that does not exist is refused", async (_, workload, problem, remedy) => {
  const { refusal } = await check([workload]);
  expect(refusal).toMatchObject({ kind: "project", code: "reference-missing" });
  expect(refusal!.message).toContain(problem);
  expect(refusal!.hint).toContain(remedy);
});

test("the pods of a CronJob, a Job and a StatefulSet are checked, each with its field", async () => {
  const template = { spec: podOf({ serviceAccountName: "x" }) };
  const workload = deployment({});
  const of = async (one: KubeObject) => (await check([workload, one])).refusal!.message;
  expect(await of(object("CronJob", "c", { spec: { jobTemplate: { spec: { template } } } }, "batch/v1"))).toContain(
    "CronJob/c spec.jobTemplate.spec.template.spec.serviceAccountName: ServiceAccount/x",
  );
  expect(await of(object("Job", "j", { spec: { template } }, "batch/v1"))).toContain(
    "Job/j spec.template.spec.serviceAccountName",
  );
  expect(await of(object("StatefulSet", "s", { spec: { template } }, "apps/v1"))).toContain("StatefulSet/s");
});

const secretEnv = env({ secretKeyRef: { name: "db", key: "url" } });
const sealed = (name: string, spec: object = {}) => object("SealedSecret", name, { spec }, "bitnami.com/v1alpha1");

test.each<[string, KubeObject[], Cluster]>([
  ["a Secret in the manifests", [secretEnv, object("Secret", "db", { stringData: { url: "x" } })], {}],
  ["a Secret in the cluster", [secretEnv], { objects: [live("Secret", "db", { url: "eA==" })] }],
  [
    "a Secret of the manifests whose value somebody else wrote",
    [secretEnv, object("Secret", "db")],
    { objects: [live("Secret", "db", { url: "eA==" })] },
  ],
  ["an optional reference", [env({ secretKeyRef: { name: "db", key: "url", optional: true } })], {}],
  ["an optional volume", [volume({ configMap: { name: "x", optional: true, items: [{ key: "k" }] } })], {}],
  ["an optional source", [deployment({}, { envFrom: [{ configMapRef: { name: "x", optional: true } }] })], {}],
  [
    "what each namespace has",
    [deployment({ serviceAccountName: "default", volumes: [{ configMap: { name: "kube-root-ca.crt" } }] })],
    {},
  ],
  ["a pull secret for an imported image", [deployment({ imagePullSecrets: [{ name: "ghcr" }] })], { isImported: true }],
  ["a sealed Secret", [secretEnv, sealed("db")], {}],
  ["an external Secret with a target", [secretEnv, sealed("x", { target: { name: "db" } })], {}],
  ["the Secret of a database operator", [env({ secretKeyRef: { name: "pg-app", key: "uri" } }), sealed("pg")], {}],
  [
    "an injected certificate",
    [
      volume({ configMap: { name: "ca", items: [{ key: "ca.crt" }] } }),
      {
        ...object("ConfigMap", "ca"),
        metadata: { name: "ca", labels: { "config.openshift.io/inject-trusted-cabundle": "true" } },
      },
    ],
    {},
  ],
  ["a class in the cluster", [deployment({ priorityClassName: "high" })], { objects: [live("PriorityClass", "high")] }],
  ["a Secret that the user may not list", [secretEnv], { forbidden: "/secrets" }],
  [
    "a claim that the user may not read",
    [volume({ persistentVolumeClaim: { claimName: "d" } })],
    { forbidden: "/persistent" },
  ],
])("%s is taken", async (_, manifests, cluster) => {
  expect((await check(manifests, cluster)).refusal).toBeUndefined();
});

test.each<[string, KubeObject[], KubeObject[], string, string]>([
  [
    "of a ConfigMap of the manifests",
    [env({ configMapKeyRef: { name: "c", key: "levle" } }), object("ConfigMap", "c", { data: { level: "1" } })],
    [],
    `${podPath}containers[0].env[1].valueFrom.configMapKeyRef.name: ConfigMap/c has no key levle`,
    "Add levle to ConfigMap/c in the manifests",
  ],
  [
    "of a generated Secret, in a volume",
    [
      volume({ secret: { secretName: "s", items: [{ key: "a" }, { key: "b" }] } }),
      object("Secret", "s", { data: { a: "" } }),
    ],
    [],
    "volumes[0].secret.secretName: Secret/s has no key b",
    "Add b to Secret/s",
  ],
  [
    "of a Secret in the cluster",
    [secretEnv],
    [live("Secret", "db", { password: "c2VjcmV0LXZhbHVl" })],
    "Secret/db has no key url",
    'patch secret/db -p \'{"stringData":{"url":"…"}}\'',
  ],
  [
    "of a ConfigMap in the cluster",
    [env({ configMapKeyRef: { name: "c", key: "k" } })],
    [live("ConfigMap", "c")],
    "ConfigMap/c has no key k",
    'patch configmap/c -p \'{"data":{"k":"…"}}\'',
  ],
])("a key %s that does not exist is refused, without a value", async (_, manifests, objects, problem, remedy) => {
  const { refusal } = await check(manifests, { objects });
  expect(refusal).toMatchObject({ kind: "project", code: "reference-missing" });
  expect(refusal!.message).toContain(problem);
  expect(refusal!.hint).toContain(remedy);
  expect(`${refusal!.message}${refusal!.hint}${refusal!.output}`).not.toContain("c2VjcmV0LXZhbHVl");
});

test("an object that several containers name is asked for once, by its name alone, and all its keys are named", async () => {
  const both = deployment(
    {},
    {
      env: ["a", "b"].map((key) => ({ name: key, valueFrom: { secretKeyRef: { name: "db", key } } })),
    },
  );
  const { refusal, requests } = await check([both]);
  expect(requests).toEqual(["/api/v1/namespaces/helloapp/secrets?fieldSelector=metadata.name%3Ddb"]);
  expect(refusal!.hint).toContain("create secret generic db --from-literal=a=… --from-literal=b=…`");
  expect(refusal!.message.match(/neither/g)).toHaveLength(1);
});

const createdBy = (kind: string, creator: string) => {
  const one = live(kind, "api", { k: "" });
  one.metadata.annotations = { "slipway/created-by": creator };
  return one;
};
test("an object that this deploy deletes does not count, one of another service does", async () => {
  const workload = deployment({ serviceAccountName: "api" });
  const { refusal } = await check([workload], { objects: [createdBy("ServiceAccount", "helloapp")] });
  expect(refusal!.message).toContain("serviceAccountName: this deploy deletes ServiceAccount/api");
  expect((await check([workload], { objects: [createdBy("ServiceAccount", "shop")] })).refusal).toBeUndefined();
  const secret = env({ secretKeyRef: { name: "api", key: "k" } });
  expect((await check([secret], { objects: [createdBy("Secret", "helloapp")] })).refusal).toBeUndefined();
});

test("before the first deploy, the command creates the namespace too", async () => {
  const { refusal } = await check([secretEnv, object("Namespace", "helloapp")], { hasNamespace: false });
  expect(refusal!.hint).toContain(
    "create namespace helloapp && bun ci/pipeline.ts kubectl -- create secret generic db",
  );
});
