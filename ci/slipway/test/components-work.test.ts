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
