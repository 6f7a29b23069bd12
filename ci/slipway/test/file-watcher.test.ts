/** Tests the file watcher with the ways in which editors and tools save files. */
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { watchForChanges } from "../core/file-watcher.ts";

// The tests are fast on an idle machine.
setDefaultTimeout(60_000);

let root: string;
let controller: AbortController;
let saves: AsyncGenerator<number>;
let notifications: number;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), "helloapp-saves-"));
  controller = new AbortController();
  notifications = 0;
  write("package.json", "{}");
  write("src/main.ts", "1");
  write("src/deep/er/part.ts", "1");
  saves = watchForChanges(root, controller.signal, () => void (notifications += 1));
  // The first value is the initial state.
  await saves.next();
});
afterEach(async () => {
  controller.abort(new Error("end of test"));
  await saves.next().catch(() => {});
  rmSync(root, { recursive: true });
});

function write(path: string, content: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
}

/** Saves like vim, VS Code on some file systems, and package managers. */
function writeByRename(path: string, content: string): void {
  const temporary = join(root, dirname(path), `.${content}.tmp`);
  writeFileSync(temporary, content);
  renameSync(temporary, join(root, path));
}

/** Waits for the next save, without a limit that a slow machine could exceed. */
async function nextSave(): Promise<void> {
  const { value, done } = await saves.next();
  expect({ done, isTime: typeof value }).toEqual({ done: false, isTime: "number" });
}

test.each(["package.json", "src/main.ts", "src/deep/er/part.ts"])("detects every save by rename: %s", async (path) => {
  for (const content of ["a", "b", "c"]) {
    const next = nextSave();
    writeByRename(path, content);
    await next;
  }
});

test("detects saves in place after a save by rename", async () => {
  for (const save of [writeByRename, write, write, writeByRename]) {
    const next = nextSave();
    save("package.json", `${Math.random()}`);
    await next;
  }
});

test.each(["created", "src/created", "src/deep/created"])(
  "detects files in a directory that was created later: %s",
  async (directory) => {
    // All at once, like a checkout or a copy: the files may exist before the directory is watched.
    let next = nextSave();
    write(`${directory}/a/b/c.ts`, "1");
    await next;
    for (const path of [`${directory}/a/b/c.ts`, `${directory}/a/d.ts`, `${directory}/e.ts`]) {
      for (const save of [write, writeByRename]) {
        next = nextSave();
        save(path, `${Math.random()}`);
        await next;
      }
    }
  },
);

test("watches a directory that replaces another", async () => {
  for (const content of ["x", "y"]) {
    let next = nextSave();
    write("other/main.ts", content);
    await next;
    next = nextSave();
    rmSync(join(root, "src"), { recursive: true });
    renameSync(join(root, "other"), join(root, "src"));
    await next;
    next = nextSave();
    write("src/main.ts", `${content}${content}`);
    await next;
  }
});

test("a save while the previous one is handled notifies immediately and is yielded next", async () => {
  // Between two calls of next(), the caller handles the previous save.
  const before = notifications;
  write("src/main.ts", "during");
  while (notifications === before) await Bun.sleep(10);
  await nextSave();
  // A save is not lost either while the files of the previous one are read.
  for (let index = 0; index < 5; index += 1) {
    const next = nextSave();
    write("src/main.ts", `${index}`);
    await next;
    write("src/main.ts", `${index}.5`);
    await nextSave();
  }
});

test("ignores build outputs and installed packages", async () => {
  const before = notifications;
  for (const path of ["node_modules/x/y.js", "dist/x", "helloapp.tar", ".git/HEAD", "src/node_modules/z.js"])
    write(path, "1");
  // Events are ordered, so any notification about these files comes before this one.
  const next = nextSave();
  write("src/main.ts", "last");
  await next;
  expect(notifications - before).toBeLessThan(5);
});
