/**
 * What the image holds, by layer and file, and whether that is what the service's setting `size` says. Builds the image for it;
 * with FILE, an archive is looked at instead.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeArchive } from "../image/archive-writer.ts";
import { buildImage } from "../image/build.ts";
import { filesInLayers, formatThousands, readImage, type ImageContent } from "../image/compare.ts";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import type { Command, CommandContext } from "../cli/context.ts";

export default {
  about: "what is in the image, or in FILE, and whether it has grown",
  args: { form: "[FILE]", min: 0, max: 1 },
  options: [],
  async execute(context) {
    const image = await measure(context, context.options.args[0]);
    for (const text of sizeReport(image)) console.log(text);
    const { architecture } = image.config;
    const finding = checkSize(image, context.service.imageSize);
    if (finding) throw new PipelineError("project", finding);
    if (architecture in context.service.imageSize) return "the image is as large as ci/pipeline.ts says";
    return `ci/pipeline.ts has no size.${architecture}; it would be ${contentSize(image)}`;
  },
} satisfies Command;

/**
 * How far the image may be from its figure, as a share of it. A C library is 2.7 % of the image, and its versions differ
 * by a part of that: what is more is the binary's.
 */
const TOLERANCE = 0.01;

/** Bytes of all files in the image. Not of the archive, which depends on names, labels and compression. */
export function contentSize(image: ImageContent): number {
  return sum([...filesInLayers(image.layers).values()].map(({ size }) => size));
}

/**
 * Compares with the figure of its architecture among the service's settings.
 *
 * @returns what is wrong and what to change, in words; undefined when nothing is, or when there is no figure
 */
export function checkSize(image: ImageContent, expected: Service["imageSize"]): string | undefined {
  const { architecture } = image.config;
  const figure = (expected as Record<string, number | undefined>)[architecture];
  const size = contentSize(image);
  if (figure === undefined || Math.abs(size - figure) <= figure * TOLERANCE) return undefined;
  const [grew, by] = [size > figure, formatThousands(Math.abs(size - figure))];
  const percent = ((Math.abs(size - figure) / figure) * 100).toFixed(1);
  const change = `size.${architecture} in ci/pipeline.ts from ${figure} to ${size}`;
  return `the image ${grew ? "grew" : "shrank"} by ${percent} %, ${by} bytes: ${
    grew ? "if it is worth that" : "so that it stays so"
  }, change ${change}`;
}

/** The report, line by line: bytes, share of all files, what. */
export function sizeReport(image: ImageContent): string[] {
  const total = contentSize(image);
  const row = (size: number, what: string) =>
    `${formatThousands(size).padStart(13)} ${((size / total) * 100).toFixed(1).padStart(6)} %  ${what}`;
  const rows = image.layers.flatMap((layer) => {
    const files = [...filesInLayers([layer])].filter(([, { type }]) => type === "file");
    const held = files
      .sort(([, a], [, b]) => b.size - a.size)
      .map(([path, { size }]) => row(size, `  ${path}`));
    return [row(sum(files.map(([, { size }]) => size)), layer.name), ...held];
  });
  return [
    ...rows,
    row(total, "all files"),
    `${formatThousands(image.archiveSize).padStart(13)}           archive`,
  ];
}

function sum(sizes: number[]): number {
  return sizes.reduce((all, size) => all + size, 0);
}

async function measure({ service }: CommandContext, file: string | undefined): Promise<ImageContent> {
  if (file !== undefined) return readImage(file);
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-size-`));
  try {
    const [dist, output] = [join(directory, "dist"), join(directory, "image.tar")];
    const { id, platform } = await buildImage(service, dist);
    await writeArchive(output, { service, dist, platform, names: [`${service.name}:${id}`] });
    return await readImage(output);
  } finally {
    await rm(directory, { recursive: true });
  }
}
