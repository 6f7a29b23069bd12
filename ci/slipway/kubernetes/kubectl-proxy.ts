/**
 * Connects to the API of one named cluster, never to the current context.
 *
 * Requests go through `kubectl proxy` on a Unix socket that only this user can open. kubectl handles kubeconfigs,
 * certificates, credential plugins and tokens. A request over the proxy takes milliseconds, a kubectl process for
 * each would take a tenth of a second.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { signalProcessGroup, isOnPath, runProcess } from "../core/process.ts";
import type { Service } from "../core/resolve-service.ts";
import { ApiClient, CONNECT_TIMEOUT_SECONDS } from "./api.ts";

export interface ApiOptions {
  service: Service;
  /** Program and options that select the cluster, like `["k3s", "kubectl", "--kubeconfig=…"]`. */
  kubectl: string[];
  /** Command prefix if this user may not read the kubeconfig: `["sudo", "-n"]`. */
  privilege?: string[];
  /** Seconds that kubectl may take to start its proxy. Default: CONNECT_TIMEOUT_SECONDS. */
  startTimeoutSeconds?: number;
  signal: AbortSignal;
}

/** Milliseconds between the request to end and SIGKILL for the proxy. */
const GRACE_MS = 2000;
/** Lines of kubectl's stderr shown with an error, and the bytes read to find them. */
const STDERR_LINES = 5;
const STDERR_BYTES = 4096;

// The proxy ends, and its directory is removed, when stdin closes: also after the pipeline is killed.
const proxyScript = `exec 3<&0
"$@" & proxy=$!
{ cat <&3; kill $proxy; } >/dev/null 2>&1 &
wait $proxy; code=$?; rm -rf "$DIRECTORY"; exit $code`;

/**
 * Starts kubectl's proxy and returns a client for it.
 *
 * @throws {PipelineError} "environment" if kubectl or the context is missing, the kubeconfig is unreadable, or
 * kubectl does not start its proxy
 * @throws the signal's reason if it was aborted
 */
export async function connectApi(options: ApiOptions): Promise<ApiClient> {
  const { service, kubectl, privilege = [], startTimeoutSeconds = CONNECT_TIMEOUT_SECONDS, signal } = options;
  if (!isOnPath(kubectl[0]!)) {
    throw new PipelineError("environment", `${kubectl[0]} not found on PATH`, {
      code: "program-not-found",
      hint: "Install kubectl: https://kubernetes.io/docs/tasks/tools/",
    });
  }
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-api-`));
  try {
    let command = kubectl;
    if (privilege.length > 0) {
      // Only the credentials are read with privilege: this user could not open a socket of root's.
      const view = [...privilege, ...kubectl, "config", "view", "--raw", "--flatten", "--minify"];
      const { code, stdout, stderr } = await runProcess(view, {
        timeoutSeconds: startTimeoutSeconds,
        signal,
      });
      if (code !== 0) throw kubeconfigError(stderr);
      const copy = join(directory, "kubeconfig");
      await writeFile(copy, stdout, { mode: 0o600 });
      command = [...kubectl.filter((argument) => !/^--(kubeconfig|context)=/.test(argument)), `--kubeconfig=${copy}`];
    }
    const socket = join(directory, "socket");
    const stderr = openStderrFile(join(directory, "stderr"));
    const proxy = Bun.spawn(["sh", "-c", proxyScript, "sh", ...command, "proxy", `--unix-socket=${socket}`], {
      env: { ...process.env, DIRECTORY: directory },
      stdin: "pipe",
      stdout: "pipe",
      stderr: stderr.file,
      // A separate process group: Ctrl-C must not end the proxy, the pipeline still needs it to release the lock.
      detached: true,
    });
    const close = async () => {
      proxy.stdin.end();
      const kill = setTimeout(() => signalProcessGroup(proxy.pid, "SIGKILL"), GRACE_MS);
      await proxy.exited;
      clearTimeout(kill);
      stderr.close();
      await rm(directory, { recursive: true, force: true });
    };
    proxy.unref();
    const reader = proxy.stdout.getReader();
    const started = await withTimeout(reader.read(), startTimeoutSeconds, signal).catch(async (error: unknown) => {
      signalProcessGroup(proxy.pid, "SIGKILL");
      await close();
      throw error;
    });
    if (started === undefined || started.done) {
      if (started === undefined) signalProcessGroup(proxy.pid, "SIGKILL");
      const output = stderr.tail();
      await close();
      throw started ? kubeconfigError(output) : startTimeoutError(kubectl, startTimeoutSeconds, output);
    }
    await chmod(socket, 0o600);
    // HTTP_PROXY does not apply to a local socket.
    const open = (path: string, init: RequestInit) =>
      fetch(`http://localhost${path}`, { ...init, unix: socket, proxy: false });
    return new ApiClient(service, open, signal, close, {
      kubectl,
      kubectlCommand: async (args) => [...command, ...args],
      stderrTail: stderr.tail,
    });
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

/** Awaits a promise. @returns undefined on timeout @throws the signal's reason if it was aborted */
async function withTimeout<T>(promise: Promise<T>, seconds: number, signal: AbortSignal): Promise<T | undefined> {
  const ended = Promise.withResolvers<undefined>();
  const end = () => ended.resolve(undefined);
  const timer = setTimeout(end, seconds * 1000);
  signal.addEventListener("abort", end);
  try {
    const result = await Promise.race([promise, ended.promise]);
    signal.throwIfAborted();
    return result;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}

/**
 * Opens a file for stderr. In contrast to a pipe, its content can be read at any time, before the first response too.
 * Credential plugins write to kubectl's stderr.
 * https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
 */
function openStderrFile(path: string) {
  let file: number | undefined = openSync(path, "a+", 0o600);
  return {
    file,
    tail(): string {
      if (file === undefined) return "";
      const buffer = Buffer.alloc(STDERR_BYTES);
      const got = readSync(file, buffer, 0, STDERR_BYTES, Math.max(0, fstatSync(file).size - STDERR_BYTES));
      const lines = buffer.toString("utf8", 0, got).trim().split("\n");
      return lines.slice(-STDERR_LINES).join("\n");
    },
    close() {
      if (file !== undefined) closeSync(file);
      file = undefined;
    },
  };
}

function startTimeoutError(kubectl: string[], seconds: number, output: string): PipelineError {
  const command = kubectl.join(" ");
  return new PipelineError("environment", `kubectl has not started its proxy within ${seconds} s`, {
    code: "kubectl-start-timeout",
    hint: `Run \`${command} version\`: it may be waiting for a password or a login.`,
    output,
  });
}

function kubeconfigError(stderr: string): PipelineError {
  const reason = stderr.trim().split("\n").at(-1) || "kubectl ended without output";
  const hint = /password is required|permission denied/i.test(stderr)
    ? "This user may not read the kubeconfig. Run `sudo -v` first, or run the pipeline as root."
    : "List the contexts with `kubectl config get-contexts`, then select with --kubeconfig and --context.";
  return new PipelineError("environment", `kubectl cannot use the kubeconfig: ${reason}`, {
    code: "kubeconfig-unusable",
    hint,
    output: stderr,
  });
}
