/** Delays that no rollout waits for, and commands that the image cannot run: refused at the plan with object and field. */
import { expect, test } from "bun:test";
import type { PipelineError } from "../core/errors.ts";
import { assertSuitable } from "../deploy/manifest-checks.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { service } from "./helloapp-service.ts";

const labels = { app: "helloapp" };
const own = { name: "helloapp", image: "helloapp", ports: [{ name: "http", containerPort: 8080 }] };
const workload = (container: object, { spec = {}, kind = "Deployment", name = "helloapp", pod = {} } = {}) =>
  ({
    apiVersion: "apps/v1",
    kind,
    metadata: { name },
    spec: { ...spec, template: { metadata: { labels }, spec: { containers: [{ ...own, ...container }], ...pod } } },
  }) as unknown as KubeObject;

function refusalOf(manifests: KubeObject[], settings: object = {}): PipelineError | undefined {
  try {
    assertSuitable({
      service: { ...service, ...settings },
      overlay: "k8s",
      manifests,
      namespace: { apiVersion: "v1", kind: "Namespace", metadata: { name: "helloapp" } },
      hasNamespace: () => false,
      findLive: () => undefined,
      isImported: false,
      wasVerified: true,
    });
    return undefined;
  } catch (error) {
    return error as PipelineError;
  }
}

const ready = (probe: object) => ({ readinessProbe: { httpGet: { path: "/readyz", port: "http" }, ...probe } });
const path = "Deployment/helloapp spec.template.spec.containers[0].";

test.each<[string, KubeObject, object, string, string]>([
  [
    "a delay beyond readyTimeoutSeconds",
    workload(ready({ initialDelaySeconds: 30 })),
    {},
    `${path}readinessProbe.initialDelaySeconds: the container is ready after 30 s at the earliest, but readyTimeoutSeconds is 6`,
    "`readyTimeoutSeconds: 60`",
  ],
  [
    "a delay of just that time",
    workload(ready({ initialDelaySeconds: 6 })),
    {},
    "after 6 s at the earliest",
    "startupProbe",
  ],
  [
    "repeated successes",
    workload(ready({ successThreshold: 3, periodSeconds: 5, initialDelaySeconds: 2 })),
    {},
    `${path}readinessProbe.successThreshold: the container is ready after 12 s`,
    "readyTimeoutSeconds: 24",
  ],
  [
    "the default period",
    workload(ready({ successThreshold: 2 })),
    {},
    `${path}readinessProbe.successThreshold: the container is ready after 10 s`,
    "",
  ],
  [
    "a delayed startup probe",
    workload({ ...ready({ initialDelaySeconds: 1 }), startupProbe: { initialDelaySeconds: 20 } }),
    {},
    `${path}startupProbe.initialDelaySeconds: the container is ready after 20 s`,
    "",
  ],
  [
    "a delay beyond progressDeadlineSeconds",
    workload(ready({ initialDelaySeconds: 30 }), { spec: { progressDeadlineSeconds: 30 } }),
    { readyTimeoutSeconds: 60 },
    `${path}readinessProbe.initialDelaySeconds: a pod counts after 30 s at the earliest, but progressDeadlineSeconds is 30`,
    "raise progressDeadlineSeconds",
  ],
  [
    "minReadySeconds beyond progressDeadlineSeconds",
    workload(ready({ initialDelaySeconds: 5 }), { spec: { progressDeadlineSeconds: 60, minReadySeconds: 55 } }),
    {},
    "Deployment/helloapp spec.minReadySeconds: a pod counts after 60 s",
    "",
  ],
  [
    "minReadySeconds beyond rolloutTimeoutSeconds",
    workload({}, { spec: { minReadySeconds: 120 } }),
    {},
    "Deployment/helloapp spec.minReadySeconds: the rollout takes 120 s at the least, but rolloutTimeoutSeconds is 120",
    "`rolloutTimeoutSeconds: 240`",
  ],
  [
    "the pods of a StatefulSet, one after the other",
    workload(ready({ initialDelaySeconds: 5 }), { kind: "StatefulSet", spec: { replicas: 5, minReadySeconds: 20 } }),
    {},
    "StatefulSet/helloapp spec.minReadySeconds: the rollout takes 125 s",
    "",
  ],
])("%s is refused", (_, manifest, settings, problem, remedy) => {
  const refusal = refusalOf([manifest], settings);
  expect(refusal).toMatchObject({ kind: "project", code: "readiness-too-late" });
  expect(refusal!.message).toContain(problem);
  expect(refusal!.hint).toContain(remedy);
});

test.each<[string, KubeObject, object]>([
  ["a short delay", workload(ready({ initialDelaySeconds: 5 })), {}],
  ["Kubernetes' defaults", workload(ready({})), {}],
  ["a delay that the settings wait for", workload(ready({ initialDelaySeconds: 30 })), { readyTimeoutSeconds: 40 }],
  ["no probe", workload({}), {}],
  [
    "a startup probe that waits long for a slow start",
    workload({ ...ready({}), startupProbe: { failureThreshold: 120, periodSeconds: 1 } }),
    {},
  ],
  [
    "the pods of a parallel StatefulSet",
    workload(ready({ initialDelaySeconds: 5 }), {
      kind: "StatefulSet",
      spec: { replicas: 40, podManagementPolicy: "Parallel" },
    }),
    {},
  ],
])("%s is taken", (_, manifest, settings) => expect(refusalOf([manifest], settings)).toBeUndefined());

const exec = (...command: string[]) => ({ exec: { command } });
const init = (command: string[], more: object = {}) => ({
  pod: { initContainers: [{ name: "i", image: "helloapp", command, ...more }] },
});

test.each<[string, KubeObject, string, string]>([
  [
    "a probe with curl in a shell",
    workload({ livenessProbe: exec("/bin/sh", "-c", "curl -f http://localhost:3000/health || exit 1") }),
    `${path}livenessProbe.exec.command: the image has no /bin/sh, only /helloapp`,
    "`httpGet: { path: /health, port: 3000 }`",
  ],
  [
    "a probe with wget",
    workload({ readinessProbe: exec("wget", "-qO-", "http://127.0.0.1/ping") }),
    `${path}readinessProbe.exec.command: the image has no wget`,
    "`httpGet: { path: /ping, port: http }`",
  ],
  [
    "a probe that reads a file",
    workload({ startupProbe: exec("cat", "/tmp/healthy") }),
    `${path}startupProbe.exec.command: the image has no cat`,
    "`httpGet: { path: /healthz, port: http }`",
  ],
  [
    "a probe of a socket",
    workload({ readinessProbe: exec("nc", "-z", "localhost", "8080") }),
    "no nc",
    "`tcpSocket: { port: 8080 }`",
  ],
  [
    "a probe of gRPC",
    workload({ readinessProbe: exec("/bin/grpc_health_probe", "-addr=:50051") }),
    "no /bin/grpc_health_probe",
    "`grpc: { port: 50051 }`",
  ],
  [
    "a probe with pg_isready",
    workload({ readinessProbe: exec("pg_isready", "-h", "db") }),
    "no pg_isready",
    "path: /readyz",
  ],
  [
    "a preStop hook that sleeps",
    workload({ lifecycle: { preStop: exec("sh", "-c", "sleep 10") } }),
    `${path}lifecycle.preStop.exec.command: the image has no sh`,
    "`preStop: { sleep: { seconds: 10 } }`",
  ],
  [
    "another preStop hook",
    workload({ lifecycle: { preStop: exec("nginx", "-s", "quit") } }),
    "no nginx",
    "when it gets SIGTERM",
  ],
  [
    "a postStart hook",
    workload({ lifecycle: { postStart: exec("sh", "-c", "echo up") } }),
    `${path}lifecycle.postStart.exec.command`,
    "when the service starts",
  ],
  [
    "the command of a Dockerfile",
    workload({ command: ["npm", "start"] }),
    `${path}command: the image has no npm`,
    "Remove `command` and `args`",
  ],
  [
    "a shell around the service",
    workload({ command: ["sh", "-c"], args: ["exec bun src/main.ts"] }),
    "no sh",
    "Remove `command`",
  ],
  ["another image's binary", workload({ command: ["/app/server"] }), "no /app/server", "Remove `command`"],
  [
    "the binary without its path",
    workload({ command: ["helloapp"] }),
    "no helloapp, only /helloapp",
    "Remove `command`",
  ],
  [
    "an init container with a script",
    workload({}, init(["bun", "run", "src/migrate.ts"])),
    "Deployment/helloapp spec.template.spec.initContainers[0].command: the image has no bun",
    '`entries: { "migrate": "src/migrate.ts" }` in ci/pipeline.ts, and write `command: ["/helloapp", "migrate"]`',
  ],
  [
    "an init container with a shell",
    workload({}, init(["sh", "-c", "until nc -z db 5432; do sleep 1; done"])),
    "initContainers[0].command: the image has no sh",
    "Or use an image that has the program",
  ],
])("%s is refused", (_, manifest, problem, remedy) => {
  const refusal = refusalOf([manifest]);
  expect(refusal).toMatchObject({ kind: "project", code: "program-missing" });
  expect(refusal!.message).toContain(problem);
  expect(refusal!.hint).toContain(remedy);
});

test("a Job and a CronJob with the image are checked", () => {
  const template = { spec: { containers: [{ ...own, command: ["node", "./jobs/clean.js"] }] } };
  const job = {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { name: "j" },
    spec: { template },
  } as unknown as KubeObject;
  const cron = { ...job, kind: "CronJob", spec: { jobTemplate: { spec: { template } } } } as unknown as KubeObject;
  for (const [object, field] of [
    [job, "Job/j spec.template.spec.containers[0].command"],
    [cron, "CronJob/j spec.jobTemplate.spec.template.spec.containers[0].command"],
  ] as const) {
    const refusal = refusalOf([workload({}), object]);
    expect(refusal!.message).toContain(`${field}: the image has no node`);
    expect(refusal!.hint).toContain('entries: { "clean": "jobs/clean.js" }');
  }
});

const tools = { volumeMounts: [{ name: "tools", mountPath: "/tools" }] };
test.each<[string, KubeObject]>([
  ["the service's binary", workload({ command: ["/helloapp"], readinessProbe: exec("/helloapp", "check") })],
  ["the binary by a relative path", workload({ command: ["../helloapp"] })],
  ["another image's container", workload({}, init(["sh", "-c", "true"], { image: "busybox:1" }))],
  ["a program on a volume", workload({ ...tools, livenessProbe: exec("/tools/check") })],
  [
    "a program on a volume of PATH",
    workload({ ...tools, env: [{ name: "PATH", value: "/tools:/bin" }], livenessProbe: exec("check") }),
  ],
  ["a program of the setting files", workload({ livenessProbe: exec("./bin/check") })],
  ["a program of a package", workload({ livenessProbe: exec("/node_modules/ffmpeg-static/ffmpeg") })],
  ["a variable", workload({ command: ["$(PROGRAM)"] })],
  ["arguments alone", workload({ args: ["serve"] })],
])("%s is taken", (_, manifest) => expect(refusalOf([manifest])).toBeUndefined());
