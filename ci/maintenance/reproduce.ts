/**
 * Builds the image several times in different environments and compares the results bit for bit.
 *
 * Each build runs in a copy of the project. If a Dagger engine is available, its image is compared too.
 */
import { chmod, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { usageError } from "../slipway/cli/options.ts";
import { exitCodes, PipelineError } from "../slipway/core/errors.ts";
import { sha256 } from "../slipway/core/hash.ts";
import { isOnPath, runProcess } from "../slipway/core/process.ts";
import type { Service } from "../slipway/core/resolve-service.ts";
import { diffImages, readImage, shortDigest, type ImageContent } from "../slipway/image/compare.ts";
import { runCommand, type MaintenanceCommand } from "./run-command.ts";
import { compareEngines } from "./reproduce/compare-engines.ts";
import { copyProject, setTimesAndOwner } from "./reproduce/copy-project.ts";
import { asUser, detectCapabilities, environments, OTHER_UID, type Capabilities } from "./reproduce/environments.ts";

const command: MaintenanceCommand = {
  name: "reproduce",
  about: "Build the image several times in different environments and compare the results bit for bit",
  options: { runs: { value: "N", about: "Number of builds, at least 2 (default: 2)" } },
  async execute({ service, signal, options }) {
    const runs = Number(options.runs ?? 2);
    if (!Number.isInteger(runs) || runs < 2) throw usageError("--runs takes an integer, 2 or more");
    const { equal, same } = await reproduce(service, runs, signal);
    const conclusion = `${equal} of ${runs} equal`;
    if (equal === runs && same) return conclusion;
    throw new PipelineError("project", conclusion, { code: undefined });
  },
};

interface Build {
  /** Name in messages. */
  name: string;
  image: ImageContent;
  /** SHA-256 of the archive. */
  archive: string;
}

/**
 * Builds the image `runs` times on the host, and once with Dagger if possible, and prints the differences.
 *
 * @returns how many builds equal the first, itself included, and whether the engines agree
 */
export async function reproduce(
  service: Service,
  runs: number,
  signal: AbortSignal,
): Promise<{ equal: number; same: boolean }> {
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-reproduce-`));
  try {
    await chmod(directory, 0o755);
    const capabilities = await detectCapabilities(directory, signal);
    const findings: string[] = [];
    let [equal, same] = [0, true];
    let first: Build | undefined;
    for (let index = 0; index < runs; index += 1) {
      const build = await buildOnHost(service, directory, index, capabilities, signal);
      first ??= build;
      console.log(`${formatBuild(build)}  (${build.environment})`);
      const differences = compareBuilds(first, build);
      if (differences.length === 0) equal += 1;
      findings.push(...differences.map((text) => `${build.name}: ${text}`));
    }
    const { skipped } = capabilities;
    const contained = await buildWithDagger(service, directory, signal);
    if (typeof contained === "string") skipped.push(`the Dagger engine: ${contained}`);
    else {
      console.log(formatBuild(contained));
      const { differences, summary } = compareEngines(service, first!.image, contained.image);
      same = differences.length === 0;
      findings.push(...(same ? [summary] : differences).map((text) => `${contained.name}: ${text}`));
    }
    for (const text of skipped) console.log(`skipped: ${text}`);
    for (const text of findings) console.log(text);
    return { equal, same };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Builds the image with the host engine in the environment number `index`. */
async function buildOnHost(
  service: Service,
  directory: string,
  index: number,
  { bun, oneCpuPrefix }: Capabilities,
  signal: AbortSignal,
): Promise<Build & { environment: string }> {
  const { umask, TZ, LC_ALL, modified, isUnusual, ...paths } = environments[index % environments.length]!;
  const root = join(directory, String(index));
  const [copy, home, output] = [join(root, paths.directory), join(root, "home"), join(root, "image.tar")];
  await copyProject(service, copy, signal);
  await mkdir(home);
  const uid = isUnusual && bun ? OTHER_UID : undefined;
  await setTimesAndOwner(root, new Date(modified), uid);
  const command = [
    ...(isUnusual ? oneCpuPrefix : []),
    ...(uid === undefined ? [] : asUser(uid)),
    // A process can set the umask only for itself.
    ...["sh", "-c", 'umask "$0" && exec "$@"', umask],
    ...[uid === undefined ? process.execPath : bun!, "ci/pipeline.ts", "image"],
    ...["--engine", "host", "--output", output],
  ];
  const env = { ...buildEnv(directory), TZ, LC_ALL, LANG: LC_ALL, ...(isUnusual && { HOME: home }) };
  const cwd = join(copy, relative(service.root, service.project));
  const { code, stdout, stderr } = await runProcess(command, { cwd, env, signal });
  if (code !== 0) throw buildFailed(`build ${index + 1}`, code, stdout + stderr);
  const environment = [
    `umask ${umask}`,
    TZ,
    LC_ALL,
    `files from ${modified.slice(0, 4)}`,
    ...(isUnusual ? ["separate HOME"] : []),
    ...(uid === undefined ? [] : [`uid ${uid}`]),
    ...(isUnusual && oneCpuPrefix.length > 0 ? ["one CPU"] : []),
  ].join(", ");
  const build = await readBuild(`build ${index + 1}`, output);
  await rm(root, { recursive: true });
  return { ...build, environment };
}

/** Builds the image with the Dagger engine. @returns the reason if the engine is unavailable */
async function buildWithDagger(service: Service, directory: string, signal: AbortSignal): Promise<Build | string> {
  const start = ["dagger", "--progress=plain", "run"];
  const inSession = process.env.DAGGER_SESSION_PORT !== undefined;
  if (!inSession) {
    if (!isOnPath("dagger")) return "dagger not found on PATH";
    const { code } = await runProcess([...start, "true"], { cwd: "/", signal, timeoutSeconds: 20 });
    if (code !== 0) return "no engine available";
  }
  const copy = join(directory, "dagger");
  await copyProject(service, copy, signal);
  // Adds ignored files too, because the engine skips files that git does not track.
  const addAll = ["add", "--force", "--all", "--", ".", ":(exclude,glob)**/node_modules/**"];
  for (const args of isOnPath("git") ? [["init", "--quiet"], addAll] : [])
    await runProcess(["git", ...args], { cwd: copy, signal, timeoutSeconds: 60 });
  const output = join(directory, "dagger.tar");
  const command = [process.execPath, "ci/pipeline.ts", "image", "--engine", "dagger", "--output", output];
  const { code, stdout, stderr } = await runProcess([...(inSession ? [] : start), ...command], {
    cwd: join(copy, relative(service.root, service.project)),
    env: buildEnv(directory),
    signal,
  });
  if (code === exitCodes.environment) return /^error: (.*)$/m.exec(stderr + stdout)?.[1] ?? "the engine failed";
  if (code !== 0) throw buildFailed("the Dagger engine's build", code, stdout + stderr);
  return readBuild("dagger", output);
}

function buildFailed(name: string, code: number, output: string): PipelineError {
  return new PipelineError("project", `${name} exited with ${code}`, { code: undefined, output });
}

/** Environment of all builds. Hides the commit, whose label is not compared, and writes no step summary. */
function buildEnv(directory: string): Record<string, string> {
  return { GIT_CEILING_DIRECTORIES: directory, GITHUB_STEP_SUMMARY: "", NO_COLOR: "1" };
}

async function readBuild(name: string, output: string): Promise<Build> {
  return { name, image: await readImage(output), archive: sha256(await Bun.file(output).bytes()) };
}

function formatBuild({ name, image, archive }: Build): string {
  const layers = image.layers.map(({ name, diffId }) => `${name} ${shortDigest(diffId)}`);
  return [name.padEnd(8), ...image.names, ...layers, `archive ${shortDigest(archive)}`].join("  ");
}

/** Compares a build with the first. @returns a sentence for each difference */
function compareBuilds(first: Build, build: Build): string[] {
  const differences = [...build.image.damage, ...diffImages(first.image, build.image)];
  if (differences.length === 0 && build.archive !== first.archive)
    differences.push("the images are equal, but the archives differ");
  return differences;
}

if (import.meta.main) await runCommand(command);
