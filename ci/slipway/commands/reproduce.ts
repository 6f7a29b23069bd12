/** Builds the image several times from copies of the project in different environments and compares the bytes. */
import { chmod, chown, constants, copyFile, cp, lchown, mkdir, mkdtemp } from "node:fs/promises";
import { lutimes, readdir, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import * as compare from "../image/compare.ts";
import { exitCodes, PipelineError } from "../core/errors.ts";
import { projectFiles } from "../core/project-files.ts";
import { sha256 } from "../core/hash.ts";
import { findInstallInputs } from "../core/install-inputs.ts";
import { createImageSpec } from "../image/image-spec.ts";
import { isOnPath, runProcess } from "../core/process.ts";
import type { Service } from "../core/service-config.ts";
import type { Command, CommandContext } from "../cli/context.ts";

export default {
  about: "build it again in other surroundings: is it the same, bit for bit?",
  options: ["runs"],
  async execute(context) {
    const { equal, same } = await reproduce(context, context.options.runs);
    const conclusion = `${equal} of ${context.options.runs} equal`;
    if (equal === context.options.runs && same) return conclusion;
    throw new PipelineError("project", conclusion);
  },
} satisfies Command;

/** What must not matter, in turn. The first is a machine like any other, the rest are as odd as machines get. */
const surroundings = [
  { directory: "plain", umask: "022", TZ: "UTC", LC_ALL: "C.UTF-8", modified: "2024-02-29T12:00:00Z" },
  {
    directory: "a longer path/with a space & an ü",
    umask: "077",
    TZ: "Pacific/Kiritimati",
    // Where "i" is no small "I", if the locale is installed.
    LC_ALL: "tr_TR.UTF-8",
    modified: "1999-12-31T23:59:59Z",
    another: true,
  },
  { directory: "x/y/z", umask: "000", TZ: "America/St_Johns", LC_ALL: "C", modified: "2038-01-19T03:14:08Z" },
];

/** A user that owns nothing here. */
const STRANGER = 54_321;

interface Build {
  /** What it is called in messages. */
  name: string;
  image: compare.ImageContent;
  /** SHA-256 of the archive. */
  archive: string;
}

/** What is possible on this machine besides directory, umask, time zone, locale and times. */
interface Means {
  /** A copy of Bun that every user can run; undefined: builds are this user's alone. */
  bun: string | undefined;
  /** Command in front of another to run it on one CPU; empty where that is not possible. */
  oneCpu: string[];
  /** What is left out, and why. */
  leftOut: string[];
}

async function findMeans(directory: string, signal: AbortSignal): Promise<Means> {
  const leftOut: string[] = [];
  const works = async (command: string[]) =>
    isOnPath(command[0]!) && (await runProcess(command, { cwd: "/", signal, timeoutSeconds: 20 })).code === 0;
  const oneCpu = ["taskset", "--cpu-list", "0"];
  const pinned = await works([...oneCpu, "true"]);
  if (!pinned) leftOut.push("one CPU instead of all: taskset cannot do it here");

  const bun = join(directory, "bun");
  const root = process.getuid?.() === 0;
  // The installed one may be in a directory that only its owner enters.
  if (root) await copyFile(process.execPath, bun, constants.COPYFILE_FICLONE);
  // By way of a shell: what setpriv itself starts is opened with root's rights still.
  const probe = [...becoming(STRANGER), "sh", "-c", 'exec "$0" --version', bun];
  const asStranger = root && (await works(probe));
  if (!root) leftOut.push("another user: only root can become one");
  else if (!asStranger)
    leftOut.push(`another user: setpriv cannot do it here, or ${directory} is closed to others`);
  return { bun: asStranger ? bun : undefined, oneCpu: pinned ? oneCpu : [], leftOut };
}

function becoming(uid: number): string[] {
  return ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--inh-caps=-all"];
}

/** Builds the image for the `index`-th time, with Bun and nothing else. @returns it, and what its surroundings were */
async function buildOnHost(
  service: Service,
  directory: string,
  index: number,
  { bun, oneCpu }: Means,
  signal: AbortSignal,
): Promise<Build & { where: string }> {
  const { umask, TZ, LC_ALL, ...odd } = surroundings[index % surroundings.length]!;
  const place = join(directory, String(index));
  const [copy, home] = [join(place, odd.directory), join(place, "home")];
  await copyProject(service, copy, signal);
  await mkdir(home);
  const uid = odd.another && bun ? STRANGER : undefined;
  await prepare(place, new Date(odd.modified), uid);
  const output = join(place, "image.tar");
  const command = [
    ...(odd.another ? oneCpu : []),
    ...(uid === undefined ? [] : becoming(uid)),
    // The mask can be set by a process for itself only.
    ...["sh", "-c", 'umask "$0" && exec "$@"', umask],
    ...[uid === undefined ? process.execPath : bun!, "ci/pipeline.ts", "image"],
    ...["--engine", "host", "--output", output],
  ];
  const env = { ...quiet(directory), TZ, LC_ALL, LANG: LC_ALL, ...(odd.another && { HOME: home }) };
  const cwd = join(copy, relative(service.root, service.project));
  const { code, stdout, stderr } = await runProcess(command, { cwd, env, signal });
  if (code !== 0) throw failed(`build ${index + 1}`, code, stdout + stderr);
  const where = [
    `umask ${umask}`,
    TZ,
    LC_ALL,
    `files of ${odd.modified.slice(0, 4)}`,
    ...(odd.another ? ["HOME of its own"] : []),
    ...(uid === undefined ? [] : [`uid ${uid}`]),
    ...(odd.another && oneCpu.length > 0 ? ["one CPU"] : []),
  ].join(", ");
  const build = await keep(`build ${index + 1}`, output);
  await rm(place, { recursive: true });
  return { ...build, where };
}

/** Builds the image with the Dagger engine. @returns in words why not, where that is not possible */
async function buildWithDagger(
  service: Service,
  directory: string,
  signal: AbortSignal,
): Promise<Build | string> {
  const start = ["dagger", "--progress=plain", "run"];
  const inSession = process.env.DAGGER_SESSION_PORT !== undefined;
  if (!inSession) {
    if (!isOnPath("dagger")) return "there is no dagger on PATH";
    const { code } = await runProcess([...start, "true"], { cwd: "/", signal, timeoutSeconds: 20 });
    if (code !== 0) return "no engine answers";
  }
  const copy = join(directory, "dagger");
  await copyProject(service, copy, signal);
  // All of it is the project's, also what its .gitignore has: the engine would pass over that.
  const all = ["add", "--force", "--all", "--", ".", ":(exclude,glob)**/node_modules/**"];
  for (const args of isOnPath("git") ? [["init", "--quiet"], all] : [])
    await runProcess(["git", ...args], { cwd: copy, signal, timeoutSeconds: 60 });
  const output = join(directory, "dagger.tar");
  const command = [process.execPath, "ci/pipeline.ts", "image", "--engine", "dagger", "--output", output];
  const { code, stdout, stderr } = await runProcess([...(inSession ? [] : start), ...command], {
    cwd: join(copy, relative(service.root, service.project)),
    env: quiet(directory),
    signal,
  });
  if (code === exitCodes.environment)
    return /^error: (.*)$/m.exec(stderr + stdout)?.[1] ?? "the engine failed";
  if (code !== 0) throw failed("the Dagger engine's build", code, stdout + stderr);
  return keep("dagger", output);
}

function failed(what: string, code: number, output: string): PipelineError {
  return new PipelineError("project", `${what} ended with ${code}`, { output });
}

/** Environment of all builds: no commit for the label, which is no part of the proof, and no report. */
function quiet(directory: string): Record<string, string> {
  return { GIT_CEILING_DIRECTORIES: directory, GITHUB_STEP_SUMMARY: "", NO_COLOR: "1" };
}

/** Copies the project's files and what is installed: linked, the packages would be built from another place. */
async function copyProject({ root, project }: Service, target: string, signal: AbortSignal): Promise<void> {
  // What is installed from belongs to it even where git ignores it: an engine may install again.
  for (const file of new Set([...(await projectFiles(root, signal)), ...findInstallInputs(root).files])) {
    // Deleted, but git still knows it.
    if (!existsSync(join(root, file))) continue;
    await mkdir(dirname(join(target, file)), { recursive: true });
    await cp(join(root, file), join(target, file), { verbatimSymlinks: true });
  }
  for (const directory of new Set([root, project])) {
    const installed = join(directory, "node_modules");
    if (!existsSync(installed)) continue;
    await cp(installed, join(target, relative(root, installed)), {
      recursive: true,
      verbatimSymlinks: true,
      filter: (path) => !path.endsWith("/node_modules/.cache"),
    });
  }
}

/** Gives all below `path` a time, and an owner where one is asked for. */
async function prepare(path: string, modified: Date, uid: number | undefined): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true, recursive: true })) {
    const file = join(entry.parentPath, entry.name);
    if (uid !== undefined) await lchown(file, uid, uid);
    await lutimes(file, modified, modified);
  }
  if (uid !== undefined) await chown(path, uid, uid);
}

async function keep(name: string, output: string): Promise<Build> {
  return { name, image: await compare.readImage(output), archive: sha256(await Bun.file(output).bytes()) };
}

function line({ name, image, archive }: Build): string {
  const layers = image.layers.map(({ name, diffId }) => `${name} ${compare.shortDigest(diffId)}`);
  return [name.padEnd(8), ...image.names, ...layers, `archive ${compare.shortDigest(archive)}`].join("  ");
}

/** What another build of the same source has that the first has not, in words; an empty list: they are the same. */
function compareBuilds(first: Build, other: Build): string[] {
  const lines = [...other.image.damage, ...compare.diffImages(first.image, other.image)];
  if (lines.length === 0 && other.archive !== first.archive)
    lines.push("the image is the same, the archive around it is not");
  return lines;
}

/**
 * Compares what two engines make of one source. Their C libraries may be two: then the id and the binary, which holds
 * it, have to differ, and only the form is compared.
 *
 * @returns how they differ where they should not, and a sentence about what was compared
 */
export function compareEngines(
  service: Service,
  host: compare.ImageContent,
  contained: compare.ImageContent,
): { lines: string[]; compared: string } {
  if (host.names.join() === contained.names.join())
    return { lines: compare.diffImages(host, contained), compared: "equal, bit for bit" };
  const [ours, theirs] = [compare.filesInLayers(host.layers), compare.filesInLayers(contained.layers)];
  const changed = [...ours].flatMap(([path, { content }]) => {
    const other = theirs.get(path);
    return other && Buffer.compare(content, other.content) !== 0 ? [path] : [];
  });
  const { binary } = createImageSpec(service);
  const libraries = changed.filter((path) => path !== binary);
  const why =
    libraries.length > 0
      ? `the base image's C library is not this machine's (${libraries.join(", ")})`
      : "the base image's Bun is not the build that runs here";
  const [one, other] = [ours.get(binary)?.content, theirs.get(binary)?.content];
  const bytes = one && other && one.length === other.length ? bytesThatDiffer(one, other) : undefined;
  const difference =
    bytes === undefined
      ? "the binary has another size"
      : `the binary, which holds the id, differs in ${compare.formatThousands(bytes)} of ${compare.formatThousands(one!.length)} bytes`;
  return {
    lines: compare.diffImages(host, contained, { content: false }),
    compared: `same paths, types, modes, owners, times and config; bytes were not to be the same: ${why}, so the id is another, and ${difference}`,
  };
}

/** How many; of two that are equally long. */
function bytesThatDiffer(one: Uint8Array, other: Uint8Array): number {
  let differ = 0;
  for (let at = 0; at < one.length; at += 1) if (one[at] !== other[at]) differ += 1;
  return differ;
}

/** @returns how many builds are equal to the first, itself included, and whether the engines agree */
async function reproduce(
  { service, signal }: CommandContext,
  times: number,
): Promise<{ equal: number; same: boolean }> {
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-reproduce-`));
  try {
    await chmod(directory, 0o755);
    const means = await findMeans(directory, signal);
    const conclusions: string[] = [];
    let [equal, same] = [0, true];
    let first: Build | undefined;
    for (let index = 0; index < times; index += 1) {
      const build = await buildOnHost(service, directory, index, means, signal);
      first ??= build;
      console.log(`${line(build)}  (${build.where})`);
      const found = compareBuilds(first, build);
      if (found.length === 0) equal += 1;
      for (const text of found) conclusions.push(`${build.name}: ${text}`);
    }
    const contained = await buildWithDagger(service, directory, signal);
    if (typeof contained === "string") means.leftOut.push(`the Dagger engine: ${contained}`);
    else {
      console.log(line(contained));
      const { lines, compared } = compareEngines(service, first!.image, contained.image);
      same = lines.length === 0;
      conclusions.push(...(same ? [compared] : lines).map((text) => `${contained.name}: ${text}`));
    }
    for (const text of means.leftOut) console.log(`left out: ${text}`);
    for (const text of conclusions) console.log(text);
    return { equal, same };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
