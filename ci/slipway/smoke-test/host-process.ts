/** What a machine without namespaces can do: the image's binary and libraries as a process of the host. */
import { chmod, mkdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { PodSpec } from "../kubernetes/pod-spec.ts";
import { PipelineError } from "../core/errors.ts";
import { isOnPath } from "../core/process.ts";
import { readElf } from "../image/elf.ts";
import { exitResultOf, SmokeTestFailure, runScenario, type SmokeTestResult } from "./scenario.ts";
import type { SandboxPaths } from "./sandbox.ts";
import { OutputBuffer } from "./output-buffer.ts";

/**
 * Starts the binary with the image's libraries by the host's loader, on a free port, with the directory of
 * the image's files as the working directory.
 *
 * The loader is the host's, because a compiled Bun finds its code through /proc/self/exe: the image's libraries can be
 * tried only where the two are the same file, which is so for an image that the host engine made.
 *
 * @param stated variables for where addresses and ports are the host's
 * @returns what came of it, and what of the pod was not to be had
 * @throws {PipelineError} "environment" when the image was made for another system
 */
export async function runOnHost(
  pod: PodSpec,
  id: string,
  { directory, root, signal }: SandboxPaths,
  { archive, stated }: { archive: string; stated: Record<string, string> },
): Promise<SmokeTestResult & { untried: string[] }> {
  const [entry, ...args] = pod.argv;
  const binary = join(root, entry!);
  const loader = readElf(binary).interpreter!;
  if (!(await sameFile(loader, join(root, loader)))) {
    throw new PipelineError(
      "environment",
      `the image brings another C library than this machine's: not run here`,
      { hint: `\`podman load -i ${archive}\` and \`podman run\` try it.` },
    );
  }
  const isRoot = process.getuid?.() === 0;
  const setpriv = isRoot && isOnPath("setpriv");
  // What the image's own root would be: its files are where they are looked for, and nobody but root writes there.
  const cwd = join(root, pod.cwd);
  await mkdir(cwd, { recursive: true });
  await chmod(cwd, 0o555);
  // Another user gets through to it.
  await chmod(directory, 0o711);
  const as = setpriv
    ? ["setpriv", `--reuid=${pod.uid}`, `--regid=${pod.gid}`, "--clear-groups", "--no-new-privs", "--"]
    : [];
  const port = await freePort();
  const libraries = (await Array.fromAsync(new Bun.Glob("**/*.so.*").scan(root))).map((path) =>
    dirname(join(root, path)),
  );
  const child = Bun.spawn([...as, binary, ...args], {
    cwd,
    env: {
      ...pod.env,
      PATH: process.env.PATH,
      HOME: cwd,
      ...stated,
      PORT: String(port),
      LD_LIBRARY_PATH: [...new Set(libraries)].join(":"),
    },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const words = new OutputBuffer();
  words.hear(child.stdout);
  words.hear(child.stderr);
  const abort = () => child.kill("SIGKILL");
  signal.addEventListener("abort", abort);
  try {
    const { pod: reduced, untried } = reduce(pod, port);
    const running = {
      host: "127.0.0.1",
      words,
      ended: exitResultOf(child),
      signal: (name: "SIGTERM" | "SIGKILL") => child.kill(name),
      exec: async () => "not run here",
    };
    const outcome = await runScenario(reduced, running, id, () => checkLibraries(child.pid, root, loader));
    signal.throwIfAborted();
    if (!setpriv) untried.unshift(isRoot ? "another user than root" : "another user");
    return { ...outcome, untried: ["a read-only root without this machine's files", ...untried] };
  } finally {
    signal.removeEventListener("abort", abort);
    child.kill("SIGKILL");
    // For whoever removes it.
    await chmod(cwd, 0o755);
  }
}

/** What of the pod can be asked of a process whose one port is another. */
function reduce(pod: PodSpec, port: number): { pod: PodSpec; untried: string[] } {
  const untried = pod.mounts.map(({ path }) => `the mount ${path}`);
  const asks = pod.asks.filter(({ kind, check }) => {
    const can = check.how !== "exec" && check.port === pod.version.port;
    if (!can) untried.push(`the ${kind} probe`);
    return can;
  });
  const moved = asks.map((ask) => ({ ...ask, check: { ...ask.check, port } }));
  return { pod: { ...pod, asks: moved, version: { ...pod.version, port } }, untried };
}

/** @throws {SmokeTestFailure} when the process has loaded a library that is not in the image */
async function checkLibraries(pid: number, root: string, loader: string): Promise<void> {
  const maps = await readFile(`/proc/${pid}/maps`, "utf8");
  const loaded = [...maps.matchAll(/\/\S+\.so[.\d]*$/gm)].map(([path]) => path);
  const missing = loaded.filter(
    (path) => !path.startsWith(root) && !path.endsWith(loader.slice(loader.lastIndexOf("/"))),
  );
  if (missing.length > 0) {
    throw new SmokeTestFailure(
      `the binary loads what the image does not hold: ${[...new Set(missing)].join(", ")}`,
    );
  }
}

async function sameFile(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([a, b].map((path) => readFile(path).catch(() => undefined)));
  return one !== undefined && other !== undefined && one.equals(other);
}

/** A port that nothing listens on. */
async function freePort(): Promise<number> {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = server;
  await server.stop(true);
  return port!;
}
