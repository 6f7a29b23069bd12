/** What `watch` sees of a person's saves, in a directory that editors and tools write to. */
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { watchForSaves } from "../core/file-watcher.ts";

// Nothing here takes long by itself, on a machine that is not busy with other things.
setDefaultTimeout(60_000);

let root: string;
let ended: AbortController;
let saves: AsyncGenerator<number>;
let told: number;

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), "helloapp-saves-"));
  ended = new AbortController();
  told = 0;
  write("package.json", "{}");
  write("src/main.ts", "1");
  write("src/deep/er/part.ts", "1");
  saves = watchForSaves(root, ended.signal, () => void (told += 1));
  // The first is what is there.
  await saves.next();
});
afterEach(async () => {
  ended.abort(new Error("enough"));
  await saves.next().catch(() => {});
  rmSync(root, { recursive: true });
});

function write(path: string, content: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
}

/** As vim, VS Code on some file systems, and package managers do it. */
function writeByRename(path: string, content: string): void {
  const temporary = join(root, dirname(path), `.${content}.tmp`);
  writeFileSync(temporary, content);
  renameSync(temporary, join(root, path));
}

/** Waits for a save; how long that takes is the machine's. */
async function saved(): Promise<void> {
  const { value, done } = await saves.next();
  expect({ done, isTime: typeof value }).toEqual({ done: false, isTime: "number" });
}

test.each(["package.json", "src/main.ts", "src/deep/er/part.ts"])(
  "a save by rename is seen each time: %s",
  async (path) => {
    for (const content of ["a", "b", "c"]) {
      const next = saved();
      writeByRename(path, content);
      await next;
    }
  },
);

test("a save in place after one by rename is seen", async () => {
  for (const save of [writeByRename, write, write, writeByRename]) {
    const next = saved();
    save("package.json", `${Math.random()}`);
    await next;
  }
});

test.each(["made", "src/made", "src/deep/made"])(
  "files of a directory that was made later are seen: %s",
  async (directory) => {
    // All at once, as a checkout or a copy makes it: the files may be there before anybody watches.
    let next = saved();
    write(`${directory}/a/b/c.ts`, "1");
    await next;
    for (const path of [`${directory}/a/b/c.ts`, `${directory}/a/d.ts`, `${directory}/e.ts`]) {
      for (const save of [write, writeByRename]) {
        next = saved();
        save(path, `${Math.random()}`);
        await next;
      }
    }
  },
);

test("a directory that takes the place of another is watched", async () => {
  for (const content of ["x", "y"]) {
    let next = saved();
    write("other/main.ts", content);
    await next;
    next = saved();
    rmSync(join(root, "src"), { recursive: true });
    renameSync(join(root, "other"), join(root, "src"));
    await next;
    next = saved();
    write("src/main.ts", `${content}${content}`);
    await next;
  }
});

test("a save during a deploy is the next one, and tells at once", async () => {
  // Between two calls of next() somebody works on the save before.
  const before = told;
  write("src/main.ts", "during");
  while (told === before) await Bun.sleep(10);
  await saved();
  // Nor is one lost that comes while the files of the one before are read.
  for (let index = 0; index < 5; index += 1) {
    const next = saved();
    write("src/main.ts", `${index}`);
    await next;
    write("src/main.ts", `${index}.5`);
    await saved();
  }
});

test("what is built or installed is no save", async () => {
  const before = told;
  for (const path of ["node_modules/x/y.js", "dist/x", "helloapp.tar", ".git/HEAD", "src/node_modules/z.js"])
    write(path, "1");
  // Whatever was told of those was told before this.
  const next = saved();
  write("src/main.ts", "last");
  await next;
  expect(told - before).toBeLessThan(5);
});
