/** Runs other programs: output kept, a deadline always, and none outlives the pipeline. */
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
  /** Added to the environment of the pipeline. */
  env?: Record<string, string>;
  /** Of what comes in pieces, no more is asked for than the program has taken. */
  input?: string | Uint8Array | AsyncIterable<Uint8Array>;
  /**
   * Seconds after which the program is killed with all that it has started; the result's code is then 124, as with timeout(1).
   * Default: 600.
   */
  timeoutSeconds?: number;
  /** Whether others, which something waits for longer, get the processor first. Default: false. */
  lowPriority?: boolean;
  signal?: AbortSignal;
}

/** The code of what was ended because it took too long. */
export const TIMED_OUT = 124;

/** How far back: a third of what others get, where they want all of it. sched(7), the nice value. */
const NICE = 5;

/** Milliseconds that an interrupted program has to end by itself. */
const GRACE_MS = 5000;

/**
 * Runs a program to its end. A code other than 0 is a result, not an error.
 *
 * The deadline holds whatever the program has started: its whole session is killed, and what still holds its output open is
 * not waited for.
 *
 * @throws {PipelineError} "environment" when there is no such program
 * @throws the signal's reason when it was aborted
 */
export async function runProcess(command: string[], options: ProcessOptions = {}): Promise<ProcessResult> {
  const { cwd, env = {}, input, timeoutSeconds = 600, lowPriority = false, signal } = options;
  signal?.throwIfAborted();
  const child = spawn(command, { cwd, env, stdin: input === undefined ? "ignore" : stdinOf(input) });
  if (lowPriority) standBack(child.pid);
  const outputs = [collectOutput(child.stdout), collectOutput(child.stderr)] as const;
  const cut = Promise.withResolvers<"cut">();
  const end = () => {
    child.end("SIGKILL");
    cut.resolve("cut");
  };
  const timer = setTimeout(end, timeoutSeconds * 1000);
  let grace: Timer | undefined;
  const abort = () => {
    child.end("SIGTERM");
    grace = setTimeout(end, GRACE_MS);
  };
  signal?.addEventListener("abort", abort);
  try {
    const ended = Promise.all([child.exited, ...outputs.map(({ whole }) => whole)]);
    const how = await Promise.race([ended, cut.promise]);
    signal?.throwIfAborted();
    const [stdout, stderr] = outputs.map(({ text }) => text()) as [string, string];
    if (how === "cut")
      return { code: TIMED_OUT, stdout, stderr: `${stderr}no answer within ${timeoutSeconds} s\n` };
    return { code: how[0], stdout, stderr };
  } finally {
    clearTimeout(timer);
    clearTimeout(grace);
    signal?.removeEventListener("abort", abort);
    for (const { stop } of outputs) stop();
    child.forget();
  }
}

/** Whether there is such a program. */
export function isOnPath(program: string): boolean {
  // Bun.which() by itself looks at the PATH of the start.
  return Bun.which(program, { PATH: process.env.PATH ?? "" }) !== null;
}

/**
 * Sends a signal to all processes of a group; to one that is gone, or another user's, nothing.
 *
 * @param leader the process that the group is named after, one that was started with `detached`
 */
export function signalProcessGroup(leader: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader, signal);
  } catch {
    // ESRCH, EPERM: kill(2).
  }
}

/** Whether there is such a process, whoever's. */
export function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** What runs now. */
const running = new Set<() => void>();
process.on("exit", () => running.forEach((kill) => kill()));

function spawn(
  command: string[],
  { cwd, env, stdin }: { cwd?: string | undefined; env: Record<string, string>; stdin: "ignore" | Stdin },
) {
  // A session of its own can be ended as a whole. sudo keeps a password for the terminal's session alone, and what it starts is
  // root's: where this user may not end that, only the waiting ends. sudoers(5), timestamp_type.
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
    const end = (signal: NodeJS.Signals) =>
      detached ? signalProcessGroup(pid, signal) : void child.kill(signal);
    const kill = () => end("SIGKILL");
    running.add(kill);
    return { pid, stdout, stderr, exited, end, forget: () => running.delete(kill) };
  } catch (error) {
    throw new PipelineError("environment", `cannot run ${command[0]}: there is no such program on PATH`, {
      cause: error,
    });
  }
}

/** What it starts from now on stands back with it. */
function standBack(pid: number): void {
  try {
    setPriority(pid, Math.min(19, getPriority() + NICE));
    // Between sessions that alone says nothing where Linux shares the processor out by session. sched(7), autogroups.
    writeFileSync(`/proc/${pid}/autogroup`, String(NICE));
  } catch {
    // It has ended, there are no such groups, or they may not be set: then all get the same.
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

/** Reads a stream to its end, or until it is told to stop. `text()` gives what has come so far. */
export function collectOutput(stream: ReadableStream<Uint8Array>) {
  const parts: Uint8Array[] = [];
  const reader = stream.getReader();
  const read = async () => {
    for (let part; !(part = await reader.read()).done;) parts.push(part.value);
  };
  return {
    whole: read(),
    text: () => Buffer.concat(parts).toString(),
    stop: () => void reader.cancel().catch(() => {}),
  };
}
