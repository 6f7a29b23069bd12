/** Which Bun runs: the one that the service pins, and no other one that a script would find before it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";
import { findWorkspaceRoot, type Service } from "../core/service-config.ts";
import { engines } from "../package.json";
import { pins } from "../core/pins.ts";

/** What to do about a Bun that is too old. */
export const UPGRADE_HINT = `Renew it there, or say \`bun: "${Bun.version}"\` in ci/pipeline.ts: the image has that one.`;

/** Where the pinned Bun is older than what this needs, that as a sentence. */
export function outdatedBunMessage(bun: string | undefined): string | undefined {
  if (bun === undefined || Bun.semver.satisfies(bun, engines.bun)) return undefined;
  return `the service pins Bun ${bun}, by .bun-version or package.json's packageManager, and slipway needs ${engines.bun}`;
}

/** @throws {PipelineError} "environment" when another Bun runs than the service pins */
export function assertPinnedBun({ bun }: Service): void {
  if (bun === undefined || bun === Bun.version) return;
  const old = outdatedBunMessage(bun);
  if (old !== undefined)
    throw new PipelineError("environment", `${old}; nothing was changed`, { hint: UPGRADE_HINT });
  throw new PipelineError(
    "environment",
    `the service pins Bun ${bun}, and this is ${Bun.version}; nothing was changed`,
    {
      hint: `\`npx -y bun@${bun} ci/pipeline.ts\` runs it with the pinned one.`,
    },
  );
}

/**
 * `bun run` finds the Bun that a dependency brought before the one on PATH: `bun-plugin-tailwind` brings one.
 *
 * @param bun the one that runs this
 * @throws {PipelineError} "environment" when it is older than what this needs
 */
export function assertSupportedBun(
  project: string,
  bun = { version: Bun.version, path: process.execPath },
): void {
  if (Bun.semver.satisfies(bun.version, engines.bun)) return;
  const isBrought = bun.path.startsWith(join(findWorkspaceRoot(project), "node_modules/"));
  const how = isBrought ? `, which a dependency brought to ${bun.path}` : "";
  throw new PipelineError(
    "environment",
    `this runs in Bun ${bun.version}${how}, and slipway needs ${engines.bun}; nothing was changed`,
    { hint: isBrought ? override(pins.bun) : "`bun upgrade` brings one." },
  );
}

const override = (version: string) =>
  `\`bun pm why bun\` tells which; for package.json, before \`bun install\`: "overrides": { "bun": "${version}" }.`;

/**
 * A package's script finds what dependencies brought into node_modules/.bin before anything on PATH, another Bun too.
 *
 * @returns that there is one, as an error with what to do
 */
export async function findShadowingBun(
  { project, root }: Service,
  signal: AbortSignal,
): Promise<PipelineError | undefined> {
  for (const directory of new Set([project, root])) {
    const other = join(directory, "node_modules/.bin/bun");
    if (!existsSync(other)) continue;
    const { stdout } = await runProcess([other, "--version"], { signal, timeoutSeconds: 10 });
    if (stdout.trim() === Bun.version) continue;
    return new PipelineError(
      "environment",
      `scripts would run Bun ${stdout.trim() || "of another kind"}, which a dependency brought to ${other}, and not ${Bun.version}`,
      { hint: override(Bun.version) },
    );
  }
  return undefined;
}

/** @throws {PipelineError} "environment" when there is another Bun */
export async function assertNoShadowingBun(service: Service, signal: AbortSignal): Promise<void> {
  const other = await findShadowingBun(service, signal);
  if (other) throw other;
}
