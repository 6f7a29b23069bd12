/** Proof that a saved archive is what the working tree makes: built again, and compared bit for bit. */
import { mkdir, rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { writeArchive } from "../image/archive-writer.ts";
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
import { cacheDirectoryOf } from "../core/service-config.ts";
import { ownArchitecture, type Architecture } from "../image/platform.ts";
import { readPlainTar } from "../image/tar-reader.ts";
import { stepOptions } from "../cli/options.ts";
import type { Command, CommandContext } from "../cli/context.ts";

export default {
  about: "build again, and compare FILE with that bit for bit",
  args: { form: "FILE", min: 1, max: 1 },
  options: stepOptions,
  execute: (context) =>
    context.report.step("rebuild", async () => {
      const value = await verifyArchive(resolve(context.options.args[0]!), context);
      return { value, detail: `and compared, by the ${context.engine.name} engine` };
    }),
} satisfies Command;

/**
 * Builds the image again and compares the archive with it: the id, each layer, the config.
 *
 * The commit is taken over from the archive, because it is no part of what is proven; with it and with the same names
 * an archive of this pipeline must be the same to its last byte. One that another tool has written holds the image
 * in another form: then the image counts.
 *
 * @returns what holds, as a sentence
 * @throws {PipelineError} "project" when they differ, with the differences as output; "environment" when there is no
 * archive at `path` or none that can be read
 */
async function verifyArchive(path: string, context: CommandContext): Promise<string> {
  const { service, engine } = context;
  const saved = await readImage(path);
  const name = basename(path);
  // Where neither `bun check` nor `watch` sees it come and go.
  const place = join(cacheDirectoryOf(service), `verify-${process.pid}`);
  try {
    await mkdir(place, { recursive: true });
    const [dist, again] = [join(place, "dist"), join(place, "again.tar")];
    const { architecture } = saved.config;
    const foreign = architecture === ownArchitecture ? undefined : (architecture as Architecture);
    const { id, platform } = await engine.build(dist, foreign);
    const wanted = context.imageNameOf(id);
    const sameId = saved.names.includes(wanted);
    const revision = revisionOf(saved);
    await writeArchive(again, { service, dist, platform, revision, names: sameId ? saved.names : [wanted] });

    const built = await readImage(again);
    const lines = [...saved.damage, ...diffImages(built, saved)];
    const around = lines.length === 0 ? await compareArchives(again, path) : undefined;
    if (around?.altered) lines.push(around.altered);
    if (lines.length === 0)
      return `${name} is ${wanted}, ${around!.same ? "bit for bit" : "layer by layer"} what the working tree makes`;

    const damaged = saved.damage.length > 0 || around?.altered !== undefined;
    const files = filesInLayers(saved.layers);
    const sameRuntime = [...filesInLayers([built.layers[0]!])].every(
      ([path, { content }]) => Buffer.compare(content, files.get(path)?.content ?? Buffer.of()) === 0,
    );
    const message = damaged ? `${name} is damaged` : `${name} is not what the working tree makes`;
    throw new PipelineError("project", message, {
      output: lines.join("\n"),
      hint: await advise({ sameId, sameRuntime, damaged, revision, run: context }),
    });
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

function revisionOf({ config }: ImageContent): string | undefined {
  const labels = config.config.Labels as Record<string, string> | null | undefined;
  return labels?.["org.opencontainers.image.revision"];
}

/** Of two archives with the same image. `altered`, in words: they have one form, and so should be one, but are not. */
export async function compareArchives(
  again: string,
  path: string,
): Promise<{ same: boolean; altered?: string }> {
  const [one, other] = await Promise.all([again, path].map((file) => Bun.file(file).bytes()));
  const at = firstDifference(one!, other!);
  if (at === undefined) return { same: true };
  const form = (file: string) =>
    readPlainTar(file).map(({ path, offset, size }) => [path, offset, size].join());
  if (form(again).join("\n") !== form(path).join("\n")) return { same: false };
  return {
    same: false,
    altered: `the image is whole, the archive around it is not: from byte ${formatThousands(at)} on`,
  };
}

/** What to do next, as sentences. */
async function advise(found: {
  sameId: boolean;
  sameRuntime: boolean;
  damaged: boolean;
  revision: string | undefined;
  run: CommandContext;
}): Promise<string> {
  const { sameId, sameRuntime, damaged, revision, run } = found;
  if (sameId) {
    return damaged
      ? "Remove it; `bun ci/pipeline.ts image` builds it anew."
      : "The build is not reproducible: check the plugins, macros and prebuild scripts for times and random values.";
  }
  const hints: string[] = [];
  if (!sameRuntime) {
    const other = run.engine.name === "host" ? "dagger" : "host";
    hints.push(`Its C library is another: is it that of --engine ${other}?`);
  }
  const head = await gitCommit(run.service.project, run.signal);
  if (revision === undefined) hints.push("It does not name its commit.");
  else if (revision !== head || head.endsWith("-dirty")) {
    const commit = revision.replace(/-dirty$/, "");
    const changes = revision === commit ? "" : " and changes that were not committed";
    const first = head?.endsWith("-dirty") ? "`git stash`, " : "";
    hints.push(
      `It was made from commit ${commit}${changes}: ${first}\`git checkout ${commit}\`, then run the command again.`,
    );
  } else if (sameRuntime) hints.push("It was made from this commit, so its Bun is another build.");
  return hints.join(" ");
}
