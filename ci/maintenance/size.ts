/**
 * What the image holds, by layer and file, and whether that is what EXPECTED_BYTES says. Builds the image for it;
 * with FILE, an archive is looked at instead.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { filesInLayers, formatThousands, readImage, type ImageContent } from "../slipway/image/compare.ts";
import { exitCodes, PipelineError, type ErrorKind } from "../slipway/core/errors.ts";
import { runProcess } from "../slipway/core/process.ts";
import type { Architecture } from "../slipway/image/platform.ts";
import type { Service } from "../slipway/core/service-config.ts";
import { runCommand, type MaintenanceCommand } from "./command.ts";

const command: MaintenanceCommand = {
  name: "size",
  about: "what is in the image, or in FILE, and whether it has grown",
  args: { form: "[FILE]", min: 0, max: 1 },
  options: {},
  async execute({ args: [file], service, signal }) {
    const image = file === undefined ? await measure(service, signal) : await readImage(file);
    for (const text of sizeReport(image)) console.log(text);
    const { architecture } = image.config;
    const finding = checkSize(image, EXPECTED_BYTES);
    if (finding) throw new PipelineError("project", finding);
    if (architecture in EXPECTED_BYTES) return "the image is as large as EXPECTED_BYTES says";
    return `ci/maintenance/size.ts has no EXPECTED_BYTES.${architecture}; it would be ${contentSize(image)}`;
  },
};

/** Bytes of the image's files, for each architecture. */
const EXPECTED_BYTES: Partial<Record<Architecture, number>> = { amd64: 112_484_384 };

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
 * Compares with the figure of its architecture.
 *
 * @returns what is wrong and what to change, in words; undefined when nothing is, or when there is no figure
 */
export function checkSize(image: ImageContent, expected: typeof EXPECTED_BYTES): string | undefined {
  const { architecture } = image.config;
  const figure = (expected as Record<string, number | undefined>)[architecture];
  const size = contentSize(image);
  if (figure === undefined || Math.abs(size - figure) <= figure * TOLERANCE) return undefined;
  const [grew, by] = [size > figure, formatThousands(Math.abs(size - figure))];
  const percent = ((Math.abs(size - figure) / figure) * 100).toFixed(1);
  const change = `EXPECTED_BYTES.${architecture} in ci/maintenance/size.ts from ${figure} to ${size}`;
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

/** @throws {PipelineError} of the kind that the build's exit code stands for */
async function measure({ name, project }: Service, signal: AbortSignal): Promise<ImageContent> {
  const directory = await mkdtemp(join(tmpdir(), `${name}-size-`));
  try {
    const output = join(directory, "image.tar");
    const command = [process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", output];
    const env = { GITHUB_STEP_SUMMARY: "", NO_COLOR: "1" };
    const { code, stdout, stderr } = await runProcess(command, { cwd: project, env, signal });
    if (code !== 0) {
      const kind = Object.entries(exitCodes).find(([, exit]) => exit === code)?.[0] ?? "project";
      throw new PipelineError(kind as ErrorKind, `the build ended with ${code}`, { output: stdout + stderr });
    }
    return await readImage(output);
  } finally {
    await rm(directory, { recursive: true });
  }
}

if (import.meta.main) await runCommand(command);
