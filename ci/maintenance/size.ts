/**
 * Prints the size of the image by layer and file, and compares it with EXPECTED_BYTES.
 *
 * Builds the image with the host engine, or reads the archive FILE.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exitCodes, PipelineError, type ErrorKind } from "../slipway/core/errors.ts";
import { runProcess } from "../slipway/core/process.ts";
import type { Service } from "../slipway/core/resolve-service.ts";
import { filesInLayers, formatThousands, readImage, type ImageContent } from "../slipway/image/compare.ts";
import type { Architecture } from "../slipway/image/architecture.ts";
import { runCommand, type MaintenanceCommand } from "./run-command.ts";

/** Expected bytes of all files in the image, by architecture. Growth of the image becomes a line in a diff. */
const EXPECTED_BYTES: Partial<Record<Architecture, number>> = { amd64: 112_484_384 };

/**
 * Tolerated difference, as a share of the expected size.
 *
 * The C library is 2.7 % of the image and differs by less than that between versions. A larger difference comes from
 * the binary.
 */
const TOLERANCE = 0.01;

const command: MaintenanceCommand = {
  name: "size",
  about: "Print the size of the image, or of the archive FILE, and check it against the expected size",
  args: { form: "[FILE]", min: 0, max: 1 },
  options: {},
  async execute({ args: [file], service, signal }) {
    const image = file === undefined ? await buildImage(service, signal) : await readImage(file);
    for (const line of sizeReport(image)) console.log(line);
    const error = checkSize(image, EXPECTED_BYTES);
    if (error) throw new PipelineError("project", error, { code: undefined });
    const { architecture } = image.config;
    if (architecture in EXPECTED_BYTES) return "the image has the expected size";
    return `EXPECTED_BYTES in ci/maintenance/size.ts has no ${architecture}, the current size is ${contentSize(image)}`;
  },
};

/** Sums the sizes of all files in the image. The archive's size also depends on names, labels and compression. */
export function contentSize(image: ImageContent): number {
  return sum([...filesInLayers(image.layers).values()].map(({ size }) => size));
}

/**
 * Compares the image's size with the expected size for its architecture.
 *
 * @returns an error message, or undefined if the size is within the tolerance or no size is expected
 */
export function checkSize(image: ImageContent, expectedBytes: typeof EXPECTED_BYTES): string | undefined {
  const { architecture } = image.config;
  const expected = expectedBytes[architecture as Architecture];
  const actual = contentSize(image);
  if (expected === undefined || Math.abs(actual - expected) <= expected * TOLERANCE) return undefined;
  const difference = Math.abs(actual - expected);
  const percent = ((difference / expected) * 100).toFixed(1);
  const [verb, condition] = actual > expected ? ["grew", "If that is intended"] : ["shrank", "To keep it that small"];
  return (
    `the image ${verb} by ${percent} % (${formatThousands(difference)} bytes). ${condition}, ` +
    `change EXPECTED_BYTES.${architecture} in ci/maintenance/size.ts from ${expected} to ${actual}`
  );
}

/** Formats the bytes and shares of layers, files and the archive, one a line. */
export function sizeReport(image: ImageContent): string[] {
  const total = contentSize(image);
  const row = (size: number, label: string) =>
    `${formatThousands(size).padStart(13)} ${((size / total) * 100).toFixed(1).padStart(6)} %  ${label}`;
  const rows = image.layers.flatMap((layer) => {
    const files = [...filesInLayers([layer])].filter(([, { type }]) => type === "file");
    const fileRows = files.sort(([, a], [, b]) => b.size - a.size).map(([path, { size }]) => row(size, `  ${path}`));
    return [row(sum(files.map(([, { size }]) => size)), layer.name), ...fileRows];
  });
  return [...rows, row(total, "all files"), `${formatThousands(image.archiveSize).padStart(13)}           archive`];
}

function sum(sizes: number[]): number {
  return sizes.reduce((total, size) => total + size, 0);
}

/** Builds the image with ci/pipeline.ts. @throws {PipelineError} of the kind of its exit code if the build fails */
async function buildImage({ name, project }: Service, signal: AbortSignal): Promise<ImageContent> {
  const directory = await mkdtemp(join(tmpdir(), `${name}-size-`));
  try {
    const output = join(directory, "image.tar");
    const command = [process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", output];
    const env = { GITHUB_STEP_SUMMARY: "", NO_COLOR: "1" };
    const { code, stdout, stderr } = await runProcess(command, { cwd: project, env, signal });
    if (code !== 0) {
      const kind = Object.entries(exitCodes).find(([, exit]) => exit === code)?.[0] ?? "project";
      throw new PipelineError(kind as ErrorKind, `the build exited with ${code}`, {
        code: undefined,
        output: stdout + stderr,
      });
    }
    return await readImage(output);
  } finally {
    await rm(directory, { recursive: true });
  }
}

if (import.meta.main) await runCommand(command);
