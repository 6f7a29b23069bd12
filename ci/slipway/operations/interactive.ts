/** Runs kubectl with this process's terminal, and programs in a pod. */
import { signalProcessGroup } from "../core/process.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { OneOffPod } from "./one-off-pod.ts";

/** Whether the standard streams are a terminal. */
export function hasTerminal(): boolean {
  return process.stdin.isTTY === true && process.stdout.isTTY === true;
}

/**
 * Runs kubectl until it exits. A terminal is passed on if there is one.
 *
 * @returns kubectl's exit code
 */
export async function runInteractively(api: ApiClient, args: string[], signal: AbortSignal): Promise<number> {
  const isTerminal = hasTerminal();
  const child = Bun.spawn(await api.kubectlCommand(args, isTerminal), {
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
  });
  // A terminal sends Ctrl-C to kubectl itself.
  const stop = () => child.kill("SIGTERM");
  if (!isTerminal) signal.addEventListener("abort", stop);
  try {
    return await child.exited;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** Pipes a program into a pod's container, and prints its output until it ends or the connection is lost. */
export async function pipeProgram(
  api: ApiClient,
  { pod, container }: OneOffPod,
  program: string,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const command = await api.kubectlCommand(["attach", "-q", "-i", pod, `--container=${container}`]);
  const child = Bun.spawn(command, {
    stdin: new Blob([program]),
    stdout: "inherit",
    stderr: "inherit",
    // Ctrl-C must reach this process first, which ends the pod.
    detached: true,
  });
  const stop = () => signalProcessGroup(child.pid, "SIGTERM");
  signal.addEventListener("abort", stop);
  try {
    await child.exited;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
