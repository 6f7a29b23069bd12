#!/usr/bin/env bun
/** `slipway`: the pipeline of the service in this directory, or what one needs to begin. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { main } from "./main.ts";

const project = process.cwd();
const words = process.argv.slice(2);

/** Whether ci/pipeline.ts is there and finds the package that it imports: in a fresh clone nothing is installed yet. */
function hasPipeline(): boolean {
  if (!existsSync(join(project, "ci/pipeline.ts"))) return false;
  try {
    Bun.resolveSync("slipway", join(project, "ci"));
    return true;
  } catch {
    return false;
  }
}

if (hasPipeline()) await import(join(project, "ci/pipeline.ts"));
else process.exit(await main(words, project));
