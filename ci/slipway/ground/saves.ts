/** Saves of the files that make a version, for `watch`. */
import { watch } from "node:fs";
import { join } from "node:path";

/** What makes a version or proves one. The pipeline itself is not among it: what runs is already loaded. */
export const watched = ["src", "test", "k8s", "package.json", "bun.lock", "tsconfig.json"];
/** Milliseconds without a further change after which a save counts as ended: editors write in several steps. */
const QUIET_MS = 40;

/**
 * The time of each save, in milliseconds since 1970, and first of all now. Saves that come while the one before is still
 * worked on are one.
 *
 * @param onSave called at once, also while the one before is still worked on
 */
export async function* savesIn(
  project: string,
  signal: AbortSignal,
  onSave: () => void,
): AsyncGenerator<number> {
  let first: number | undefined = Date.now();
  let last = 0;
  let wake = () => {};
  const changed = () => {
    last = Date.now();
    first ??= last;
    onSave();
    wake();
  };
  const watchers = watched.map((path) => watch(join(project, path), { recursive: true }, changed));
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
        yield saved;
      }
    }
  } finally {
    for (const watcher of watchers) watcher.close();
  }
  signal.throwIfAborted();
}
