/** Detects the port in the entry and in the modules that it imports. */
import { readFileSync } from "node:fs";
import { relative } from "node:path";
import { modulesImportedBy } from "../core/imported-modules.ts";
import { findPort, findServerPortOf, hasHardcodedPort } from "./port-detection.ts";

export interface DetectedPort {
  port: number | undefined;
  /** The module with the port, relative to the project. */
  portModule: string | undefined;
  /** Whether a node:http server ignores $PORT. */
  isFixed: boolean;
}

/** The result for a source that names no port. */
export const NO_PORT: DetectedPort = { port: undefined, portModule: undefined, isFixed: false };

/** Reads the modules in the order of their imports, so that the one nearest to the entry counts. */
export function detectPort(project: string, entry: string): DetectedPort {
  for (const [at, file] of modulesImportedBy(project, entry).entries()) {
    const source = readFileSync(file, "utf8");
    const isEntry = at === 0;
    const port = isEntry ? findPort(source) : findServerPortOf(source);
    if (port !== undefined)
      return { port, portModule: relative(project, file), isFixed: hasHardcodedPort(source, !isEntry) };
  }
  return NO_PORT;
}
