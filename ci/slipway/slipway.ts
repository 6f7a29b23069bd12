/** The package's public face; index.d.ts explains it. */
import { dirname } from "node:path";
import { main } from "./cli/main.ts";
import type * as face from "./index.d.ts";
import type { Settings } from "./index.d.ts";

export async function pipeline(meta: ImportMeta, settings: Settings = {}): Promise<never> {
  // Bun's import.meta; a service's own types need not know it.
  const { dir } = meta as ImportMeta & { dir: string };

  // What is said there is what is here.
  ({ pipeline }) satisfies typeof face;
  process.exit(await main(process.argv.slice(2), dirname(dir), settings));
}

// What is said there is what is here.
({ pipeline }) satisfies typeof face;
