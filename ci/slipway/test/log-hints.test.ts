/** The last words of a service that misses something in the image, and what is said of them. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { diagnoseBlockedEgress, diagnoseLogs, diagnosePortMismatch } from "../deploy/log-hints.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { service } from "./helloapp-fixture.ts";

/** A service's directory, with files. */
const own = { project: join(import.meta.dir, "..") };

test.each([
  ["EROFS: read-only file system, mkdir '/storage'", "It writes to /storage,"],
  ["Error: EROFS: read-only file system, open '/app/log.txt'\n   errno: -30", "It writes to /app/log.txt,"],
  ["EROFS: read-only file system, rename '/tmp/a' -> '/data/a'", "It writes to /data/a,"],
  ["SQLiteError: unable to open database file", "It writes to a file,"],
  ['   code: "SQLITE_CANTOPEN"', "It writes to a file,"],
  ["SQLiteError: attempt to write a readonly database", "It writes to a file,"],
  ["sh: can't create x: Read-only file system", "It writes to a file,"],
])("%s", (output, words) => {
  expect(diagnoseLogs(`before\n${output}\nafter`, own)).toStartWith(words);
});

test.each([
  ["ENOENT: no such file or directory, posix_spawn '/bin/sh'", "/bin/sh"],
  ["Error: spawn git ENOENT", "git"],
  ['error: Executable not found in $PATH: "crontab"', "crontab"],
  ["bun: command not found: docker", "docker"],
])("a program: %s", (output, program) => {
  expect(diagnoseLogs(`before\n${output}\nafter`, own)).toBe(
    `It starts ${program}, and no other program is in the image, not even a shell.`,
  );
});

test.each([
  ["ENOENT: no such file or directory, open '/test'", "test"],
  ["ENOENT: no such file or directory, open '/srv/init/templates/Dockerfile'", "init/templates/Dockerfile"],
  ["ENOENT: no such file or directory, scandir './init/templates/'", "init/templates"],
  [
    "ENOENT: no such file or directory, open '/$bunfs/root/init/templates/Dockerfile'",
    "init/templates/Dockerfile",
  ],
  ["ENOENT: no such file or directory, open '/nowhere'\nENOENT: x, stat 'README.md'", "README.md"],
])("a file of the project: %s", (output, path) => {
  expect(diagnoseLogs(output, own)).toContain(`\`files: ["${path}"]\` in ci/pipeline.ts`);
});

test.each([
  "",
  "error: connect ECONNREFUSED",
  "TypeError: Attempted to assign to readonly property.",
  "ENOENT: no such file or directory, open '/nowhere'",
  "ENOENT: no such file or directory, open '/'",
  "ENOENT: no such file or directory, open '../slipway.ts'",
])("nothing is said of other words: %s", (output) => expect(diagnoseLogs(output, own)).toBeUndefined());

test.each<[string, object, boolean]>([
  ["the same", { ports: [{ containerPort: 8080 }] }, true],
  ["the same, among others", { ports: [{ containerPort: 9090 }, { containerPort: 8080 }] }, true],
  ["another", { ports: [{ containerPort: 3000 }] }, false],
  [
    "the one of the manifests' own PORT",
    { ports: [{ containerPort: 3000 }], env: [{ name: "PORT", value: "3000" }] },
    true,
  ],
  [
    "another than the manifests' own PORT",
    { ports: [{ containerPort: 8080 }], env: [{ name: "PORT", value: "3000" }] },
    false,
  ],
  ["none", {}, true],
])("the port that is asked is %s", (_, container, agrees) => {
  const spec = { template: { spec: { containers: [{ name: service.name, ...container }] } } };
  const deployment = { kind: "Deployment", metadata: { name: service.name }, spec } as unknown as KubeObject;
  const said = diagnosePortMismatch(service, [deployment]);
  if (agrees) expect(said).toBeUndefined();
  else expect(said).toMatch(/^It is told PORT=\d+ and asked on \d+: /);
});

describe("a service that reaches nobody", () => {
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
  const says = (output: string, ...policies: KubeObject[]) =>
    diagnoseBlockedEgress(`before\n${output}\nafter`, service, [workload, ...policies]);

  // As Bun 1.4.5 prints them.
  test.each([
    'TypeError: getaddrinfo EAI_AGAIN db.shop.svc\n     path: "http://db.shop.svc/",',
    "DNSException: getaddrinfo ENOTFOUND db",
    'error: connect ECONNREFUSED 10.43.0.7:5432\n address: "10.43.0.7",',
    "connect ETIMEDOUT 10.43.0.7:5432",
    'TypeError: Unable to connect. Is the computer able to access the url?\n  path: "http://db/",\n  code: "ConnectionRefused"',
    'PostgresError: Failed to connect to 10.9.9.7:5432\n code: "ERR_POSTGRES_CONNECTION_REFUSED"',
    'RedisError: Connection closed\n code: "ERR_REDIS_CONNECTION_CLOSED"',
  ])("is told of a policy that lets nothing out: %s", (output) => {
    expect(says(output, closed)).toBe(
      "It does not reach somebody: NetworkPolicy own lets nothing out, not even to DNS; `slipway init --with egress` opens what is named.",
    );
  });

  test("is told of all that let out what is named", () => {
    expect(says("EAI_AGAIN", closed, named)).toBe(
      "It does not reach somebody: NetworkPolicy own, more lets out only what is named there.",
    );
  });

  // A client of Redis tries again for 10 s before it says anything.
  test("is told also where it waits without a word", () => {
    const said = (...policies: KubeObject[]) =>
      diagnoseBlockedEgress("", service, [workload, ...policies], true);
    expect(said(closed)).toStartWith("If it waits for somebody: NetworkPolicy own lets nothing out, ");
    expect(said()).toBeUndefined();
  });

  test.each<[string, KubeObject[]]>([
    ["there is none", []],
    ["it is about the way in", [policy({ policyTypes: ["Ingress"] })]],
    ["it says no types, and nothing of the way out", [policy({ ingress: [] })]],
    ["it lets everything out", [policy({ policyTypes: ["Egress"], egress: [{}] })]],
    ["another lets everything out", [closed, policy({ egress: [{ to: [], ports: [] }] })]],
    [
      "it is about other pods",
      [policy({ podSelector: { matchLabels: { app: "x" } }, policyTypes: ["Egress"] })],
    ],
  ])("is told nothing of a policy where %s", (_, policies) => {
    expect(says("EAI_AGAIN", ...policies)).toBeUndefined();
  });

  test.each([
    "connect ECONNREFUSED 127.0.0.1:5432",
    'error: connect ECONNREFUSED\n address: "::1",',
    'Unable to connect\n  path: "http://localhost:3000/",\n  code: "ConnectionRefused"',
    "Readiness probe failed: dial tcp 10.42.0.9:8080: connect: connection refused",
    "TypeError: undefined is not a function",
  ])("nothing is said of what no policy is about: %s", (output) => {
    expect(says(output, closed)).toBeUndefined();
  });
});
