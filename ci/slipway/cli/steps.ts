/** The steps that need no cluster: check, test, image; alone or side by side. */
import { readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { gitCommit } from "../core/git.ts";
import { isRunning } from "../core/process.ts";
import type { StepResult } from "../core/report.ts";
import { cacheDirectoryOf, type Service } from "../core/service-config.ts";
import { writeArchive } from "../image/archive-writer.ts";
import type { Architecture } from "../image/platform.ts";
import { readArchive } from "../image/archive-reader.ts";
import { hasSbom, writeSbom } from "../image/sbom.ts";
import { assertNoShadowingBun } from "./bun-version.ts";
import { printError } from "./error-output.ts";
import { isProjectError, type CommandContext } from "./context.ts";

/** Milliseconds after which nobody works on a half-written binary any more. */
const ABANDONED_MS = 600_000;

export function runCheck(context: CommandContext): Promise<void> {
  return script(context, "check", context.service.scripts.check);
}

export function runTests(context: CommandContext): Promise<void> {
  return script(context, "test", context.service.scripts.test);
}

function script(
  { report, engine, service, signal }: CommandContext,
  step: string,
  name: string | undefined,
): Promise<void> {
  return report.step(step, async () => {
    if (name === undefined) {
      return { value: undefined, skipped: true, detail: "package.json has no script for it" };
    }
    await assertNoShadowingBun(service, signal);
    const { unchanged } = await engine.runScript(name);
    const detail = unchanged ? "passed before, on these files" : "";
    return { value: undefined, reused: unchanged, detail };
  });
}

/** An archive for each platform, named after it where there are several. @returns what was made, as a sentence */
export async function buildArchives(context: CommandContext): Promise<string> {
  const { architectures = [undefined], output } = context.options;
  const made: string[] = [];
  for (const architecture of architectures) {
    const own = architectures.length > 1 ? output.replace(/(\.tar)?$/, `-${architecture}$&`) : output;
    const id = await buildArchive(context, context.engine.computeId(architecture), {
      architecture,
      output: own,
    });
    made.push(`${basename(own)} holds ${context.imageNameOf(id)}`);
  }
  return made.join(", ");
}

/** Whether an archive is needed after all. */
export interface DeliveryState {
  /** Where the image is already, in a few words, if that makes the archive unnecessary. */
  place?: string | undefined;
  /** Nobody will need it: there is no way to where it would go. */
  cancelled?: boolean;
}

export interface BuildArchiveOptions {
  architecture?: Architecture | undefined;
  /** Default: the run's. */
  output?: string;
  /** Default: it is nowhere. */
  elsewhere?: Promise<DeliveryState>;
}

/**
 * The archive of an id, unless it is there. What is in it is built before it is known whether it is elsewhere, because to ask there
 * takes as long.
 *
 * @throws {PipelineError} "project" when the source does not compile, or was edited meanwhile
 */
export function buildArchive(
  context: CommandContext,
  identified: Promise<string>,
  {
    architecture = context.options.architectures?.[0],
    output = context.options.output,
    elsewhere = Promise.resolve({}),
  }: BuildArchiveOptions = {},
): Promise<string> {
  const { service, engine, signal } = context;
  return context.report.step("image", async () => {
    const id = await identified;
    const { tags, compression = "none" } = context.options;
    const names = [id, ...tags].map((tag) => context.imageNameOf(tag));
    const done = (how: string, reused: boolean) => ({
      value: id,
      detail: `${basename(output)} ${how}: ${names.join(", ")}`,
      reused,
    });
    const unneeded = ({ place, cancelled = false }: DeliveryState): StepResult<string> | undefined => {
      if (place === undefined && !cancelled) return undefined;
      return { value: id, detail: `${context.imageNameOf(id)} is ${place}`, reused: true, cancelled };
    };
    const early = Bun.peek.status(elsewhere) === "pending" ? undefined : unneeded(await elsewhere);
    if (early) return early;
    const there = await readArchive(output).catch(() => undefined);
    const same = there?.names.join() === names.join() && there.packed === (compression !== "none");
    const isThere = same && (await hasSbom(service, output, id));
    if (isThere) return unneeded(await elsewhere) ?? done("is there already", true);
    // Where neither a check nor `watch` sees it come and go.
    const dist = join(cacheDirectoryOf(service), `dist-${process.pid}`);
    await removeLeftovers(service);
    const building = engine.build(dist, architecture);
    building.catch(() => {});
    let reused = false;
    try {
      const late = unneeded(await elsewhere);
      if (late) return late;
      const built = await building;
      reused = built.reused;
      for (const warning of built.warnings) context.log(warning);
      if (built.id !== id) {
        const message = `the source changed while it was built (${id} became ${built.id})`;
        throw new PipelineError("project", message, { hint: "Run the command again." });
      }
      const revision = await gitCommit(service.project, signal);
      await writeArchive(output, { service, dist, names, revision, platform: built.platform, compression });
      await writeSbom(dist, output);
    } finally {
      await building.catch(() => {});
      await rm(dist, { recursive: true, force: true });
    }
    const { size } = await stat(output);
    return done(`(${(size / 1e6).toFixed(1)} MB)${reused ? " of what the engine had" : ""}`, reused);
  });
}

/** Check, test and the archives, side by side. @returns what was made, as a sentence */
export async function checkTestAndBuild(context: CommandContext): Promise<string> {
  const [, , made] = await runInParallel(context, [
    runCheck(context),
    runTests(context),
    buildArchives(context),
  ]);
  return made as string;
}

/** Waits for all, then reports every failure: a person wants to hear of the type error and of the red test. */
export async function runInParallel(
  { options, service, signal }: CommandContext,
  steps: unknown[],
): Promise<unknown[]> {
  const results = await Promise.allSettled(steps);
  signal.throwIfAborted();
  const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
  // The one that is thrown decides the exit code: the change's fault, where it is at fault too.
  const decisive = failures.find(isProjectError) ?? failures[0];
  for (const other of failures) if (other !== decisive) printError(other, options.verbose, service);
  if (decisive) throw decisive;
  return results.map((result) => (result.status === "fulfilled" ? result.value : undefined));
}

/** Removes what runs that were killed have left half-built: each is over 100 MB. */
async function removeLeftovers(service: Service): Promise<void> {
  const cache = cacheDirectoryOf(service);
  for (const name of await readdir(cache).catch(() => [])) {
    const [, pid] = /^(?:dist|verify)-(\d+)/.exec(name) ?? [];
    if (pid && !isRunning(Number(pid))) await rm(join(cache, name), { recursive: true, force: true });
  }
  // The compiler's own, in its working directory. That is always the project: the binary depends on where it is.
  for (const name of await readdir(service.project)) {
    if (!name.endsWith(".bun-build")) continue;
    const file = join(service.project, name);
    const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: Infinity }));
    if (Date.now() - mtimeMs > ABANDONED_MS) await rm(file, { force: true });
  }
}
