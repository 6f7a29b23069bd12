/** The last words of a service that misses something in the image, and what is said of them. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { lastWords, otherPort } from "../cluster/lastwords.ts";
import type { KubeObject } from "../cluster/objects.ts";
import { service } from "./fixture.ts";

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
  expect(lastWords(`before\n${output}\nafter`, own)).toStartWith(words);
});

test.each([
  ["ENOENT: no such file or directory, posix_spawn '/bin/sh'", "/bin/sh"],
  ["Error: spawn git ENOENT", "git"],
  ['error: Executable not found in $PATH: "crontab"', "crontab"],
  ["bun: command not found: docker", "docker"],
])("a program: %s", (output, program) => {
  expect(lastWords(`before\n${output}\nafter`, own)).toBe(
    `It starts ${program}, and no other program is in the image, not even a shell.`,
  );
});

test.each([
  ["ENOENT: no such file or directory, open '/test'", "test"],
  ["ENOENT: no such file or directory, scandir './init/templates/'", "init/templates"],
  [
    "ENOENT: no such file or directory, open '/$bunfs/root/init/templates/Dockerfile'",
    "init/templates/Dockerfile",
  ],
  ["ENOENT: no such file or directory, open '/nowhere'\nENOENT: x, stat 'README.md'", "README.md"],
])("a file of the project: %s", (output, path) => {
  expect(lastWords(output, own)).toContain(`\`files: ["${path}"]\` in ci/pipeline.ts`);
});

test.each([
  "",
  "error: connect ECONNREFUSED",
  "TypeError: Attempted to assign to readonly property.",
  "ENOENT: no such file or directory, open '/nowhere'",
  "ENOENT: no such file or directory, open '/'",
  "ENOENT: no such file or directory, open '../slipway'",
])("nothing is said of other words: %s", (output) => expect(lastWords(output, own)).toBeUndefined());

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
  const said = otherPort(service, [deployment]);
  if (agrees) expect(said).toBeUndefined();
  else expect(said).toMatch(/^It is told PORT=\d+ and asked on \d+: /);
});
