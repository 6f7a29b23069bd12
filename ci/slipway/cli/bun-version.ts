/** Checks the version of Bun: the service's pin, slipway's minimum, and copies in node_modules that shadow it. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";
import { findWorkspaceRoot, type Service } from "../core/resolve-service.ts";
import { engines } from "../package.json";
import { pins } from "../core/pins.ts";

/** Hint for a pinned Bun that is too old. */
export const UPGRADE_HINT = `Update the pin, or set \`bun: "${Bun.version}"\` in ci/pipeline.ts to build the image with that version.`;

/** Returns a message if the pinned Bun is older than slipway's minimum. */
export function outdatedBunMessage(bun: string | undefined): string | undefined {
  if (bun === undefined || Bun.semver.satisfies(bun, engines.bun)) return undefined;
  return `the service pins Bun ${bun} in .bun-version or package.json (packageManager), but slipway needs ${engines.bun}`;
}

/** @throws {PipelineError} "environment" if the running Bun is not the pinned version */
export function assertPinnedBun({ bun }: Service): void {
  if (bun === undefined || bun === Bun.version) return;
  const outdated = outdatedBunMessage(bun);
  if (outdated !== undefined)
    throw new PipelineError("environment", `${outdated}. Nothing was changed`, {
      code: "bun-pin-mismatch",
      hint: UPGRADE_HINT,
    });
  throw new PipelineError(
    "environment",
    `the service pins Bun ${bun}, but Bun ${Bun.version} is running. Nothing was changed`,
    { code: "bun-pin-mismatch", hint: `Run \`npx -y bun@${bun} ci/pipeline.ts\` to use the pinned version.` },
  );
}

/**
 * Checks that the running Bun is new enough. `bun run` prefers a Bun in node_modules to the one on PATH, and
 * `bun-plugin-tailwind` installs one there.
 *
 * @param bun version and path of the running Bun
 * @throws {PipelineError} "environment" if it is older than slipway's minimum
 */
export function assertSupportedBun(project: string, bun = { version: Bun.version, path: process.execPath }): void {
  if (Bun.semver.satisfies(bun.version, engines.bun)) return;
  const isDependency = bun.path.startsWith(join(findWorkspaceRoot(project), "node_modules/"));
  const origin = isDependency ? ` (installed by a dependency at ${bun.path})` : "";
  throw new PipelineError(
    "environment",
    `slipway needs Bun ${engines.bun}, but Bun ${bun.version}${origin} is running. Nothing was changed`,
    { code: "bun-outdated", hint: isDependency ? overrideHint(pins.bun) : "Run `bun upgrade`." },
  );
}

const overrideHint = (version: string) =>
  `Find the dependency with \`bun pm why bun\`. Add "overrides": { "bun": "${version}" } to package.json, then run \`bun install\`.`;

/**
 * Finds another version of Bun in node_modules/.bin, which the scripts of package.json would run instead of the one on PATH.
 *
 * @returns an error with a hint, or undefined if there is none
 */
export async function findShadowingBun(
  { project, root }: Service,
  signal: AbortSignal,
): Promise<PipelineError | undefined> {
  for (const directory of new Set([project, root])) {
    const path = join(directory, "node_modules/.bin/bun");
    if (!existsSync(path)) continue;
    const { stdout } = await runProcess([path, "--version"], { signal, timeoutSeconds: 10 });
    if (stdout.trim() === Bun.version) continue;
    return new PipelineError(
      "environment",
      `scripts would run Bun ${stdout.trim() || "(unknown version)"} at ${path}, which a dependency installed, and not ${Bun.version}`,
      { code: "bun-shadowed", hint: overrideHint(Bun.version) },
    );
  }
  return undefined;
}

/** @throws {PipelineError} "environment" if scripts would run another Bun */
export async function assertNoShadowingBun(service: Service, signal: AbortSignal): Promise<void> {
  const error = await findShadowingBun(service, signal);
  if (error) throw error;
}
