/**
 * The cluster's way: a pod's file system, user, network and processes of its own, by Linux namespaces and util-linux's
 * unshare. https://man7.org/linux/man-pages/man7/namespaces.7.html
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { PodSpec } from "../kubernetes/pod-spec.ts";
import type { SandboxConfig } from "./sandbox-init.ts";
import type { SmokeTestResult } from "./scenario.ts";

export interface SandboxPaths {
  /** A directory of this run alone. */
  directory: string;
  /** In it, the image's files. */
  root: string;
  signal: AbortSignal;
}

/** Seconds for all that has no time of its own. */
const SLACK_SECONDS = 30;

/**
 * Leads the pod through its life in namespaces of its own: as root, or as root of a user namespace.
 *
 * @returns what came of it; a string: why this machine cannot do that
 */
export async function runInSandbox(
  pod: PodSpec,
  id: string,
  place: SandboxPaths,
): Promise<SmokeTestResult | string> {
  const unshare = which("unshare");
  if (!unshare) return "no unshare on PATH";
  const isRoot = process.getuid?.() === 0;
  let refused = "";
  for (const user of isRoot ? [false, true] : [true]) {
    const directory = join(place.directory, user ? "user" : "root");
    const volumes = join(directory, "volumes");
    await mkdir(volumes, { recursive: true });
    const programs = { unshare, nsenter: which("nsenter") ?? undefined };
    const stage: SandboxConfig = { pod, id, root: place.root, volumes, user, programs };
    const result = await enter(stage, directory, place.signal);
    if (typeof result !== "string") return result;
    // The first reason is that of the way that was to be expected.
    refused ||= result;
  }
  return refused;
}

async function enter(
  stage: SandboxConfig,
  directory: string,
  signal: AbortSignal,
): Promise<SmokeTestResult | string> {
  const file = join(directory, "stage.json");
  await Bun.write(file, JSON.stringify(stage), { mode: 0o600 });
  const namespaces = [
    "--mount",
    "--net",
    "--pid",
    "--uts",
    "--ipc",
    "--fork",
    "--kill-child",
    "--mount-proc",
  ];
  const user = stage.user ? ["--user", "--map-root-user"] : [];
  const { asks, graceSeconds } = stage.pod;
  const patience = asks.reduce((sum, { patienceSeconds, seconds }) => sum + patienceSeconds + seconds, 0);
  const child = Bun.spawn(
    [
      ...[stage.programs.unshare, ...user, ...namespaces, "--"],
      ...[process.execPath, join(import.meta.dir, "sandbox-init.ts"), file],
    ],
    {
      // Bun reads settings where it starts.
      cwd: directory,
      env: { ...process.env, NO_COLOR: "1" },
      // Held open for as long as somebody waits for the outcome.
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      timeout: (patience + graceSeconds + SLACK_SECONDS) * 1000,
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
    return reasonIn(stderr) ?? `unshare ended with ${child.signalCode ?? child.exitCode}`;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** unshare's own words, or the last of what a module says that cannot be loaded here. */
function reasonIn(stderr: string): string | undefined {
  const lines = stderr.split("\n").map((line) => line.trim());
  return lines.find((line) => /^(unshare|error):/.test(line)) ?? lines.findLast(Boolean);
}

function which(program: string): string | null {
  return Bun.which(program, { PATH: process.env.PATH ?? "" });
}
