/** Which Bun runs: the one that the service pins, and no other one that a script would find before it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { run } from "../ground/process.ts";
import type { Service } from "../ground/service.ts";
import { engines } from "../package.json";

/** What to do about a Bun that is too old. */
export const RENEW = `Renew it there, or say \`bun: "${Bun.version}"\` in ci/pipeline.ts: the image has that one.`;

/** Where the pinned Bun is older than what this needs, that as a sentence. */
export function tooOld(bun: string | undefined): string | undefined {
  if (bun === undefined || Bun.semver.satisfies(bun, engines.bun)) return undefined;
  return `the service pins Bun ${bun}, by .bun-version or package.json's packageManager, and slipway needs ${engines.bun}`;
}

/** @throws {PipelineError} "surroundings" when another Bun runs than the service pins */
export function requireBun({ bun }: Service): void {
  if (bun === undefined || bun === Bun.version) return;
  const old = tooOld(bun);
  if (old !== undefined)
    throw new PipelineError("surroundings", `${old}; nothing was changed`, { hint: RENEW });
  throw new PipelineError(
    "surroundings",
    `the service pins Bun ${bun}, and this is ${Bun.version}; nothing was changed`,
    {
      hint: `\`npx -y bun@${bun} ci/pipeline.ts\` runs it with the pinned one.`,
    },
  );
}

/**
 * A package's script finds what dependencies brought into node_modules/.bin before anything on PATH, another Bun too.
 *
 * @throws {PipelineError} "surroundings" when there is one
 */
export async function refuseOtherBun({ project, root }: Service, signal: AbortSignal): Promise<void> {
  for (const directory of new Set([project, root])) {
    const other = join(directory, "node_modules/.bin/bun");
    if (!existsSync(other)) continue;
    const { stdout } = await run([other, "--version"], { signal, timeoutSeconds: 10 });
    if (stdout.trim() === Bun.version) continue;
    throw new PipelineError(
      "surroundings",
      `scripts would run Bun ${stdout.trim() || "of another kind"}, which a dependency brought to ${other}, and not ${Bun.version}`,
      { hint: "`bun pm why bun` tells which; an entry in package.json's `overrides` gives it this version." },
    );
  }
}
