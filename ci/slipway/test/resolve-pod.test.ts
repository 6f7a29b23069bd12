/** Resolving a pod from manifests and image, without a cluster. */
import { describe, expect, test } from "bun:test";
import { resolvePodSpec } from "../kubernetes/resolve-pod.ts";
import { parseByteQuantity } from "../kubernetes/byte-quantity.ts";
import { service } from "./helloapp-service.ts";

const image = {
  Env: ["NODE_ENV=production", "PORT=8080", "EQUALS=a=b"],
  Entrypoint: ["/helloapp"],
  User: "65532:65532",
  WorkingDir: "/",
};
const metadata = (name: string) => ({ name });

function podWith(container: object, spec: object = {}, others: object[] = []) {
  const containers = [
    { name: "side", image: "proxy" },
    { name: "main", image: "helloapp", ...container },
  ];
  const template = { metadata: { annotations: { note: "x" } }, spec: { containers, ...spec } };
  const deployment = {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: metadata("helloapp"),
    spec: { template },
  };
  return resolvePodSpec(service, image, [deployment, ...others] as never);
}

test.each([
  ["64Mi", 64 * 2 ** 20],
  ["1Gi", 2 ** 30],
  ["1.5k", 1500],
  ["2M", 2e6],
  ["1e3", 1000],
  ["100m", 1],
  [4096, 4096],
])("%s is %d bytes", (quantity, bytes) => expect(parseByteQuantity(quantity)).toBe(bytes));

test.each([["64 Mi"], ["x"], ["1Xi"], [""]])("%p is not a quantity", (text) =>
  expect(() => parseByteQuantity(text)).toThrow(RangeError),
);

test("without manifests, the image alone counts", () => {
  expect(resolvePodSpec(service, image, [])).toMatchObject({
    argv: ["/helloapp"],
    env: { PORT: "8080", EQUALS: "a=b", HOME: "/" },
    cwd: "/",
    uid: 65532,
    gid: 65532,
    asks: [],
    version: { port: 8080, path: "/version" },
    graceSeconds: 30,
    untried: [],
  });
});

describe("variables", () => {
  test("precedence: image, envFrom, env", () => {
    const map = {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: metadata("map"),
      data: { A: "1", PORT: "1" },
    };
    const secret = {
      apiVersion: "v1",
      kind: "Secret",
      metadata: metadata("keys"),
      data: { K: btoa("open") },
    };
    const { env, unknown } = podWith(
      {
        envFrom: [{ prefix: "X_", configMapRef: { name: "map" } }, { configMapRef: { name: "map" } }],
        env: [
          { name: "A", value: "2" },
          { name: "B", value: "$(A)$(NONE)$$(A)" },
          { name: "C", valueFrom: { secretKeyRef: { name: "keys", key: "K" } } },
          { name: "D", valueFrom: { fieldRef: { fieldPath: "metadata.annotations['note']" } } },
          { name: "E", valueFrom: { configMapKeyRef: { name: "none", key: "x", optional: true } } },
        ],
      },
      {},
      [map, secret],
    );
    expect(env).toMatchObject({ X_A: "1", PORT: "1", A: "2", B: "2$(NONE)$(A)", C: "open", D: "x" });
    expect(env).not.toHaveProperty("E");
    expect(unknown).toEqual([]);
  });

  test("without a value outside the cluster are listed", () => {
    const limits = { resourceFieldRef: { resource: "limits.memory" } };
    const { unknown, untried } = podWith({
      envFrom: [{ secretRef: { name: "all" } }],
      env: [
        { name: "C", valueFrom: { secretKeyRef: { name: "keys", key: "K" } } },
        { name: "M", valueFrom: limits },
      ],
    });
    expect(unknown).toEqual(["C", "M"]);
    expect(untried).toEqual(["Secret/all", "the values of C, M", "the container side"]);
  });
});

test("probes are ordered, with named ports resolved", () => {
  const { asks, untried } = podWith({
    ports: [{ name: "http", containerPort: 3000 }],
    startupProbe: {
      tcpSocket: { port: "http" },
      periodSeconds: 2,
      failureThreshold: 5,
      initialDelaySeconds: 1,
    },
    readinessProbe: { httpGet: { port: "http", scheme: "HTTPS" }, timeoutSeconds: 3 },
    livenessProbe: { grpc: { port: 1 } },
  });
  expect(asks).toEqual([
    { kind: "startup", check: { how: "tcp", port: 3000 }, seconds: 1, patienceSeconds: 11 },
    {
      kind: "readiness",
      check: { how: "http", scheme: "https", port: 3000, path: "/", headers: [] },
      seconds: 3,
      patienceSeconds: 6,
    },
  ]);
  expect(untried).toContain("the liveness probe");
});

test("root is replaced by uid 65532, and preStop reduces the grace period", () => {
  const pod = podWith(
    { securityContext: { runAsUser: 0 }, lifecycle: { preStop: { sleep: { seconds: 5 } } } },
    { terminationGracePeriodSeconds: 20, securityContext: { runAsGroup: 7 } },
  );
  expect(pod).toMatchObject({ uid: 65532, gid: 7, graceSeconds: 15 });
  expect(pod.untried).toContain("runAsUser 0");
});
