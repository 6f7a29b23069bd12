/** Rebuilds the image and compares a saved archive with it, bit for bit. */
import { mkdir, rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import {
  diffImages,
  filesInLayers,
  firstDifference,
  formatThousands,
  readImage,
  type ImageContent,
} from "../image/compare.ts";
import { PipelineError } from "../core/errors.ts";
import { gitCommit } from "../core/git.ts";
import { cacheDirectoryOf } from "../core/resolve-service.ts";
import { ownArchitecture, type Architecture } from "../image/architecture.ts";
import { readPlainTar } from "../image/tar-reader.ts";
import { stepOptions } from "../cli/options.ts";
import type { Command, CommandContext } from "../cli/context.ts";

export default {
  about: "Rebuild the image and compare FILE with it, bit for bit",
  args: { form: "FILE", min: 1, max: 1 },
  options: stepOptions,
  execute: (context) =>
    context.report.step("rebuild", async () => {
      const value = await verifyArchive(resolve(context.options.args[0]!), context);
      return { value, detail: `and comparison, by the ${context.engine.name} engine` };
    }),
} satisfies Command;

/**
 * Rebuilds the image and compares the archive with it: image ID, layers and config.
 *
 * The git commit is copied from the archive, because it is not a build input. With the same commit and names, an archive
 * that slipway wrote must match to the last byte. An archive from another tool has another format, so only the image is
 * compared.
 *
 * @returns the result as a sentence
 * @throws {PipelineError} "project" if they differ, with the differences as output
 * @throws {PipelineError} "environment" if the archive is missing or unreadable
 */
async function verifyArchive(path: string, context: CommandContext): Promise<string> {
  const { service, engine } = context;
  const saved = await readImage(path);
  const name = basename(path);
  // Neither `bun check` nor `watch` reads the cache directory.
  const directory = join(cacheDirectoryOf(service), `verify-${process.pid}`);
  try {
    await mkdir(directory, { recursive: true });
    const [dist, rebuilt] = [join(directory, "dist"), join(directory, "rebuilt.tar")];
    const { architecture } = saved.config;
    const crossArchitecture = architecture === ownArchitecture ? undefined : (architecture as Architecture);
    const { id, platform } = await engine.build(dist, crossArchitecture);
    const expected = context.imageNameOf(id);
    const sameId = saved.names.includes(expected);
    const revision = revisionOf(saved);
    const names = sameId ? saved.names : [expected];
    const compression = saved.packed ? "zstd" : "none";
    await writeDockerArchive(rebuilt, { service, dist, platform, revision, names, compression });

    const built = await readImage(rebuilt);
    const lines = [...saved.damage, ...diffImages(built, saved)];
    const archives = lines.length === 0 ? await compareArchives(rebuilt, path) : undefined;
    if (archives?.altered) lines.push(archives.altered);
    if (lines.length === 0)
      return `${name} is ${expected} and matches the working tree ${archives!.same ? "bit for bit" : "layer by layer"}`;

    const damaged = saved.damage.length > 0 || archives?.altered !== undefined;
    const files = filesInLayers(saved.layers);
    const sameRuntime = [...filesInLayers([built.layers[0]!])].every(
      ([path, { content }]) => Buffer.compare(content, files.get(path)?.content ?? Buffer.of()) === 0,
    );
    const message = damaged ? `${name} is damaged` : `${name} does not match the working tree`;
    throw new PipelineError("project", message, {
      code: damaged ? "archive-damaged" : "archive-differs",
      output: lines.join("\n"),
      hint: await createHint({ sameId, sameRuntime, damaged, revision, context }),
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function revisionOf({ config }: ImageContent): string | undefined {
  const labels = config.config.Labels as Record<string, string> | null | undefined;
  return labels?.["org.opencontainers.image.revision"];
}

/**
 * Compares two archives that hold the same image.
 *
 * @returns `altered`: a description of the damage, if the layout is the same and the bytes differ
 */
export async function compareArchives(rebuilt: string, path: string): Promise<{ same: boolean; altered?: string }> {
  const [expected, actual] = await Promise.all([rebuilt, path].map((file) => Bun.file(file).bytes()));
  const offset = firstDifference(expected!, actual!);
  if (offset === undefined) return { same: true };
  const layoutOf = (file: string) => readPlainTar(file).map(({ path, offset, size }) => [path, offset, size].join());
  if (layoutOf(rebuilt).join("\n") !== layoutOf(path).join("\n")) return { same: false };
  return {
    same: false,
    altered: `the image is intact, but the archive around it is altered from byte ${formatThousands(offset)} on`,
  };
}

/** Suggests the next step. */
async function createHint(result: {
  sameId: boolean;
  sameRuntime: boolean;
  damaged: boolean;
  revision: string | undefined;
  context: CommandContext;
}): Promise<string> {
  const { sameId, sameRuntime, damaged, revision, context } = result;
  if (sameId) {
    return damaged
      ? "Remove it and rebuild it with `bun ci/pipeline.ts image`."
      : "The build is not reproducible: check the plugins, macros and prebuild scripts for times and random values.";
  }
  const hints: string[] = [];
  if (!sameRuntime) {
    const engine = context.engine.name === "host" ? "dagger" : "host";
    hints.push(`Its C library differs. Try --engine ${engine}.`);
  }
  const head = await gitCommit(context.service.project, context.signal);
  if (revision === undefined) hints.push("The archive has no commit label.");
  else if (revision !== head || head.endsWith("-dirty")) {
    const commit = revision.replace(/-dirty$/, "");
    const changes = revision === commit ? "" : " with uncommitted changes";
    const stash = head?.endsWith("-dirty") ? "`git stash` and " : "";
    hints.push(`It was built from commit ${commit}${changes}. Run ${stash}\`git checkout ${commit}\`, then retry.`);
  } else if (sameRuntime) hints.push("It was built from this commit, with another build of Bun.");
  return hints.join(" ");
}
