/** The steps that need no cluster: check, test, image; alone or side by side. */
import { readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { gitCommit } from "../core/git.ts";
import { isRunning } from "../core/process.ts";
import type { Done } from "../core/report.ts";
import { cacheOf, type Service } from "../core/service-config.ts";
import { writeArchive } from "../image/archive-writer.ts";
import type { Architecture } from "../image/platform.ts";
import { readArchive } from "../image/archive-reader.ts";
import { hasSbom, placeSbom } from "../image/sbom.ts";
import { refuseOtherBun } from "./bun-version.ts";
import { printError } from "./error-output.ts";
import { isChange, type Run } from "./context.ts";

/** Milliseconds after which nobody works on a half-written binary any more. */
const ABANDONED_MS = 600_000;

export function check(run: Run): Promise<void> {
  return script(run, "check", run.service.scripts.check);
}

export function test(run: Run): Promise<void> {
  return script(run, "test", run.service.scripts.test);
}

function script(
  { report, engine, service, signal }: Run,
  step: string,
  name: string | undefined,
): Promise<void> {
  return report.step(step, async () => {
    if (name === undefined) {
      return { value: undefined, absent: true, detail: "package.json has no script for it" };
    }
    await refuseOtherBun(service, signal);
    const { unchanged } = await engine.script(name);
    const detail = unchanged ? "passed before, on these files" : "";
    return { value: undefined, reused: unchanged, detail };
  });
}

/** An archive for each platform, named after it where there are several. @returns what was made, as a sentence */
export async function images(run: Run): Promise<string> {
  const { architectures = [undefined], output } = run.options;
  const made: string[] = [];
  for (const architecture of architectures) {
    const own = architectures.length > 1 ? output.replace(/(\.tar)?$/, `-${architecture}$&`) : output;
    const id = await image(run, run.engine.id(architecture), { architecture, output: own });
    made.push(`${basename(own)} holds ${run.nameOf(id)}`);
  }
  return made.join(", ");
}

/** Whether an archive is needed after all. */
export interface Elsewhere {
  /** Where the image is already, in a few words, if that makes the archive unnecessary. */
  place?: string | undefined;
  /** Nobody will need it: there is no way to where it would go. */
  givenUp?: boolean;
}

export interface Imaging {
  architecture?: Architecture | undefined;
  /** Default: the run's. */
  output?: string;
  /** Default: it is nowhere. */
  elsewhere?: Promise<Elsewhere>;
}

/**
 * The archive of an id, unless it is there. What is in it is built before it is known whether it is elsewhere, because to ask there
 * takes as long.
 *
 * @throws {PipelineError} "change" when the source does not compile, or was edited meanwhile
 */
export function image(
  run: Run,
  identified: Promise<string>,
  {
    architecture = run.options.architectures?.[0],
    output = run.options.output,
    elsewhere = Promise.resolve({}),
  }: Imaging = {},
): Promise<string> {
  const { service, engine, signal } = run;
  return run.report.step("image", async () => {
    const id = await identified;
    const { tags, compression = "none" } = run.options;
    const names = [id, ...tags].map((tag) => run.nameOf(tag));
    const done = (how: string, reused: boolean) => ({
      value: id,
      detail: `${basename(output)} ${how}: ${names.join(", ")}`,
      reused,
    });
    const unneeded = ({ place, givenUp = false }: Elsewhere): Done<string> | undefined => {
      if (place === undefined && !givenUp) return undefined;
      return { value: id, detail: `${run.nameOf(id)} is ${place}`, reused: true, givenUp };
    };
    const early = Bun.peek.status(elsewhere) === "pending" ? undefined : unneeded(await elsewhere);
    if (early) return early;
    const there = await readArchive(output).catch(() => undefined);
    const same = there?.names.join() === names.join() && there.packed === (compression !== "none");
    const isThere = same && (await hasSbom(service, output, id));
    if (isThere) return unneeded(await elsewhere) ?? done("is there already", true);
    // Where neither a check nor `watch` sees it come and go.
    const dist = join(cacheOf(service), `dist-${process.pid}`);
    await removeLeftovers(service);
    const building = engine.build(dist, architecture);
    building.catch(() => {});
    let reused = false;
    try {
      const late = unneeded(await elsewhere);
      if (late) return late;
      const built = await building;
      reused = built.reused;
      for (const warning of built.warnings) run.say(warning);
      if (built.id !== id) {
        const message = `the source changed while it was built (${id} became ${built.id})`;
        throw new PipelineError("change", message, { hint: "Run the command again." });
      }
      const revision = await gitCommit(service.project, signal);
      await writeArchive(output, { service, dist, names, revision, platform: built.platform, compression });
      await placeSbom(dist, output);
    } finally {
      await building.catch(() => {});
      await rm(dist, { recursive: true, force: true });
    }
    const { size } = await stat(output);
    return done(`(${(size / 1e6).toFixed(1)} MB)${reused ? " of what the engine had" : ""}`, reused);
  });
}

/** Check, test and the archives, side by side. @returns what was made, as a sentence */
export async function archiveOnly(run: Run): Promise<string> {
  const [, , made] = await sideBySide(run, [check(run), test(run), images(run)]);
  return made as string;
}

/** Waits for all, then reports every failure: a person wants to hear of the type error and of the red test. */
export async function sideBySide({ options, service, signal }: Run, steps: unknown[]): Promise<unknown[]> {
  const results = await Promise.allSettled(steps);
  signal.throwIfAborted();
  const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
  // The one that is thrown decides the exit code: the change's fault, where it is at fault too.
  const decisive = failures.find(isChange) ?? failures[0];
  for (const other of failures) if (other !== decisive) printError(other, options.verbose, service);
  if (decisive) throw decisive;
  return results.map((result) => (result.status === "fulfilled" ? result.value : undefined));
}

/** Removes what runs that were killed have left half-built: each is over 100 MB. */
async function removeLeftovers(service: Service): Promise<void> {
  const cache = cacheOf(service);
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
