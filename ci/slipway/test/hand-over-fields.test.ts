/** The hand-over of fields that kubectl or Helm own. test/e2e/adoption.test.ts does it on a real cluster. */
import { describe, expect, test } from "bun:test";
import { ApiClient } from "../kubernetes/api.ts";
import { dryRunHandOver, handedOver, handOverFields } from "../kubernetes/hand-over-fields.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { service } from "./helloapp-service.ts";

const own = "slipway";
const entry = (manager: string, fieldsV1: object, operation = "Update", subresource?: string) => ({
  manager,
  operation,
  fieldsV1: fieldsV1 as Record<string, unknown>,
  ...(subresource && { subresource }),
});
const object = (managedFields: ReturnType<typeof entry>[], kind = "Deployment", spec: object = {}) =>
  ({
    apiVersion: "apps/v1",
    kind,
    metadata: { name: "a", resourceVersion: "7", managedFields },
    spec,
  }) as unknown as KubeObject;
const replicas = { "f:spec": { "f:replicas": {} } };
const hostname = { "f:spec": { "f:hostname": {} } };

describe("the owners after the hand-over", () => {
  test.each(["kubectl-client-side-apply", "kubectl", "helm", "before-first-apply"])(
    "of %s are slipway alone",
    (manager) => {
      expect(handedOver(object([entry(manager, replicas)]), own)).toEqual([entry(own, replicas, "Apply")]);
    },
  );

  test("keep slipway's own fields, and the fields of controllers", () => {
    const controller = entry("kube-controller-manager", { "f:status": {} }, "Update", "status");
    const before = [entry("helm", replicas), controller, entry(own, hostname, "Apply")];
    const fields = { "f:spec": { "f:replicas": {}, "f:hostname": {} } };
    const [first, ...rest] = handedOver(object(before), own)!;
    expect(first).toEqual(entry(own, fields, "Apply"));
    expect(rest).toEqual([controller]);
  });

  test.each<[string, KubeObject]>([
    ["there is no former manager", object([entry(own, replicas, "Apply"), entry("k3s", replicas)])],
    ["a person has scaled", object([entry("kubectl-scale", replicas, "Update", "scale")])],
    ["the object is a Namespace, which others may share", object([entry("kubectl", replicas)], "Namespace")],
  ])("stay if %s", (_, found) => {
    expect(handedOver(found, own)).toBeUndefined();
  });
});

function recorder(reply: (method: string, count: number, body: any) => Response) {
  const requests: { method: string; body: any; path: string }[] = [];
  const api = new ApiClient(
    service,
    async (path, { method = "GET", body }) => {
      const parsed = body ? JSON.parse(body as string) : undefined;
      requests.push({ method, path, body: parsed });
      return reply(method, requests.length, parsed);
    },
    new AbortController().signal,
  );
  return { api, requests };
}

test("the hand-over names the resource version, and repeats a conflict with the new one", async () => {
  const live = object([entry("helm", replicas)]);
  const newer = { ...live, metadata: { ...live.metadata, resourceVersion: "8" } };
  const { api, requests } = recorder((method, count) =>
    method === "GET" ? Response.json(newer) : Response.json({}, { status: count === 1 ? 409 : 200 }),
  );
  await handOverFields(api, "/x", live);
  expect(requests.map(({ method, body }) => `${method} ${body?.[1].value ?? ""}`)).toEqual([
    "PATCH 7",
    "GET ",
    "PATCH 8",
  ]);
});

test("the plan removes what only former managers own: fields, items of lists, and values of sets", async () => {
  const containers = [
    { name: "app", image: "a", tty: true, env: [{ name: "OLD" }, { name: "NEW" }] },
    { name: "sidecar", image: "b" },
  ];
  const key = (name: string) => `k:${JSON.stringify({ name })}`;
  const former = {
    "f:spec": {
      "f:hostname": {},
      "f:replicas": {},
      "f:finalizers": { 'v:"x"': {}, 'v:"y"': {} },
      "f:containers": {
        [key("app")]: { ".": {}, "f:image": {}, "f:tty": {}, "f:env": { [key("OLD")]: { ".": {}, "f:name": {} } } },
        [key("sidecar")]: { ".": {}, "f:name": {}, "f:image": {} },
      },
    },
  };
  const kept = {
    "f:spec": {
      "f:replicas": {},
      "f:finalizers": { 'v:"y"': {} },
      "f:containers": {
        [key("app")]: { ".": {}, "f:image": {}, "f:env": { [key("NEW")]: { ".": {}, "f:name": {} } } },
      },
    },
  };
  const merged = object([entry("helm", former), entry("helloapp", kept, "Apply")], "Deployment", {
    hostname: "old",
    replicas: 3,
    finalizers: ["x", "y"],
    containers,
  });
  const { api, requests } = recorder((_, __, body) => Response.json(body));
  const planned = (await dryRunHandOver(api, "/x", merged)) as KubeObject & { spec: unknown };
  expect(planned.spec).toEqual({
    replicas: 3,
    finalizers: ["y"],
    containers: [{ name: "app", image: "a", env: [{ name: "NEW" }] }],
  });
  expect(requests[0]!.path).toContain("dryRun=All");
});
