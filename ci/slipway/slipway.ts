/** Package entry point. index.d.ts documents it. */
import { dirname } from "node:path";
import { main } from "./cli/main.ts";
import type * as declarations from "./index.d.ts";
import type { Settings } from "./index.d.ts";

export async function pipeline(meta: ImportMeta, settings: Settings = {}): Promise<never> {
  // Only Bun's type of import.meta has `dir`, and a service may be checked without Bun's types.
  const { dir } = meta as ImportMeta & { dir: string };
  process.exit(await main(process.argv.slice(2), dirname(dir), settings));
}

// Keeps the implementation in line with index.d.ts.
({ pipeline }) satisfies typeof declarations;
