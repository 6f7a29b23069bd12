/** A failure on the screen: the first of it, first; all of it in a file. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf, type Service } from "../core/service-config.ts";

/** Lines of a tool's output that reach the screen, and characters of each. */
const LINES = 30;
const WIDTH = 200;
/** Lines above the first error that belong to it: a test runner shows the code there. */
const CONTEXT = 8;

/** What tells of something wrong: compilers, test runners, exceptions. */
const wrong = /\berror\b|\bTS\d{4}\b|\(fail\)|^✗|^\s*\w*(Error|Exception)\b|not formatted|panic/i;

/**
 * Of a tool's output, what a person reads first.
 *
 * @param all names the file that has the rest; asked only when something is left out
 */
export function summarizeOutput(output: string, all: () => string): string {
  const lines = output.trimEnd().split("\n").map(cut);
  if (lines.length <= LINES) return lines.join("\n");
  const first = Math.max(
    0,
    // A test that passed may be about errors.
    lines.findIndex((line) => wrong.test(line) && !/^\s*(\(pass\)|✓)/.test(line)),
  );
  let start = first;
  while (start > 0 && first - start < CONTEXT && lines[start - 1]!.trim() !== "") start -= 1;
  const shown = lines.slice(start, start + LINES);
  return [...shown, `… ${lines.length - shown.length} more lines: ${all()}`].join("\n");
}

function cut(line: string): string {
  return line.length > WIDTH ? `${line.slice(0, WIDTH)} … (${line.length} characters)` : line;
}

/**
 * Writes an error to stderr: output first, then a paragraph that says what failed and what to do.
 *
 * @param service where the whole output is kept; default: it is not
 */
export function printError(error: unknown, verbose: boolean, service?: Service): void {
  // It may have been told while others still ran.
  if (printed.has(error as object)) return;
  if (typeof error === "object" && error !== null) printed.add(error);
  if (!(error instanceof PipelineError)) {
    console.error(error);
    return;
  }
  const output = error.output?.trimEnd();
  if (output) console.error(verbose ? output : summarizeOutput(output, () => keep(output, service)));
  console.error(
    `\nerror: ${error.message}${/[.!?]$/.test(error.message) ? "" : "."} ${error.hint ?? ""}`.trimEnd(),
  );
  if (verbose) console.error(error.stack);
}

const printed = new WeakSet<object>();
let kept = 0;

function keep(output: string, service: Service | undefined): string {
  const fallback = "--verbose shows them";
  if (!service) return fallback;
  try {
    const directory = cacheDirectoryOf(service);
    mkdirSync(directory, { recursive: true });
    const file = join(directory, kept === 0 ? "failure.log" : `failure-${kept}.log`);
    kept += 1;
    writeFileSync(file, `${output}\n`);
    return file;
  } catch {
    return fallback;
  }
}
