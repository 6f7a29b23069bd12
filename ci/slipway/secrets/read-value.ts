/** Reads values of secrets from standard input, a terminal without echo, or a .env file. Never from the command line. */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { parseEnvFile } from "../core/env-file.ts";
import { findValueDefect, isVariableName } from "../core/env-settings.ts";
import { PipelineError } from "../core/errors.ts";

/** Standard input, which tests replace. */
export interface ValueInput {
  isTTY?: boolean;
  /** Reads all of it. @throws the signal's reason if it is aborted */
  read(signal: AbortSignal): Promise<Uint8Array>;
  /** Reads a line from the terminal without echo. Undefined after Ctrl-C or Ctrl-D. */
  prompt(question: string, signal: AbortSignal): Promise<string | undefined>;
}

/** Largest input that is read: more than a Secret can hold. */
const MAX_INPUT_BYTES = 2 * 1024 * 1024;

/** @throws {PipelineError} "project" if the value is no variable's */
export async function readValue(name: string, input: ValueInput, signal: AbortSignal): Promise<Uint8Array> {
  if (!input.isTTY) return checked(name, withoutFinalNewline(await input.read(signal)));
  const typed = await input.prompt(`Value of ${name} (not shown): `, signal);
  if (typed === undefined) throw new PipelineError("interrupted", "interrupted");
  return checked(name, Buffer.from(typed));
}

/**
 * Reads a .env file, all of it or nothing.
 *
 * @param file path, or `-` for standard input
 * @throws {PipelineError} "project" with the lines that are invalid. Their text is not shown
 */
export async function readEnvFile(
  file: string,
  input: ValueInput,
  signal: AbortSignal,
): Promise<Map<string, Uint8Array>> {
  const bytes = file === "-" ? await input.read(signal) : readFile(file);
  const from = file === "-" ? "standard input" : file;
  const text = new TextDecoder().decode(bytes);
  if (text.includes("\uFFFD")) throw invalid(`${from} is not valid UTF-8`);
  const parsed = parseEnvFile(text);
  if ("badLine" in parsed) {
    const about = parsed.name ? ` (${parsed.name})` : "";
    throw invalid(`${from} line ${parsed.badLine}${about} is not of the form NAME=value`);
  }
  const values = new Map<string, Uint8Array>();
  for (const { name, value, line } of parsed.entries) {
    if (!isVariableName(name)) throw invalid(`${from} line ${line}: the name has more than 100 characters`);
    if (values.has(name)) throw invalid(`${from} line ${line} sets ${name} a second time`);
    values.set(name, checked(name, Buffer.from(value)));
  }
  if (values.size === 0) throw invalid(`${from} sets no variable`);
  return values;
}

/** @throws {PipelineError} "usage" if a text is no name. It may be a value, so it is not shown */
export function assertNames(names: string[]): void {
  const index = names.findIndex((name) => !isVariableName(name));
  if (index < 0) return;
  const [first = ""] = names[index]!.split("=");
  const named = isVariableName(first) && first !== names[index] ? ` Run \`secrets set ${first}\`.` : "";
  throw new PipelineError(
    "usage",
    `argument ${index + 1} of \`secrets\` is not a name: letters, digits and _, at most 100.${named} A value comes from standard input, because other users see command lines`,
  );
}

function readFile(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw invalid(`cannot read ${file} (${code ?? message})`);
  }
}

function checked(name: string, value: Uint8Array): Uint8Array {
  const defect = findValueDefect(name, value);
  if (defect === undefined) return value;
  throw invalid(`the value of ${name} ${defect}`);
}

function withoutFinalNewline(value: Uint8Array): Uint8Array {
  const end = value.at(-1) !== 10 ? value.length : value.at(-2) === 13 ? value.length - 2 : value.length - 1;
  return value.subarray(0, end);
}

function invalid(problem: string): PipelineError {
  return new PipelineError("project", `${problem}. Nothing was changed`, {
    code: "secret-invalid",
    hint: "Pipe the value: `bun ci/pipeline.ts secrets set NAME < FILE`. Or run the command in a terminal, and type it.",
  });
}

/** The process's standard input. */
export const standardInput: ValueInput = {
  get isTTY() {
    return process.stdin.isTTY === true;
  },
  async read(signal) {
    const reader = Bun.stdin.stream().getReader();
    const aborted = Promise.withResolvers<never>();
    const abort = () => aborted.reject(signal.reason);
    signal.addEventListener("abort", abort);
    try {
      const parts: Uint8Array[] = [];
      for (let bytes = 0; ;) {
        const { value, done } = await Promise.race([reader.read(), aborted.promise]);
        if (done) return Buffer.concat(parts);
        parts.push(value);
        bytes += value.length;
        if (bytes > MAX_INPUT_BYTES) throw invalid("standard input has more than 2 MiB");
      }
    } finally {
      signal.removeEventListener("abort", abort);
    }
  },
  async prompt(question, signal) {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    // It edits the line in raw mode, and its output is dropped.
    const output = new Writable({ write: (_chunk, _encoding, done) => done() });
    const terminal = createInterface({ input: process.stdin, output, terminal: true, historySize: 0 });
    terminal.on("SIGINT", () => resolve(undefined)).on("close", () => resolve(undefined));
    process.stderr.write(question);
    try {
      return await Promise.race([terminal.question("", { signal }), promise]);
    } finally {
      terminal.close();
      process.stderr.write("\n");
    }
  },
};
