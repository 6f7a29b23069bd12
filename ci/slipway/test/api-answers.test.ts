/** The API server's answers: who has to act, and whether a retry may help. */
import { expect, test } from "bun:test";
import { classifyAnswer, describeRejection } from "../kubernetes/api-answers.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { explainRejection } from "../kubernetes/diff.ts";
import { PipelineError } from "../core/errors.ts";
import { FakeCluster } from "./fake-cluster.ts";

const typed = (problem: string) =>
  `failed to create typed patch object (shop/api; apps/v1, Kind=Deployment): ${problem}`;
const object: KubeObject = { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "api" } };

// Messages of Kubernetes 1.35.
test.each([
  [
    500,
    undefined,
    typed('.spec.template.spec.containers[name="api"].env: duplicate entries for key [name="A"]'),
    'spec.template.spec.containers[name="api"].env: duplicate entries for key [name="A"]',
  ],
  [
    500,
    undefined,
    typed(".spec.replicas: expected numeric (int or float), got string"),
    "spec.replicas: expected numeric (int or float), got string",
  ],
  [500, undefined, typed(".spec.replcas: field not declared in schema"), "spec.replcas: field not declared in schema"],
  [
    500,
    undefined,
    typed("errors:\n  .spec.a: field not declared in schema\n  .spec.b: field not declared in schema"),
    "spec.a: field not declared in schema; spec.b: field not declared in schema",
  ],
  [
    500,
    undefined,
    typed(".spec.value: expected string, got &value.valueUnstructured{Value:4}"),
    "spec.value: expected string, got 4",
  ],
  [
    500,
    undefined,
    "failed to convert new object (shop/api; apps/v1, Kind=Deployment) to proper version: unable to convert unstructured object to apps/v1, Kind=Deployment: quantities must match the regular expression '^x$'",
    "unable to convert unstructured object to apps/v1, Kind=Deployment: quantities must match the regular expression '^x$'",
  ],
  [400, "BadRequest", "invalid object type: /v1, Kind=Service", "invalid object type: /v1, Kind=Service"],
  [422, "Invalid", "spec.selector: field is immutable", "spec.selector: field is immutable"],
  [500, undefined, "etcdserver: request is too large", "etcdserver: request is too large"],
  [403, "Forbidden", "pods is forbidden: exceeded quota: q", "pods is forbidden: exceeded quota: q"],
])("%d %s %s: the manifests are at fault, at once", (status, reason, message, described) => {
  expect(classifyAnswer({ status, reason, message })).toMatchObject({ fault: "object", isTransient: false });
  expect(describeRejection(message)).toBe(described);
  const error = explainRejection("dry run", object, new ApiError("PATCH /x", status, message, 0, undefined, reason));
  expect(error).toBeInstanceOf(PipelineError);
  expect(error).toMatchObject({
    kind: "project",
    message: `the cluster rejected the dry run of Deployment/api: ${described}`,
  });
});

test.each([
  [
    403,
    "Forbidden",
    'configmaps "x" is forbidden: unable to create new content in namespace shop because it is being terminated',
    "namespace-terminating",
    false,
  ],
  [403, "Forbidden", 'pods is forbidden: User "ann" cannot list resource "pods"', "api-forbidden", false],
  [401, "Unauthorized", "Unauthorized", "api-unauthorized", false],
  [
    500,
    "InternalError",
    'Internal error occurred: failed calling webhook "a.b": dial tcp: connection refused',
    "api-error",
    true,
  ],
  [500, "InternalError", "conversion webhook for a.b/v1, Kind=C failed: timeout", "api-error", true],
  [500, "InternalError", "Internal error occurred: etcdserver: leader changed", "api-error", true],
  [503, "ServiceUnavailable", "the server is currently unable to handle the request", "api-error", true],
  [429, "TooManyRequests", "too many requests", "api-error", true],
  [504, "Timeout", "request timed out", "api-unreachable", true],
  [0, undefined, "connection refused", "api-unreachable", true],
  [409, "Conflict", "the object has been modified", "api-error", false],
  [501, undefined, "not implemented", "api-error", false],
] as const)("%d %s %s: the environment is at fault", (status, reason, message, code, isTransient) => {
  expect(classifyAnswer({ status, reason, message })).toMatchObject({ fault: "environment", code, isTransient });
  const error = new ApiError("PATCH /x", status, message, 0, undefined, reason);
  expect(error).toMatchObject({ kind: "environment", code });
  expect(explainRejection("dry run", object, error)).toBe(error);
});

test("an unknown field is reported without a retry", async () => {
  const cluster = new FakeCluster();
  let requests = 0;
  cluster.intercept = (method) => {
    if (method !== "PATCH") return undefined;
    requests += 1;
    return Response.json({ message: typed(".spec.replcas: field not declared in schema") }, { status: 500 });
  };
  await expect(cluster.api().apply(object, { dryRun: true })).rejects.toThrow("spec.replcas");
  expect(requests).toBe(1);
});

test.each([
  ["Job", 'Job.batch "x" is invalid: spec.template: Invalid value: {}: field is immutable', "slipway/pre-deploy"],
  ["Deployment", "spec.selector: Invalid value: {}: field is immutable", "delete Deployment/x`"],
  [
    "StatefulSet",
    "spec: Forbidden: updates to statefulset spec for fields other than 'replicas' are forbidden",
    "delete StatefulSet/x --cascade=orphan",
  ],
  ["PersistentVolumeClaim", "spec: Forbidden: spec is immutable after creation", "a claim with a new name"],
  ["Service", "spec.clusterIPs[0]: Invalid value: []: may not change once set", "delete Service/x"],
  ["Deployment", "spec.replicas: Invalid value: -1: must be greater than or equal to 0", "Correct the manifests"],
])("the hint for a rejected %s: %s", (kind, message, hint) => {
  const object = { apiVersion: "v1", kind, metadata: { name: "x" } };
  const answer = new ApiError("PATCH /x", 422, message, undefined, undefined, "Invalid");
  expect(explainRejection("dry run", object, answer)).toMatchObject({
    kind: "project",
    hint: expect.stringContaining(hint),
  });
});
