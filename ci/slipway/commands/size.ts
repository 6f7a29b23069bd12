/**
 * `bun run size [FILE]`: what the image holds, by layer and file, and whether that is what ci/size.json says. Builds the
 * image for it; with FILE, an archive is looked at instead. Exit 0: as expected, 1: not.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { app } from "../app.ts";
import { writeArchive } from "../image/archive.ts";
import { build } from "../image/build.ts";
import { filesOf, grouped, readImage, type ImageContent } from "../image/compare.ts";
import { exitCodes, PipelineError } from "../ground/errors.ts";
import figures from "../../size.json";

/**
 * How far the image may be from its figure, as a share of it. A C library is 2.7 % of the image, and its versions differ
 * by a part of that: what is more is the binary's.
 */
const TOLERANCE = 0.01;

/** Bytes of all files in the image. Not of the archive, which depends on names, labels and compression. */
export function contentSize(image: ImageContent): number {
  return sum([...filesOf(image.layers).values()].map(({ size }) => size));
}

/**
 * Compares with the figure of its architecture in ci/size.json.
 *
 * @returns what is wrong and what to change, in words; undefined when nothing is, or when there is no figure
 */
export function sizeFinding(
  image: ImageContent,
  expected: Record<string, number> = figures,
): string | undefined {
  const { architecture } = image.config;
  const figure = expected[architecture];
  const size = contentSize(image);
  if (figure === undefined || Math.abs(size - figure) <= figure * TOLERANCE) return undefined;
  const [grew, by] = [size > figure, grouped(Math.abs(size - figure))];
  const percent = ((Math.abs(size - figure) / figure) * 100).toFixed(1);
  const change = `"${architecture}" in ci/size.json from ${figure} to ${size}`;
  return `the image ${grew ? "grew" : "shrank"} by ${percent} %, ${by} bytes: ${
    grew ? "if it is worth that" : "so that it stays so"
  }, change ${change}`;
}

/** The report, line by line: bytes, share of all files, what. */
export function sizeReport(image: ImageContent): string[] {
  const total = contentSize(image);
  const row = (size: number, what: string) =>
    `${grouped(size).padStart(13)} ${((size / total) * 100).toFixed(1).padStart(6)} %  ${what}`;
  const rows = image.layers.flatMap((layer) => {
    const files = [...filesOf([layer])].filter(([, { type }]) => type === "file");
    const held = files
      .sort(([, a], [, b]) => b.size - a.size)
      .map(([path, { size }]) => row(size, `  ${path}`));
    return [row(sum(files.map(([, { size }]) => size)), layer.name), ...held];
  });
  return [...rows, row(total, "all files"), `${grouped(image.archiveSize).padStart(13)}           archive`];
}

function sum(sizes: number[]): number {
  return sizes.reduce((all, size) => all + size, 0);
}

async function measure(file: string | undefined): Promise<ImageContent> {
  if (file !== undefined) return readImage(file);
  const directory = await mkdtemp(join(tmpdir(), `${app.name}-size-`));
  try {
    const [dist, output] = [join(directory, "dist"), join(directory, "image.tar")];
    const { id, platform } = await build(join(import.meta.dir, "../../.."), dist);
    await writeArchive(output, { dist, platform, names: [`${app.name}:${id}`] });
    return await readImage(output);
  } finally {
    await rm(directory, { recursive: true });
  }
}

if (import.meta.main) {
  try {
    const [file, ...more] = process.argv.slice(2);
    if (more.length > 0 || file?.startsWith("-"))
      throw new PipelineError("usage", "usage: bun run size [FILE]");
    const image = await measure(file);
    for (const text of sizeReport(image)) console.log(text);
    const { architecture } = image.config;
    if (!(architecture in figures))
      console.log(`ci/size.json has no figure for ${architecture}; it would be ${contentSize(image)}`);
    const finding = sizeFinding(image);
    if (finding) throw new PipelineError("change", finding);
  } catch (error) {
    if (!(error instanceof PipelineError)) throw error;
    console.error(`error: ${error.message}`);
    process.exit(exitCodes[error.fault]);
  }
}
