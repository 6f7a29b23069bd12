/** Runs kubectl with this process's terminal. */
import type { ApiClient } from "../kubernetes/api.ts";

/**
 * Runs kubectl until it exits. A terminal is passed on if there is one.
 *
 * @returns kubectl's exit code
 */
export async function runInteractively(api: ApiClient, args: string[], signal: AbortSignal): Promise<number> {
  const hasTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
  const child = Bun.spawn(await api.kubectlCommand(args, hasTerminal), {
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
  });
  // A terminal sends Ctrl-C to kubectl itself.
  const stop = () => child.kill("SIGTERM");
  if (!hasTerminal) signal.addEventListener("abort", stop);
  try {
    return await child.exited;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
