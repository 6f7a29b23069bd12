/** The last words of a service that misses something in the image, and what is said of them. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { lastWords } from "../cluster/lastwords.ts";

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
