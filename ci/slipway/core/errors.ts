/**
 * Errors for users. Each message names the failure, the resulting state and the next step, and the exit code tells a script the
 * kind of error.
 */
import type { ErrorCode } from "./error-codes.ts";
import { statSync } from "node:fs";
import { dirname } from "node:path";

export const exitCodes = {
  /** Project error: types, format or tests fail, or the new version does not become ready. */
  project: 1,
  /** Invalid command line. */
  usage: 2,
  /** Environment error: no cluster, permission, disk space or engine. Nothing was changed. */
  environment: 3,
  /** Partial failure: the environment failed during a deploy, and so did the rollback. The message describes the state. */
  partial: 4,
  interrupted: 130,
} as const;

export type ErrorKind = keyof typeof exitCodes;

interface ErrorDetails {
  hint?: string;
  output?: string | undefined;
  cause?: unknown;
}

export class PipelineError extends Error {
  override name = "PipelineError";
  readonly kind: ErrorKind;
  /** Stable name of the cause: an anchor in docs/reference/troubleshooting.md. Undefined for tools outside this package. */
  readonly code: ErrorCode | undefined;
  /** Next step, as a sentence. */
  readonly hint: string | undefined;
  /** Output of the failed tool, which is printed above the message. */
  readonly output: string | undefined;

  constructor(kind: "usage" | "interrupted", message: string, details?: ErrorDetails);
  constructor(kind: ErrorKind, message: string, details: ErrorDetails & { code: ErrorCode | undefined });
  constructor(
    kind: ErrorKind,
    message: string,
    { code, hint, output, cause }: ErrorDetails & { code?: ErrorCode | undefined } = {},
  ) {
    super(message, { cause });
    this.kind = kind;
    this.code = kind === "usage" || kind === "interrupted" ? kind : code;
    this.hint = hint;
    this.output = output;
  }
}

/** Turns a file system error into a PipelineError. Returns all other errors unchanged. */
export function explainDiskError(error: unknown, path: string): unknown {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOSPC" || code === "EDQUOT") {
    return new PipelineError("environment", `no space left to write ${path}. The incomplete file was removed`, {
      code: "disk-full",
      hint: "Free some space (a build needs about 230 MB) and run the command again.",
      cause: error,
    });
  }
  if (code === "EACCES" || code === "EROFS" || code === "EPERM" || code === "ENOENT" || code === "ENOTDIR") {
    return new PipelineError("environment", `cannot write ${path} (${code})`, {
      code: "file-not-accessible",
      hint: "Name a writable path with --output.",
      cause: error,
    });
  }
  return error;
}

/**
 * Turns a refused access to a file into a PipelineError with the owner, for example of a cache that root created. Returns all other
 * errors unchanged.
 */
export function explainRefusedAccess(error: unknown): unknown {
  if (error instanceof PipelineError || !(error instanceof Error)) return error;
  const { code = "", path, syscall } = error as NodeJS.ErrnoException;
  if (!["EACCES", "EPERM", "EROFS"].includes(code) || path === undefined) return error;
  const place = nearestExisting(path);
  const { uid } = statSync(place);
  const isForeign = code === "EACCES" && uid !== process.getuid?.();
  const owner = isForeign ? `, because ${place} belongs to ${uid === 0 ? "root" : `the user ${uid}`}` : "";
  return new PipelineError("environment", `cannot ${syscall ?? "access"} ${path} (${code})${owner}`, {
    code: "file-not-accessible",
    hint: isForeign ? `Run \`sudo chown -R "$(id -u):$(id -g)" ${place}\`.` : `Make ${place} writable.`,
    cause: error,
  });
}

function nearestExisting(path: string): string {
  for (let at = path; ; at = dirname(at)) if (statSync(at, { throwIfNoEntry: false }) || at === dirname(at)) return at;
}
