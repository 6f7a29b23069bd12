#!/usr/bin/env bun
/** `slipway`: the pipeline of the service in this directory, or what one needs to begin. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { main } from "./main.ts";
import type { Settings } from "../index.d.ts";

const project = process.cwd();
const words = process.argv.slice(2);
const pipeline = join(project, "ci/pipeline.ts");

/** Whether ci/pipeline.ts finds the package that it imports: in a fresh clone nothing is installed yet. */
function isInstalled(): boolean {
  try {
    Bun.resolveSync("slipway", join(project, "ci"));
    return true;
  } catch {
    return false;
  }
}

/** Gives ci/pipeline.ts this package as the one that it imports. */
function standIn(): void {
  const run = async (_: ImportMeta, settings: Settings = {}) =>
    process.exit(await main(words, project, settings));
  Bun.plugin({
    name: "slipway",
    setup: (build) => void build.module("slipway", () => ({ exports: { pipeline: run }, loader: "object" })),
  });
}

if (existsSync(pipeline) && isInstalled()) await import(pipeline);
// What the service says of itself counts as well for `init`, which adds the package.
else if (existsSync(pipeline) && words.includes("init")) {
  standIn();
  await import(pipeline);
} else process.exit(await main(words, project));
