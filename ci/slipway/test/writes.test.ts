/** A service that writes where nothing can be written: its last words, and what is said of them. */
import { expect, test } from "bun:test";
import { writesHint } from "../cluster/writes.ts";

test.each([
  ["EROFS: read-only file system, mkdir '/storage'", "It writes to /storage,"],
  ["Error: EROFS: read-only file system, open '/app/log.txt'\n   errno: -30", "It writes to /app/log.txt,"],
  ["EROFS: read-only file system, rename '/tmp/a' -> '/data/a'", "It writes to /data/a,"],
  ["SQLiteError: unable to open database file", "It writes to a file,"],
  ['   code: "SQLITE_CANTOPEN"', "It writes to a file,"],
  ["SQLiteError: attempt to write a readonly database", "It writes to a file,"],
  ["sh: can't create x: Read-only file system", "It writes to a file,"],
])("%s", (output, words) => {
  expect(writesHint(`before\n${output}\nafter`)).toStartWith(words);
});

test.each(["", "error: connect ECONNREFUSED", "TypeError: Attempted to assign to readonly property."])(
  "nothing is said of other words: %s",
  (output) => expect(writesHint(output)).toBeUndefined(),
);
