/** The steps without a cluster: check, test, image. */
import { readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { gitCommit } from "../core/git.ts";
import { isRunning } from "../core/process.ts";
import type { StepResult } from "../core/step-report.ts";
import { cacheDirectoryOf, type Service } from "../core/resolve-service.ts";
import { readArchiveIndex } from "../image/docker-archive-reader.ts";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import type { Architecture } from "../image/architecture.ts";
import { hasSbom, writeSbom } from "../image/sbom.ts";
import { runSmokeTest } from "../smoke-test/smoke-test.ts";
import { assertNoShadowingBun } from "./bun-version.ts";
import type { CommandContext } from "./context.ts";
import { findStaleOutputs } from "./stale-output.ts";

/** Milliseconds after which a temporary file of the compiler is abandoned. */
const ABANDONED_MS = 600_000;

/** Runs the prebuild scripts, unless nothing has changed that they may read. */
export async function runPrebuild({ engine, service, signal }: CommandContext): Promise<StepResult<void>> {
  await assertNoShadowingBun(service, signal);
  const { unchanged } = await engine.runPrebuild();
  const names = service.prebuild.map((name) => `bun run ${name}`).join(", ");
  return { value: undefined, reused: unchanged, detail: unchanged ? "ran before, on these files" : names };
}

export async function warnOfStaleOutputs({ service, signal, report }: CommandContext): Promise<void> {
  for (const warning of await findStaleOutputs(service, signal)) report.warn(warning);
}

/** Runs the service's script for a step. A missing script skips the step. */
export async function runCheckOrTest(
  { engine, service, signal }: CommandContext,
  step: "check" | "test",
): Promise<StepResult<void>> {
  const name = service.scripts[step];
  if (name === undefined) return { value: undefined, skipped: true, detail: "package.json has no script for it" };
  await assertNoShadowingBun(service, signal);
  const { unchanged, note = "" } = await engine.runScript(name);
  return { value: undefined, reused: unchanged, detail: unchanged ? "passed before, on these files" : note };
}

/** Builds an archive for each platform. Several platforms are part of the file names. @returns a sentence for the user */
export async function ensureArchives(context: CommandContext): Promise<string> {
  const { architectures = [undefined], output } = context.options;
  const built: string[] = [];
  for (const architecture of architectures) {
    const file = architectures.length > 1 ? output.replace(/(\.tar)?$/, `-${architecture}$&`) : output;
    const id = await context.report.step("image", async () =>
      ensureArchive(context, await context.engine.computeId(architecture), { architecture, output: file }),
    );
    built.push(`${basename(file)} holds ${context.imageNameOf(id)}`);
  }
  return built.join(", ");
}

/** Smoke-tests the archive. */
export async function smokeTest(
  { service, options, signal, report }: CommandContext,
  id: string,
): Promise<StepResult<void>> {
  const { finding, ...result } = await runSmokeTest(service, { archive: options.output, id, signal });
  if (finding) report.warn(finding);
  return { value: undefined, ...result };
}

export interface BuildArchiveOptions {
  /** Default: the option --platform. */
  architecture?: Architecture | undefined;
  /** Default: the option --output. */
  output?: string;
  /** The place that already has the image, in a few words: no archive is written. A rejection cancels the build. Default: none. */
  existingImage?: Promise<string | undefined>;
}

/**
 * Builds the archive of an id, unless it exists. The build starts before it is known whether the target has the image already,
 * because the query takes as long as the build.
 *
 * @throws {PipelineError} "project" if the source does not compile, or was edited during the build
 */
export async function ensureArchive(
  context: CommandContext,
  id: string,
  {
    architecture = context.options.architectures?.[0],
    output = context.options.output,
    existingImage = Promise.resolve(undefined),
  }: BuildArchiveOptions = {},
): Promise<StepResult<string>> {
  const { service, engine, signal } = context;
  const { tags, compression = "zstd" } = context.options;
  const names = [id, ...tags].map((tag) => context.imageNameOf(tag));
  const written = (how: string, reused: boolean) => ({
    value: id,
    detail: `${basename(output)} ${how}: ${names.join(", ")}`,
    reused,
  });
  const findUnneeded = async (): Promise<StepResult<string> | undefined> => {
    try {
      const place = await existingImage;
      if (place === undefined) return undefined;
      return { value: id, detail: `${context.imageNameOf(id)} is ${place}`, reused: true };
    } catch {
      return { value: id, cancelled: true };
    }
  };
  const isKnown = Bun.peek.status(existingImage) !== "pending";
  const unneeded = isKnown ? await findUnneeded() : undefined;
  if (unneeded) return unneeded;
  const existing = await readArchiveIndex(output).catch(() => undefined);
  const isSame = existing?.names.join() === names.join() && existing.packed === (compression !== "none");
  if (isSame && (await hasSbom(service, output, id))) return (await findUnneeded()) ?? written("exists", true);
  // Neither a check nor `watch` sees files come and go in the cache.
  const dist = join(cacheDirectoryOf(service), `dist-${process.pid}`);
  await removeLeftovers(service);
  const building = engine.build(dist, architecture);
  building.catch(() => {});
  let reused = false;
  try {
    const late = await findUnneeded();
    if (late) return late;
    const built = await building;
    reused = built.reused;
    for (const warning of built.warnings) context.report.warn(warning);
    if (built.id !== id) {
      const message = `the source changed during the build (${id} became ${built.id})`;
      throw new PipelineError("project", message, {
        code: "files-changed-during-build",
        hint: "An editor or a script wrote files meanwhile. Run the command again.",
      });
    }
    const revision = await gitCommit(service.project, signal);
    await writeDockerArchive(output, { service, dist, names, revision, platform: built.platform, compression });
    await writeSbom(dist, output);
  } finally {
    await building.catch(() => {});
    await rm(dist, { recursive: true, force: true });
  }
  const { size } = await stat(output);
  return written(`(${(size / 1e6).toFixed(1)} MB)${reused ? ", cached by the engine" : ""}`, reused);
}

/** Removes half-built files of killed runs: each is over 100 MB. */
async function removeLeftovers(service: Service): Promise<void> {
  const cache = cacheDirectoryOf(service);
  for (const name of await readdir(cache).catch(() => [])) {
    const [, pid] = /^(?:dist|verify)-(\d+)/.exec(name) ?? [];
    if (pid && !isRunning(Number(pid))) await rm(join(cache, name), { recursive: true, force: true });
  }
  // The compiler's temporary file is in its working directory: the project, because the binary depends on the directory.
  for (const name of await readdir(service.project)) {
    if (!name.endsWith(".bun-build")) continue;
    const file = join(service.project, name);
    const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: Infinity }));
    if (Date.now() - mtimeMs > ABANDONED_MS) await rm(file, { force: true });
  }
}
