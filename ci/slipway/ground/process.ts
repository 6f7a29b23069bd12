/** Runs other programs: output kept, a deadline always, and none outlives the pipeline. */
import { PipelineError } from "./errors.ts";

export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  cwd?: string;
  /** Added to the environment of the pipeline. */
  env?: Record<string, string>;
  input?: string;
  /** Seconds after which the program is killed; the result's code is then 124, as with timeout(1). */
  timeoutSeconds?: number;
  signal?: AbortSignal;
}

const TIMED_OUT = 124;

/**
 * Runs a program to its end. A code other than 0 is a result, not an error.
 *
 * @throws {PipelineError} "surroundings" when there is no such program
 * @throws the signal's reason when it was aborted
 */
export async function run(command: string[], options: RunOptions = {}): Promise<Result> {
  const { cwd, env = {}, input, timeoutSeconds = 600, signal } = options;
  signal?.throwIfAborted();
  const child = spawn(command, { cwd, env, stdin: input === undefined ? "ignore" : Buffer.from(input) });
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill("SIGKILL");
  }, timeoutSeconds * 1000);
  const abort = () => child.kill("SIGTERM");
  signal?.addEventListener("abort", abort);
  try {
    const [stdout, stderr, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    signal?.throwIfAborted();
    if (timedOut)
      return { code: TIMED_OUT, stdout, stderr: `${stderr}no answer within ${timeoutSeconds} s\n` };
    return { code, stdout, stderr };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/** Whether there is such a program. */
export function onPath(program: string): boolean {
  // Bun.which() by itself looks at the PATH of the start.
  return Bun.which(program, { PATH: process.env.PATH ?? "" }) !== null;
}

function spawn(
  command: string[],
  { cwd, env, stdin }: { cwd?: string | undefined; env: Record<string, string>; stdin: "ignore" | Buffer },
) {
  try {
    return Bun.spawn(command, {
      ...(cwd && { cwd }),
      env: { ...process.env, ...env },
      stdin,
      stdout: "pipe",
      stderr: "pipe",
    });
  } catch (error) {
    throw new PipelineError("surroundings", `cannot run ${command[0]}: there is no such program on PATH`, {
      cause: error,
    });
  }
}
