/** Prints errors: the relevant part of a tool's output on stderr, and the whole output in a file. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { explainRefusedAccess, PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf, type Service } from "../core/resolve-service.ts";

/** Limits of the printed output: lines, and characters of a line. */
const MAX_LINES = 30;
const MAX_WIDTH = 200;
/** Lines before the first error to print with it. A test runner prints the code there. */
const CONTEXT_LINES = 8;

/** Matches errors of compilers and test runners, and exceptions. */
const errorPattern = /\berror\b|\bTS\d{4}\b|\(fail\)|^✗|^\s*\w*(Error|Exception)\b|not formatted|panic/i;

/**
 * Cuts a tool's output to 30 lines, starting shortly before the first error.
 *
 * @param nameFile returns the location of the whole output. Called only if lines are cut.
 */
export function excerptFromFirstError(output: string, nameFile: () => string): string {
  const lines = output.trimEnd().split("\n").map(cut);
  if (lines.length <= MAX_LINES) return lines.join("\n");
  const failed = failedTests(lines);
  const first = findFirstError(lines);
  let start = first;
  while (start > 0 && first - start < CONTEXT_LINES && lines[start - 1]!.trim() !== "") start -= 1;
  const names = describeFailedTests(failed);
  const shown = lines.slice(start, start + MAX_LINES - names.length);
  return [...names, ...shown, `… ${lines.length - shown.length} more lines: ${nameFile()}`].join("\n");
}

/** Lines with which a test runner names a failed test: Bun's, Vitest's and Jest's, and TAP. */
const FAILED_TEST = /^\s*(?:\(fail\)|✗|✖|×|●|FAIL |not ok \d+)\s*(?:- )?(.+?)(?:\s*\[[\d.]+\s?m?s\])?$/;
/** Marks that formatters and linters print before a finding too. */
const COMMON_MARK = /^\s*[✗✖×●]/;
/** Lines in which a test runner counts its tests. */
const TEST_COUNT = /^\s*(?:[ℹ#]\s*fail\b|Tests?:?\s|Test Files\s|\d+ (?:pass|fail)(?:ed|ing)?\b)/;
const MAX_NAMES = 8;

function failedTests(lines: string[]): string[] {
  const hasCount = lines.some((line) => TEST_COUNT.test(line));
  const named = lines.filter((line) => hasCount || !COMMON_MARK.test(line));
  return [...new Set(named.flatMap((line) => FAILED_TEST.exec(line)?.[1] ?? []))];
}

function describeFailedTests(names: string[]): string[] {
  if (names.length === 0) return [];
  const more = names.length > MAX_NAMES ? [`  … ${names.length - MAX_NAMES} more`] : [];
  return ["failed tests:", ...names.slice(0, MAX_NAMES).map((name) => `  ${name}`), ...more, ""];
}

/** Returns the index of the first failed test's error. A service logs errors too, also in tests that pass. */
function findFirstError(lines: string[]): number {
  const isPassed = (line: string) => /^\s*(\(pass\)|✓|✔|ok \d+)/.test(line);
  const isError = (line: string) => errorPattern.test(line) && !isPassed(line);
  const end = lines.findIndex((line) => FAILED_TEST.test(line));
  if (end < 0) return Math.max(0, lines.findIndex(isError));
  // Bun prints a test's error before its name, others after it.
  const before = lines.slice(0, end);
  const begin = before.findLastIndex(isPassed) + 1;
  const error = before.findLastIndex(
    (line, at) => at >= begin && /^\s*(?:error|[A-Z]\w*(?:Error|Exception))\b/.test(line),
  );
  return error >= 0 ? error : end;
}

function cut(line: string): string {
  return line.length > MAX_WIDTH ? `${line.slice(0, MAX_WIDTH)} … (${line.length} characters)` : line;
}

/**
 * Prints an error to stderr: the failed tool's output, a paragraph with cause and next step, and the page about it. Prints
 * each error once.
 *
 * @param service service whose cache directory stores the whole output. Default: it is not stored
 */
export function printError(thrown: unknown, verbose: boolean, service?: Service): void {
  // Parallel steps print an error as soon as it occurs.
  if (printed.has(thrown as object)) return;
  if (typeof thrown === "object" && thrown !== null) printed.add(thrown);
  const error = explainRefusedAccess(thrown);
  if (!(error instanceof PipelineError)) {
    console.error(error);
    return;
  }
  const output = error.output?.trimEnd();
  if (output) console.error(verbose ? output : excerptFromFirstError(output, () => saveOutput(output, service)));
  console.error(`\nerror: ${error.message}${/[.!?]$/.test(error.message) ? "" : "."} ${error.hint ?? ""}`.trimEnd());
  const { kind, code } = error;
  if (code !== undefined && kind !== "usage" && kind !== "interrupted")
    console.error(`More: ${troubleshootingPage()}#${code}`);
  if (verbose) console.error(error.stack);
}

/** Returns the path from the working directory to the page that describes each error code, or its absolute path if shorter. */
function troubleshootingPage(): string {
  const page = join(import.meta.dir, "../docs/reference/troubleshooting.md");
  const path = relative(process.cwd(), page);
  return path.length < page.length ? path : page;
}

const printed = new WeakSet<object>();
let savedCount = 0;

/** @returns the path of the file, or the alternative if it cannot be written */
function saveOutput(output: string, service: Service | undefined): string {
  const fallback = "add --verbose to print them";
  if (!service) return fallback;
  try {
    const directory = cacheDirectoryOf(service);
    mkdirSync(directory, { recursive: true });
    const file = join(directory, savedCount === 0 ? "failure.log" : `failure-${savedCount}.log`);
    savedCount += 1;
    writeFileSync(file, `${output}\n`);
    return file;
  } catch {
    return fallback;
  }
}
