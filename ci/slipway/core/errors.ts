/**
 * What can go wrong, as a person needs to hear it: one paragraph that says what failed, where, what it left behind and
 * what to do next, and an exit code that tells a script whose fault it was.
 */

export const exitCodes = {
  /** The change is at fault: types, format, tests, or the new version did not come up. */
  project: 1,
  /** The command line is wrong. */
  usage: 2,
  /** The surroundings are at fault: no cluster, no permission, no space, no engine. Nothing was changed. */
  environment: 3,
  /** The surroundings failed in the middle, and not even the way back was open: the message says what state things are in. */
  partial: 4,
  interrupted: 130,
} as const;

export type ErrorKind = keyof typeof exitCodes;

export class PipelineError extends Error {
  override name = "PipelineError";
  readonly kind: ErrorKind;
  /** What to do next, as a sentence. */
  readonly hint: string | undefined;
  /** Output of the tool that failed, shown above the message. */
  readonly output: string | undefined;

  constructor(
    fault: ErrorKind,
    message: string,
    { hint, output, cause }: { hint?: string; output?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, { cause });
    this.kind = fault;
    this.hint = hint;
    this.output = output;
  }
}

/** Turns an operating system error about the disk into one that says so; passes everything else on. */
export function explainDiskError(error: unknown, path: string): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new PipelineError(
      "environment",
      `no space left to write ${path}; what was written of it is removed`,
      {
        hint: "Free some space (an image takes about 230 MB while it is built) and run the command again.",
        cause: error,
      },
    );
  }
  if (code === "EACCES" || code === "EROFS" || code === "EPERM" || code === "ENOENT" || code === "ENOTDIR") {
    return new PipelineError("environment", `cannot write ${path} (${code})`, {
      hint: "Name a place that can be written with --output.",
      cause: error,
    });
  }
  return error;
}
