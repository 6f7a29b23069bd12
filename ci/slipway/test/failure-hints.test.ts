/** Hints for a failed container, which a failed rollout and a failed smoke test share. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describeExitCode } from "../core/exit-status.ts";
import { findDatabaseFile } from "../deploy/find-sqlite-file.ts";
import { explainContainerFailure } from "../deploy/failure-hints.ts";
import { portsInLog } from "../deploy/port-hints.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { service } from "./helloapp-service.ts";

const directory = mkdtempSync(join(tmpdir(), "failure-hints-"));
afterAll(() => rmSync(directory, { recursive: true }));

function workload(container: object): KubeObject {
  const spec = { template: { spec: { containers: [{ name: service.name, ...container }] } } };
  return { kind: "Deployment", metadata: { name: service.name }, spec } as unknown as KubeObject;
}

const explain = (output: string, { reason = "NotReady", ports = [8080], isSilent = true } = {}) => {
  const manifests = [workload({ ports: ports.map((containerPort) => ({ containerPort })) })];
  return explainContainerFailure({ service, manifests, output, reason, isSilent });
};

test.each<[string, number[]]>([
  // Fastify, Express's generator, Hono, Elysia, Nest, Next, a plain sentence, and a bare number.
  ['{"level":30,"time":1764540645123,"pid":1,"msg":"Server listening at http://0.0.0.0:4000"}', [4000]],
  ["Listening on port 4000", [4000]],
  ["Started development server: http://localhost:4000", [4000]],
  ["🦊 Elysia is running at localhost:4000", [4000]],
  ["[Nest] 1  - 11/30/2026, 10:24:05 PM     LOG Application is running on: http://[::]:4000", [4000]],
  ["2026-11-30T22:30:45.123Z info server ready on :4000", [4000]],
  ['{"msg":"server started","port":4000}', [4000]],
  ["Server up on 4000", [4000]],
  ["metrics listening on :9090\napi listening on :4000", [9090, 4000]],
  ["22:30:45 starting\nconnect ECONNREFUSED 10.0.0.1:5432", []],
  ["Readiness probe failed: dial tcp 10.42.0.9:8080: connect: connection refused", []],
  ["starting 4000 workers", []],
])("the ports in the log: %s", (output, ports) => expect(portsInLog(output)).toEqual(ports));

test("a service that listens on another port than the declared one", () => {
  expect(explain("Server listening at http://0.0.0.0:4000")).toBe(
    "The service listens on port 4000, not on 8080. Listen on process.env.PORT, or set `port: 4000` in ci/pipeline.ts and containerPort: 4000 in the manifests.",
  );
});

test("no hint about the port if the declared port is among those that it opened", () => {
  expect(explain("metrics listening on :9090\napi listening on :8080")).toBeUndefined();
  expect(explain("listening on :4000", { isSilent: false })).toBeUndefined();
});

test("exit codes name the signal", () => {
  expect([0, 3, 132, 137, 139, 255].map(describeExitCode)).toEqual([
    "0",
    "3",
    "132 (SIGILL, illegal instruction)",
    "137 (SIGKILL, killed, often because memory ran out)",
    "139 (SIGSEGV, invalid memory access)",
    "255",
  ]);
});

test.each(["app exits with 132 (SIGILL, illegal instruction)", "the container ended with SIGILL before it responded"])(
  "an empty log and an illegal instruction: %s",
  (reason) => {
    expect(explain("", { reason })).toContain("Bun needs x86-64-v2 (SSE4.2, POPCNT)");
    expect(explain("", { reason })).toContain("Set the CPU type `host` or `x86-64-v2-AES`.");
  },
);

test("a killed container and one that fails by itself", () => {
  expect(explain("", { reason: "app exits with 137" })).toContain("resources.limits.memory");
  expect(explain("", { reason: "app exits with 1" })).toBeUndefined();
});

test.each<[string, string, string | undefined]>([
  ['3 | const db = new Database("data/app.db");\nSQLiteError: unable to open database file', "", "data/app.db"],
  ["SQLiteError: attempt to write a readonly database", "file:/data/prisma.db", "/data/prisma.db"],
  ["SQLITE_CANTOPEN", "sqlite://var/shop.sqlite3", "var/shop.sqlite3"],
  ["SQLITE_CANTOPEN: unable to open database file", "postgres://db/x", undefined],
])("the file of an SQLite database: %s %s", (output, value, file) => {
  const manifests = [workload({ env: [{ name: "DATABASE_URL", value }] })];
  const project = mkdtempSync(join(directory, "empty-"));
  expect(findDatabaseFile(output, project, manifests)).toBe(file);
});

test.each([
  ["src/db.ts", 'import { Database } from "bun:sqlite";\nexport const db = new Database("shop.db");\n', "shop.db"],
  ["lib/store.js", 'const { DatabaseSync } = require("node:sqlite");\nnew DatabaseSync("./state");\n', "./state"],
  [
    "src/orm.ts",
    'import { createClient } from "@libsql/client";\ncreateClient({ url: "file:local.db" });\n',
    "local.db",
  ],
])("the file of an SQLite database in the source: %s", (path, source, file) => {
  const project = mkdtempSync(join(directory, "source-"));
  mkdirSync(dirname(join(project, path)), { recursive: true });
  writeFileSync(join(project, path), source);
  const output = "SQLiteError: unable to open database file";
  const hint = explainContainerFailure({ service: { ...service, project }, manifests: [], output, reason: "" });
  expect(hint).toStartWith(`The service writes to ${file}, but only /tmp`);
});

const qemu = Bun.which("qemu-x86_64");
// The hint about the processor has to follow the build of Bun.
test.skipIf(!qemu || process.arch !== "x64").each([
  ["Nehalem", 0],
  ["core2duo,+sse4.1,+sse4.2,+popcnt", 0],
  ["core2duo,+sse4.1,+sse4.2", 132],
  ["core2duo", 132],
])(
  "Bun on the processor %s exits with %i",
  (cpu, code) => {
    const command = [qemu!, "-cpu", cpu, process.execPath, "-e", "1"];
    const { exitCode, signalCode } = Bun.spawnSync(command, { cwd: directory, stderr: "ignore" });
    expect(signalCode === "SIGILL" ? 132 : exitCode).toBe(code);
  },
  60_000,
);

test.each([
  ["Server listening at http://127.0.0.1:8080", true],
  ["Started server on http://localhost:8080", true],
  ["listening on [::1]:8080", true],
  ["listening on http://0.0.0.0:8080\nopen http://localhost:8080", false],
  ["listening on [::]:8080", false],
  ["connect ECONNREFUSED 127.0.0.1:5432", false],
])("a service that listens on localhost only: %s", (output, isNamed) => {
  expect(explain(output)?.includes("Listen on 0.0.0.0") ?? false).toBe(isNamed);
});

const warning = (probe: string, reply: string) =>
  `helloapp-1: Running; helloapp running, 0 restarts\nwarnings:\n  Pod/helloapp-1: Unhealthy: ${probe} probe failed: ${reply} (5 times)\nlast lines of helloapp-1:\nloading the model`;
const refused = 'Get "http://10.42.0.9:8080/readyz": dial tcp 10.42.0.9:8080: connect: connection refused';
const unavailable = "HTTP probe failed with statuscode: 503";

test.each([
  ["does not listen yet", warning("Readiness", refused)],
  ["answers 503 while it starts", warning("Readiness", unavailable)],
  ["does not pass its startup probe yet", warning("Startup", refused)],
  ["does not answer in time", warning("Readiness", 'Get "http://x/": context deadline exceeded (Client.Timeout)')],
])("a process that %s starts slowly", (_, output) => {
  expect(explain(output)).toBe(
    "The process runs, but is not ready after 6 s. If it starts slowly, set `readyTimeoutSeconds: 60` in ci/pipeline.ts, and add a startupProbe with the path of its livenessProbe, `periodSeconds: 1` and `failureThreshold: 60`.",
  );
});

test("a slow start with a startup probe needs the setting alone", () => {
  const manifests = [workload({ startupProbe: {} })];
  const hint = explainContainerFailure({
    service,
    manifests,
    output: warning("Startup", refused),
    reason: "",
    isSilent: true,
  });
  expect(hint).toEndWith("set `readyTimeoutSeconds: 60` in ci/pipeline.ts.");
});

test("a probe with a wrong path, another cause, and a container that ended are no slow start", () => {
  expect(explain(warning("Readiness", "HTTP probe failed with statuscode: 404"))).toBe(
    "The service answers the probe with 404. Correct the `path` of the readinessProbe.",
  );
  expect(explain(`${warning("Readiness", refused)}\nlistening on http://localhost:8080`)).toContain(
    "Listen on 0.0.0.0",
  );
  expect(explain(warning("Readiness", refused), { isSilent: false, reason: "app exits with 1" })).toBeUndefined();
});

test.each([
  [
    "app exits with 137 (SIGKILL, killed)",
    warning("Liveness", refused),
    "its liveness probe fails. If it starts slowly, add a startupProbe",
  ],
  ["app exits with 0", warning("Liveness", refused), "`failureThreshold: 120`"],
  ["app exits with 143 (SIGTERM)", warning("Startup", refused), "raise `failureThreshold` of its startupProbe"],
  [
    "app is ready, but the kubelet has ended it already: its liveness probe failed while it started",
    "",
    "The kubelet ends the process, because its liveness probe fails",
  ],
])("a process that the kubelet ends while it starts: %s", (reason, output, expected) => {
  expect(explain(output, { reason, isSilent: false })).toContain(expected);
});

test("a container that lacks memory is not taken for a slow start", () => {
  const reason = "app exits with 137 (OOMKilled, its memory limit is 64Mi)";
  expect(explain(warning("Liveness", refused), { reason })).toContain("resources.limits.memory");
});
