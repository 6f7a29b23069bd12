/** Runs programs with captured output and a time limit. No program outlives the pipeline. */
import { writeFileSync } from "node:fs";
import { getPriority, setPriority } from "node:os";
import { PipelineError } from "./errors.ts";

export interface ProcessResult {
  code: number;
  stdout: string;
  stderr: string;
}

export interface ProcessOptions {
  cwd?: string;
  /** Variables in addition to the pipeline's environment. */
  env?: Record<string, string>;
  /** Pieces of an iterable are only requested as fast as the program reads them. */
  input?: string | Uint8Array | AsyncIterable<Uint8Array>;
  /**
   * Time limit after which the program and its children are killed. The result's code is then 124, like timeout(1)'s.
   * Default: 600.
   */
  timeoutSeconds?: number;
  /** Whether other programs get more CPU time. Default: false. */
  lowPriority?: boolean;
  signal?: AbortSignal;
}

/** Exit code after a timeout. */
export const TIMEOUT_EXIT_CODE = 124;

/** Gives a low-priority program a third of the CPU time that others get. sched(7), the nice value. */
const NICE = 5;

/** Time that an interrupted program has to exit by itself. */
const GRACE_MS = 5000;

/**
 * Runs a program until it exits. A code other than 0 is a result, not an error.
 *
 * A timeout kills the program's whole session. Processes that left the session and still hold the output open are not awaited.
 *
 * @throws {PipelineError} "environment" if the program is not on PATH
 * @throws the signal's reason if the signal is aborted
 */
export async function runProcess(command: string[], options: ProcessOptions = {}): Promise<ProcessResult> {
  const { cwd, env = {}, input, timeoutSeconds = 600, lowPriority = false, signal } = options;
  signal?.throwIfAborted();
  const child = spawn(command, { cwd, env, stdin: input === undefined ? "ignore" : stdinOf(input) });
  if (lowPriority) lowerPriority(child.pid);
  const outputs = [collectOutput(child.stdout), collectOutput(child.stderr)] as const;
  const killed = Promise.withResolvers<"killed">();
  const kill = () => {
    child.signal("SIGKILL");
    killed.resolve("killed");
  };
  const timer = setTimeout(kill, timeoutSeconds * 1000);
  let grace: Timer | undefined;
  const abort = () => {
    child.signal("SIGTERM");
    grace = setTimeout(kill, GRACE_MS);
  };
  signal?.addEventListener("abort", abort);
  try {
    const exited = Promise.all([child.exited, ...outputs.map(({ complete }) => complete)]);
    const outcome = await Promise.race([exited, killed.promise]);
    signal?.throwIfAborted();
    const [stdout, stderr] = outputs.map(({ text }) => text()) as [string, string];
    if (outcome === "killed")
      return { code: TIMEOUT_EXIT_CODE, stdout, stderr: `${stderr}timed out after ${timeoutSeconds} s\n` };
    return { code: outcome[0], stdout, stderr };
  } finally {
    clearTimeout(timer);
    clearTimeout(grace);
    signal?.removeEventListener("abort", abort);
    for (const { stop } of outputs) stop();
    child.unregister();
  }
}

export function isOnPath(program: string): boolean {
  // Bun.which() would use the PATH from the start of the process.
  return Bun.which(program, { PATH: process.env.PATH ?? "" }) !== null;
}

/**
 * Sends a signal to a process group. Ignores groups that are gone or belong to another user.
 *
 * @param leader pid of a process that was started with `detached`
 */
export function signalProcessGroup(leader: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader, signal);
  } catch {
    // ESRCH, EPERM: kill(2).
  }
}

/** Returns whether a process of any user has this pid. */
export function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Functions that kill the running programs. */
const running = new Set<() => void>();
process.on("exit", () => running.forEach((kill) => kill()));

function spawn(
  command: string[],
  { cwd, env, stdin }: { cwd?: string | undefined; env: Record<string, string>; stdin: "ignore" | Stdin },
) {
  // A separate session can be killed as a whole. sudo is an exception, because it caches passwords per terminal session. If the
  // user may not kill the program that sudo runs as root, only the waiting ends. sudoers(5), timestamp_type.
  const detached = command[0] !== "sudo";
  try {
    const child = Bun.spawn(command, {
      ...(cwd && { cwd }),
      env: { ...process.env, ...env },
      stdin,
      stdout: "pipe",
      stderr: "pipe",
      detached,
    });
    const { pid, stdout, stderr, exited } = child;
    const signal = (name: NodeJS.Signals) => (detached ? signalProcessGroup(pid, name) : void child.kill(name));
    const kill = () => signal("SIGKILL");
    running.add(kill);
    return { pid, stdout, stderr, exited, signal, unregister: () => running.delete(kill) };
  } catch (error) {
    throw new PipelineError("environment", `cannot run ${command[0]}: not found on PATH`, {
      code: "program-not-found",
      cause: error,
    });
  }
}

/** Lowers the priority of a process and of all processes that it starts later. */
function lowerPriority(pid: number): void {
  try {
    setPriority(pid, Math.min(19, getPriority() + NICE));
    // With autogroups, Linux divides CPU time between sessions first, and the nice value only counts within one. sched(7)
    writeFileSync(`/proc/${pid}/autogroup`, String(NICE));
  } catch {
    // The process has exited, or autogroups are missing or read-only. The priority then stays as it is.
  }
}

type Stdin = Buffer | ReadableStream<Uint8Array>;

function stdinOf(input: NonNullable<ProcessOptions["input"]>): Stdin {
  if (typeof input === "string" || input instanceof Uint8Array) return Buffer.from(input);
  const pieces = input[Symbol.asyncIterator]();
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    async cancel() {
      await pieces.return?.();
    },
  });
}

/** Reads a stream until it ends or stop() is called. `text()` returns the output so far. */
export function collectOutput(stream: ReadableStream<Uint8Array>) {
  const parts: Uint8Array[] = [];
  const reader = stream.getReader();
  const read = async () => {
    for (let part; !(part = await reader.read()).done;) parts.push(part.value);
  };
  return {
    complete: read(),
    text: () => Buffer.concat(parts).toString(),
    stop: () => void reader.cancel().catch(() => {}),
  };
}
