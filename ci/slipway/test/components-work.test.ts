/** Objects that need a part of the cluster: refused at the plan if it is not there. */
import { expect, test } from "bun:test";
import { assertComponentsWork } from "../deploy/checks-components.ts";
import { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { service } from "./helloapp-service.ts";

const isDefault = { "ingressclass.kubernetes.io/is-default-class": "true" };
const object = (kind: string, spec: object, metadata: object = {}) =>
  ({ apiVersion: "x/v1", kind, metadata: { name: "shop", ...metadata }, spec }) as unknown as KubeObject;
const ingress = (name?: string) => object("Ingress", name === undefined ? {} : { ingressClassName: name });
const scaler = (...types: string[]) =>
  object("HorizontalPodAutoscaler", types.length > 0 ? { metrics: types.map((type) => ({ type })) } : {});

function check(manifests: KubeObject[], available: string[], classes: object[] = [], status = 404): Promise<void> {
  const api = new ApiClient(
    service,
    async (path) => {
      if (path.endsWith("/ingressclasses") && status !== 403) return Response.json({ items: classes });
      return available.includes(path) ? Response.json({}) : Response.json({}, { status });
    },
    new AbortController().signal,
  );
  return assertComponentsWork(api, manifests);
}

const metrics = "/apis/metrics.k8s.io";
const traefik = { metadata: { name: "traefik" } };

test.each<[string, KubeObject, string[], object[], string]>([
  ["an Ingress without a controller", ingress("traefik"), [], [], "no IngressClass traefik (it has none)"],
  ["an Ingress of another class", ingress("nginx"), [], [traefik], "no IngressClass nginx (it has traefik)"],
  ["an Ingress without a class and a default", ingress(), [], [traefik], "no default IngressClass"],
  ["an autoscaler", scaler("Resource"), [], [], "no metrics.k8s.io"],
  ["an autoscaler without metrics", scaler(), [], [], "no metrics.k8s.io"],
  ["an autoscaler of custom metrics", scaler("Pods"), [metrics], [], "no custom.metrics.k8s.io"],
  ["an autoscaler of two metrics", scaler("Resource", "External"), [metrics], [], "no external.metrics.k8s.io"],
])("%s is refused", async (_, found, available, classes, reason) => {
  const error = await check([found], available, classes).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ kind: "project", code: "component-missing" });
  expect((error as Error).message).toContain(reason);
});

test.each<[string, KubeObject[], string[], object[]]>([
  ["an Ingress of a class that exists", [ingress("traefik")], [], [traefik]],
  ["an Ingress of the default class", [ingress()], [], [{ metadata: { name: "x", annotations: isDefault } }]],
  ["an Ingress of a class in the manifests", [ingress("shop"), object("IngressClass", {})], [], []],
  ["an autoscaler with metrics-server", [scaler("Resource", "ContainerResource")], [metrics], []],
  ["other objects", [object("Service", {})], [], []],
])("%s is permitted", async (_, manifests, available, classes) => {
  expect(await check(manifests, available, classes)).toBeUndefined();
});

test("without the right to read, nothing is refused", async () => {
  expect(await check([ingress("traefik"), scaler("Resource")], [], [], 403)).toBeUndefined();
});

const local = {
  metadata: { name: "local-path", annotations: { "storageclass.kubernetes.io/is-default-class": "true" } },
};
const claim = (storageClassName?: string, more: object = {}) =>
  object("PersistentVolumeClaim", { ...(storageClassName !== undefined && { storageClassName }), ...more });
const statefulSet = (storageClassName?: string) =>
  object("StatefulSet", { volumeClaimTemplates: [{ metadata: { name: "data" }, spec: { storageClassName } }] });

function checkStorage(manifests: KubeObject[], classes: object[], volumes: object[] = [], status = 200): Promise<void> {
  const api = new ApiClient(
    service,
    async (path) => Response.json({ items: path.includes("storageclasses") ? classes : volumes }, { status }),
    new AbortController().signal,
  );
  return assertComponentsWork(api, manifests);
}

test.each<[string, KubeObject, object[], string]>([
  ["of a cloud's class", claim("do-block-storage"), [local], "PersistentVolumeClaim/shop spec.storageClassName"],
  [
    "of a StatefulSet",
    statefulSet("gp2"),
    [local],
    "StatefulSet/shop spec.volumeClaimTemplates[0].spec.storageClassName does not work here: the cluster has no " +
      "StorageClass gp2 (its classes: local-path)",
  ],
  ["without a class and a default", claim(), [], "no default StorageClass (its classes: none)"],
  [
    "of a pod",
    object("Deployment", {
      template: {
        spec: {
          containers: [],
          volumes: [{}, { ephemeral: { volumeClaimTemplate: { spec: { storageClassName: "gp3" } } } }],
        },
      },
    }),
    [local],
    "Deployment/shop spec.template.spec.volumes[1].ephemeral.volumeClaimTemplate.spec.storageClassName does not work",
  ],
  ["of a volume made by hand", claim(""), [local], "no volume without a class"],
])("a claim %s that nothing can bind is refused with object and field", async (_, found, classes, reason) => {
  const error = await checkStorage([found], classes).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ kind: "project", code: "component-missing" });
  expect((error as Error).message).toContain(reason);
});

test.each<[string, KubeObject[], object[], object[]]>([
  ["of a class that exists", [claim("local-path"), statefulSet("local-path")], [local], []],
  ["of the default class", [claim(), statefulSet()], [local], []],
  ["with a volume of the class", [claim("manual")], [], [{ metadata: {}, spec: { storageClassName: "manual" } }]],
  ["with a volume in the manifests", [claim("m"), object("PersistentVolume", { storageClassName: "m" })], [], []],
  ["of a class in the manifests", [claim("shop"), object("StorageClass", {})], [], []],
  ["of a named volume", [claim("", { volumeName: "pv-1" })], [], []],
])("a claim %s is permitted", async (_, manifests, classes, volumes) => {
  expect(await checkStorage(manifests, classes, volumes)).toBeUndefined();
});

test("without the right to read storage classes, no claim is refused", async () => {
  expect(await checkStorage([claim("gp2")], [], [], 403)).toBeUndefined();
});
