/** Watches the project's files for `watch`. */
import { readdirSync, statSync, watch, type FSWatcher } from "node:fs";
import { join } from "node:path";
import { projectFilesDigest } from "./project-files.ts";

/** Debounce time, because editors save in several steps. */
const DEBOUNCE_MS = 40;
/** Files that nobody edits by hand, and files that are written all the time. */
const ignored = /(^|\/)(node_modules|\.git|dist)(\/|$)|\.tar(\.part)?$|\.cdx\.json(\.part)?$|\.bun-build$|~$|\.swp$/;

/**
 * Yields the current time first, and then the time of each change, in milliseconds since 1970. Changes that occur while the
 * caller still handles the previous one are merged. A save that leaves all files unchanged is ignored.
 *
 * @param root directory to watch, except for build outputs and installed packages
 * @param onChange called immediately for each change, even while the caller handles the previous one
 */
export async function* watchForChanges(
  root: string,
  signal: AbortSignal,
  onChange: () => void,
): AsyncGenerator<number> {
  let firstChange: number | undefined = Date.now();
  let lastChange = 0;
  let digest = "";
  let wake = () => {};
  const handleEvent = (_: unknown, name: string | null) => {
    if (name === null || ignored.test(name)) return;
    lastChange = Date.now();
    firstChange ??= lastChange;
    onChange();
    wake();
  };
  const subdirectories = new SubdirectoryWatchers(root, handleEvent);
  const rootWatcher = watch(root, (event, name) => {
    subdirectories.update();
    handleEvent(event, name);
  });
  subdirectories.update();
  signal.addEventListener("abort", () => wake(), { once: true });
  try {
    while (!signal.aborted) {
      if (firstChange === undefined) {
        await new Promise<void>((resolve) => (wake = resolve));
      } else if (Date.now() - lastChange < DEBOUNCE_MS) {
        await Bun.sleep(DEBOUNCE_MS);
      } else {
        const time = firstChange;
        firstChange = undefined;
        const newDigest = await projectFilesDigest(root, signal);
        if (newDigest === digest) continue;
        digest = newDigest;
        yield time;
      }
    }
  } finally {
    rootWatcher.close();
    subdirectories.close();
  }
  signal.throwIfAborted();
}

/**
 * Watches each directory in `root` recursively, except for ignored ones. node_modules alone can have more directories than the
 * system's limit of watches.
 */
class SubdirectoryWatchers {
  /** By name. The inode detects a directory that was replaced. */
  readonly #watched = new Map<string, { inode: number; watcher: FSWatcher }>();

  constructor(
    private readonly root: string,
    private readonly onEvent: (event: unknown, name: string | null) => void,
  ) {}

  /** Adds watchers for new directories and removes those of deleted ones. */
  update(): void {
    const current = new Map(directoriesIn(this.root));
    for (const [name, { inode, watcher }] of this.#watched) {
      if (current.get(name) === inode) continue;
      watcher.close();
      this.#watched.delete(name);
    }
    for (const [name, inode] of current) {
      if (this.#watched.has(name)) continue;
      try {
        const watcher = watch(join(this.root, name), { recursive: true }, this.onEvent);
        this.#watched.set(name, { inode, watcher });
      } catch (error) {
        // The directory was removed meanwhile, which is another event.
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
    const stats = statSync(join(root, entry.name), { throwIfNoEntry: false });
    return stats ? [[entry.name, stats.ino]] : [];
  });
}
