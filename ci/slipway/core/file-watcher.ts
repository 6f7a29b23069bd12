/** Saves of the project's files, for `watch`. */
import { readdirSync, statSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { projectFilesDigest } from "./project-files.ts";

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
export async function* watchForSaves(
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
  const below = new Watchers(root, changed);
  const own = watch(root, (event, name) => {
    below.renew();
    changed(event, name);
  });
  below.renew();
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
        const now = await projectFilesDigest(root, signal);
        if (now === digest) continue;
        digest = now;
        yield saved;
      }
    }
  } finally {
    own.close();
    below.close();
  }
  signal.throwIfAborted();
}

/**
 * Of the directories in `root`, each with all that is below it. Not of the whole tree: node_modules alone may have more
 * directories than the system lets one watch.
 */
class Watchers {
  /** By name, with the inode: what has taken the place of another directory is another one. */
  readonly #watched = new Map<string, { inode: number; watcher: FSWatcher }>();

  constructor(
    private readonly root: string,
    private readonly changed: (event: unknown, name: string | null) => void,
  ) {}

  /** Watches what is there now, and that alone. */
  renew(): void {
    const there = new Map(directoriesIn(this.root));
    for (const [name, { inode, watcher }] of this.#watched) {
      if (there.get(name) === inode) continue;
      watcher.close();
      this.#watched.delete(name);
    }
    for (const [name, inode] of there) {
      if (this.#watched.has(name)) continue;
      try {
        const watcher = watch(join(this.root, name), { recursive: true }, this.changed);
        this.#watched.set(name, { inode, watcher });
      } catch (error) {
        // Gone again: then that is a change of its own.
        if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      }
    }
  }

  close(): void {
    for (const { watcher } of this.#watched.values()) watcher.close();
    this.#watched.clear();
  }
}

function directoriesIn(root: string): [name: string, inode: number][] {
  return readdirSync(root, { withFileTypes: true }).flatMap((entry): [string, number][] => {
    if (!entry.isDirectory() || ignored.test(entry.name)) return [];
    const found = statSync(join(root, entry.name), { throwIfNoEntry: false });
    return found ? [[entry.name, found.ino]] : [];
  });
}
