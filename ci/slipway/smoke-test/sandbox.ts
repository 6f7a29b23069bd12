/**
 * Isolates a pod's file system, user, network and processes with Linux namespaces, by unshare of util-linux.
 * https://man7.org/linux/man-pages/man7/namespaces.7.html
 */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { PodSpec } from "../kubernetes/resolve-pod.ts";
import type { SandboxConfig } from "./sandbox-init.ts";
import type { SmokeTestResult } from "./scenario.ts";

export interface SandboxPaths {
  /** Temporary directory of this run. */
  directory: string;
  /** Directory with the image's files, inside `directory`. */
  root: string;
  signal: AbortSignal;
}

/** Why this machine has no sandbox. */
export interface SandboxUnavailable {
  unavailable: string;
}

/** Seconds for steps that have no timeout in the pod spec. */
const SLACK_SECONDS = 30;

/**
 * Runs the scenario in new namespaces. Root tries its own rights first, then a user namespace. Other users
 * need a user namespace.
 *
 * @throws {PipelineError} "environment" if the sandbox was killed
 */
export async function runInSandbox(
  pod: PodSpec,
  id: string,
  { directory, root, signal }: SandboxPaths,
): Promise<SmokeTestResult | SandboxUnavailable> {
  const unshare = findProgram("unshare");
  if (!unshare) return { unavailable: "unshare not found on PATH. Install util-linux." };
  const isRoot = process.getuid?.() === 0;
  const reasons: string[] = [];
  for (const user of isRoot ? [false, true] : [true]) {
    const work = join(directory, user ? "user" : "root");
    const volumes = join(work, "volumes");
    await mkdir(volumes, { recursive: true });
    const programs = { unshare, nsenter: findProgram("nsenter") ?? undefined };
    const config: SandboxConfig = { pod, id, root, volumes, user, programs };
    const result = await startSandbox(config, work, signal);
    if (typeof result !== "string") return result;
    reasons.push(result);
  }
  const [reason = ""] = reasons;
  if (reason.startsWith("error:")) return { unavailable: `the sandbox failed to start (${reason})` };
  return { unavailable: `this machine has no user namespaces (${reason}). ${await userNamespacesHint()}` };
}

/** @returns the result, or the reason why the namespaces could not be set up */
async function startSandbox(
  config: SandboxConfig,
  directory: string,
  signal: AbortSignal,
): Promise<SmokeTestResult | string> {
  const file = join(directory, "config.json");
  await Bun.write(file, JSON.stringify(config), { mode: 0o600 });
  const namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"];
  const user = config.user ? ["--user", "--map-root-user"] : [];
  const { asks, graceSeconds } = config.pod;
  const probeSeconds = asks.reduce((sum, { patienceSeconds, seconds }) => sum + patienceSeconds + seconds, 0);
  const child = Bun.spawn(
    [
      ...[config.programs.unshare, ...user, ...namespaces, "--"],
      ...[process.execPath, join(import.meta.dir, "sandbox-init.ts"), file],
    ],
    {
      // Bun reads bunfig.toml and .env from the working directory.
      cwd: directory,
      env: { ...process.env, NO_COLOR: "1" },
      // The sandbox exits when this pipe closes.
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      timeout: (probeSeconds + graceSeconds + SLACK_SECONDS) * 1000,
      killSignal: "SIGKILL",
    },
  );
  const abort = () => child.kill("SIGKILL");
  signal.addEventListener("abort", abort);
  try {
    const [stdout, stderr] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    signal.throwIfAborted();
    if (stdout) return JSON.parse(stdout) as SmokeTestResult | string;
    if (child.signalCode) {
      throw new PipelineError("environment", `smoke test: ${child.signalCode} ended the sandbox`, {
        code: "smoke-test-killed",
        output: stderr,
        hint: "Check that this machine has enough memory, then run the command again.",
      });
    }
    return findReason(stderr) ?? `unshare ended with exit code ${child.exitCode}`;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Finds the error of unshare or of a module that fails to load, else the last line. */
function findReason(stderr: string): string | undefined {
  const lines = stderr.split("\n").map((line) => line.trim());
  return lines.find((line) => /^(unshare|error):/.test(line)) ?? lines.findLast(Boolean);
}

/**
 * Kernel settings that turn user namespaces off at the first value and on at the second.
 * https://man7.org/linux/man-pages/man7/user_namespaces.7.html,
 * https://ubuntu.com/blog/ubuntu-23-10-restricted-unprivileged-user-namespaces
 */
const switches = [
  ["kernel.unprivileged_userns_clone", "0", "1"],
  ["kernel.apparmor_restrict_unprivileged_userns", "1", "0"],
  ["user.max_user_namespaces", "0", "10000"],
] as const;

async function userNamespacesHint(): Promise<string> {
  const assignments: string[] = [];
  for (const [name, off, on] of switches) {
    const value = await readFile(`/proc/sys/${name.replaceAll(".", "/")}`, "utf8").catch(() => "");
    if (value.trim() === off) assignments.push(`${name}=${on}`);
  }
  return assignments.length > 0
    ? `Run \`sudo sysctl ${assignments.join(" ")}\` to enable them.`
    : "If slipway runs in a container, start the container with `--privileged` to enable them.";
}

function findProgram(program: string): string | null {
  return Bun.which(program, { PATH: process.env.PATH ?? "" });
}
