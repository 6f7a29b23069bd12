/** Saves of the project's files, for `watch`. */
import { readdirSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { digestOfFiles } from "./files.ts";

/** Milliseconds without a further change after which a save counts as ended: editors write in several steps. */
const QUIET_MS = 40;
/** What no save of a person's touches, and what is written all the time. */
const ignored =
  /(^|\/)(node_modules|\.git|dist)(\/|$)|\.tar(\.part)?$|\.cdx\.json(\.part)?$|\.bun-build$|~$|\.swp$/;

/**
 * The time of each save, in milliseconds since 1970, and first of all now. Saves that come while the one before is still
 * worked on are one; one that leaves every file as it was is none.
 *
 * @param root what is below it is watched, but for what is built or installed
 * @param onSave called at once, also while the one before is still worked on
 */
export async function* savesIn(
  root: string,
  signal: AbortSignal,
  onSave: () => void,
): AsyncGenerator<number> {
  let first: number | undefined = Date.now();
  let last = 0;
  let digest = "";
  let wake = () => {};
  const changed = (_: unknown, name: string | null) => {
    if (name === null || ignored.test(name)) return;
    last = Date.now();
    first ??= last;
    onSave();
    wake();
  };
  const watchers: FSWatcher[] = [watch(root, changed)];
  // Not the whole tree: node_modules alone may have more directories than the system lets one watch.
  for (const entry of readdirSync(root, { withFileTypes: true })) {
    if (!entry.isDirectory() || ignored.test(entry.name)) continue;
    watchers.push(watch(join(root, entry.name), { recursive: true }, changed));
  }
  signal.addEventListener("abort", () => wake(), { once: true });
  try {
    while (!signal.aborted) {
      if (first === undefined) {
        await new Promise<void>((resolve) => (wake = resolve));
      } else if (Date.now() - last < QUIET_MS) {
        await Bun.sleep(QUIET_MS);
      } else {
        const saved = first;
        first = undefined;
        const now = await digestOfFiles(root, signal);
        if (now === digest) continue;
        digest = now;
        yield saved;
      }
    }
  } finally {
    for (const watcher of watchers) watcher.close();
  }
  signal.throwIfAborted();
}
