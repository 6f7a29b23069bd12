/** Hints for failures in container logs. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { diagnoseBlockedEgress, diagnoseLogs, findMissingFile, diagnosePortMismatch } from "../deploy/log-hints.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { service } from "./helloapp-service.ts";

/** A directory with files. */
const own = { project: join(import.meta.dir, "..") };

test.each([
  ["EROFS: read-only file system, mkdir '/storage'", "The service writes to /storage,"],
  ["Error: EROFS: read-only file system, open '/app/log.txt'\n   errno: -30", "The service writes to /app/log.txt,"],
  ["EROFS: read-only file system, rename '/tmp/a' -> '/data/a'", "The service writes to /data/a,"],
  ["EACCES: permission denied, open './static/app.min.js'", "The service writes to ./static/app.min.js,"],
  ["EACCES: permission denied, mkdir '/srv/uploads'", "The service writes to /srv/uploads,"],
  ["EACCES: permission denied, open 'db.json'", "The service writes to db.json,"],
  ["SQLiteError: unable to open database file", "The service writes to a file,"],
  ['   code: "SQLITE_CANTOPEN"', "The service writes to a file,"],
  ["SQLiteError: attempt to write a readonly database", "The service writes to a file,"],
  ["sh: can't create x: Read-only file system", "The service writes to a file,"],
])("a write to a read-only path: %s", (output, hint) => {
  expect(diagnoseLogs(`before\n${output}\nafter`, own)).toStartWith(hint);
});

test.each(["EACCES: permission denied, open '/run/secrets/key'", "listen EACCES: permission denied 0.0.0.0:80"])(
  "no write to a read-only path: %s",
  (output) => expect(diagnoseLogs(output, own)).toBeUndefined(),
);

test.each([
  ["ENOENT: no such file or directory, posix_spawn '/bin/sh'", "/bin/sh"],
  ["Error: spawn git ENOENT", "git"],
  ['error: Executable not found in $PATH: "crontab"', "crontab"],
  ["bun: command not found: docker", "docker"],
])("a missing program: %s", (output, program) => {
  expect(diagnoseLogs(`before\n${output}\nafter`, own)).toBe(
    `The service starts ${program}, but the image contains no other program, not even a shell.`,
  );
});

test.each([
  ["ENOENT: no such file or directory, open '/test'", "test"],
  ["ENOENT: no such file or directory, open '/srv/init/templates/Dockerfile'", "init/templates/Dockerfile"],
  ["ENOENT: no such file or directory, scandir './init/templates/'", "init/templates"],
  ["ENOENT: no such file or directory, open '/$bunfs/root/init/templates/Dockerfile'", "init/templates/Dockerfile"],
  ["ENOENT: no such file or directory, open '/nowhere'\nENOENT: x, stat 'README.md'", "README.md"],
])("a missing file that is in the project: %s", (output, path) => {
  expect(diagnoseLogs(output, own)).toContain(`\`files: ["${path}"]\` in ci/pipeline.ts`);
});

test.each([
  [
    "ENOENT: no such file or directory, open '/node_modules/pdfkit/js/data/Helvetica.afm'",
    'The package pdfkit reads /node_modules/pdfkit/js/data/Helvetica.afm, which is not in the image. Set `nativePackages: ["pdfkit"]`',
  ],
  ["ENOENT: no such file or directory, stat '/node_modules/@a/b/x'", '`nativePackages: ["@a/b"]`'],
  [
    "ENOENT: no such file or directory, open '/node_modules/.bundled/x.dat'\n    at read (node_modules/geo/lib/geo.js:1:2)",
    '`nativePackages: ["geo"]`',
  ],
  ["ENOENT: no such file or directory, scandir '/srv/scripts/migrations'", "neither in the image nor in the project"],
  ["ENOENT: no such file or directory, scandir '/srv/init/templates'", '`files: ["init/templates"]`'],
  ['Error: unable to determine transport target for "pino-nowhere"', "Run `bun add pino-nowhere`, and set `native"],
  ["error: Cannot find package 'yaml' from '/$bunfs/root/x'", 'Set `nativePackages: ["yaml"]`'],
])("a missing file or package is a finding, also if the service runs: %s", (output, hint) => {
  expect(findMissingFile(output, own.project)).toContain(hint);
  expect(diagnoseLogs(output, own)).toContain(hint);
});

test.each(["", "ENOENT: no such file or directory, open '/nowhere'", "ENOENT: x, stat 'README.md'"])(
  "no finding: %s",
  (output) => expect(findMissingFile(output, own.project)).toBeUndefined(),
);

test.each([
  "",
  "error: connect ECONNREFUSED",
  "TypeError: Attempted to assign to readonly property.",
  "ENOENT: no such file or directory, open '/nowhere'",
  "ENOENT: no such file or directory, open '/'",
  "ENOENT: no such file or directory, open '../slipway.ts'",
])("no hint: %s", (output) => expect(diagnoseLogs(output, own)).toBeUndefined());

test.each<[string, object, boolean]>([
  ["equal", { ports: [{ containerPort: 8080 }] }, true],
  ["equal to one of several", { ports: [{ containerPort: 9090 }, { containerPort: 8080 }] }, true],
  ["different", { ports: [{ containerPort: 3000 }] }, false],
  [
    "equal to PORT in the manifests",
    { ports: [{ containerPort: 3000 }], env: [{ name: "PORT", value: "3000" }] },
    true,
  ],
  [
    "different from PORT in the manifests",
    { ports: [{ containerPort: 8080 }], env: [{ name: "PORT", value: "3000" }] },
    false,
  ],
  ["none", {}, true],
])("containerPort is %s", (_, container, agrees) => {
  const spec = { template: { spec: { containers: [{ name: service.name, ...container }] } } };
  const deployment = { kind: "Deployment", metadata: { name: service.name }, spec } as unknown as KubeObject;
  const hint = diagnosePortMismatch(service, [deployment]);
  if (agrees) expect(hint).toBeUndefined();
  else expect(hint).toMatch(/^The service gets PORT=\d+, but containerPort is \d+\. /);
});

describe("blocked egress", () => {
  const labels = { "app.kubernetes.io/name": service.name };
  const workload = {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: service.name },
    spec: { template: { metadata: { labels }, spec: { containers: [] } } },
  } as unknown as KubeObject;
  const policy = (spec: object, name = "own") =>
    ({
      apiVersion: "networking.k8s.io/v1",
      kind: "NetworkPolicy",
      metadata: { name },
      spec: { podSelector: { matchLabels: labels }, ...spec },
    }) as unknown as KubeObject;
  const closed = policy({ policyTypes: ["Ingress", "Egress"] });
  const named = policy({ policyTypes: ["Egress"], egress: [{ ports: [{ port: 53 }] }] }, "more");
  const hintFor = (output: string, ...policies: KubeObject[]) =>
    diagnoseBlockedEgress(`before\n${output}\nafter`, service, [workload, ...policies]);

  // Output of Bun 1.4.5.
  test.each([
    'TypeError: getaddrinfo EAI_AGAIN db.shop.svc\n     path: "http://db.shop.svc/",',
    "DNSException: getaddrinfo ENOTFOUND db",
    'error: connect ECONNREFUSED 10.43.0.7:5432\n address: "10.43.0.7",',
    "connect ETIMEDOUT 10.43.0.7:5432",
    'TypeError: Unable to connect. Is the computer able to access the url?\n  path: "http://db/",\n  code: "ConnectionRefused"',
    'PostgresError: Failed to connect to 10.9.9.7:5432\n code: "ERR_POSTGRES_CONNECTION_REFUSED"',
    'RedisError: Connection closed\n code: "ERR_REDIS_CONNECTION_CLOSED"',
  ])("a policy that blocks all outgoing traffic: %s", (output) => {
    expect(hintFor(output, closed)).toBe(
      "The service cannot reach another host: NetworkPolicy own blocks all outgoing traffic, DNS included. Allow the hosts that it needs with `slipway init --with egress`.",
    );
  });

  test("all policies that limit outgoing traffic are named", () => {
    expect(hintFor("EAI_AGAIN", closed, named)).toBe(
      "The service cannot reach another host: outgoing traffic is limited to the destinations in NetworkPolicy own, more.",
    );
  });

  // A Redis client retries for 10 s before it reports an error.
  test("the hint is given for a service that waits without output", () => {
    const silentHint = (...policies: KubeObject[]) => diagnoseBlockedEgress("", service, [workload, ...policies], true);
    expect(silentHint(closed)).toStartWith(
      "The service may be waiting for another host: NetworkPolicy own blocks all outgoing traffic, ",
    );
    expect(silentHint()).toBeUndefined();
  });

  test.each<[string, KubeObject[]]>([
    ["does not exist", []],
    ["is about incoming traffic", [policy({ policyTypes: ["Ingress"] })]],
    ["has no types and no egress rules", [policy({ ingress: [] })]],
    ["allows everything", [policy({ policyTypes: ["Egress"], egress: [{}] })]],
    ["is complemented by one that allows everything", [closed, policy({ egress: [{ to: [], ports: [] }] })]],
    ["selects other pods", [policy({ podSelector: { matchLabels: { app: "x" } }, policyTypes: ["Egress"] })]],
  ])("no hint for a policy that %s", (_, policies) => {
    expect(hintFor("EAI_AGAIN", ...policies)).toBeUndefined();
  });

  test.each([
    "connect ECONNREFUSED 127.0.0.1:5432",
    'error: connect ECONNREFUSED\n address: "::1",',
    'Unable to connect\n  path: "http://localhost:3000/",\n  code: "ConnectionRefused"',
    "Readiness probe failed: dial tcp 10.42.0.9:8080: connect: connection refused",
    "TypeError: undefined is not a function",
  ])("no hint for errors that no policy causes: %s", (output) => {
    expect(hintFor(output, closed)).toBeUndefined();
  });
});
