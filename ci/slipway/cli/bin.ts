#!/usr/bin/env bun
/** The `slipway` program: runs ci/pipeline.ts of this directory, or the commands that work without it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { main } from "./main.ts";
import type { Settings } from "../index.d.ts";

const project = process.cwd();
const words = process.argv.slice(2);
const pipeline = join(project, "ci/pipeline.ts");

/** Whether ci/pipeline.ts can import slipway. In a fresh clone no package is installed yet. */
function isInstalled(): boolean {
  try {
    Bun.resolveSync("slipway", join(project, "ci"));
    return true;
  } catch {
    return false;
  }
}

/** Resolves the import of slipway in ci/pipeline.ts to this package. */
function provideSlipway(): void {
  const run = async (_: ImportMeta, settings: Settings = {}) => process.exit(await main(words, project, settings));
  Bun.plugin({
    name: "slipway",
    setup: (build) => void build.module("slipway", () => ({ exports: { pipeline: run }, loader: "object" })),
  });
}

if (existsSync(pipeline) && isInstalled()) await import(pipeline);
// `init` needs the settings of ci/pipeline.ts before the package is installed.
else if (existsSync(pipeline) && words.includes("init")) {
  provideSlipway();
  await import(pipeline);
} else process.exit(await main(words, project));
