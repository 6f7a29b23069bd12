/**
 * The way to the API of one named cluster: never of whatever context happens to be current.
 *
 * kubectl's own proxy, on a socket that only this user reaches, deals with kubeconfigs, certificates, credential plugins
 * and tokens; questions are then plain HTTP and take milliseconds, where a kubectl for each takes a tenth of a second.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { signalProcessGroup, isOnPath, runProcess } from "../core/process.ts";
import type { Service } from "../core/service-config.ts";
import { ApiClient, CONNECT_TIMEOUT_SECONDS } from "./api.ts";

export interface ApiOptions {
  service: Service;
  /** Program and options that select the cluster, like `["k3s", "kubectl", "--kubeconfig=…"]`. */
  kubectl: string[];
  /** What to run it with where the kubeconfig is not this user's to read: `["sudo", "-n"]`. */
  privilege?: string[];
  /** Seconds that kubectl has to start its proxy. Default: FIRST_SECONDS. */
  firstSeconds?: number;
  signal: AbortSignal;
}

/** Milliseconds that the proxy has to end by itself. */
const GRACE_MS = 2000;
/** Of what kubectl says, the last lines that are shown with a refusal, and the bytes in which they are looked for. */
const LAST_LINES = 5;
const LAST_BYTES = 4096;

// It ends, and what it holds is removed, when its standard input does: also when the pipeline was killed.
const keeper = `exec 3<&0
"$@" & proxy=$!
{ cat <&3; kill $proxy; } >/dev/null 2>&1 &
wait $proxy; code=$?; rm -rf "$DIRECTORY"; exit $code`;

/**
 * Starts kubectl's proxy and speaks through it.
 *
 * @throws {PipelineError} "environment": no kubectl, no such context, a kubeconfig that cannot be read, no word from kubectl
 * @throws the signal's reason when it was aborted
 */
export async function connectApi(options: ApiOptions): Promise<ApiClient> {
  const { service, kubectl, privilege = [], firstSeconds = CONNECT_TIMEOUT_SECONDS, signal } = options;
  if (!isOnPath(kubectl[0]!)) {
    throw new PipelineError("environment", `there is no ${kubectl[0]} on PATH`, {
      hint: "https://kubernetes.io/docs/tasks/tools/ tells how to install kubectl.",
    });
  }
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-api-`));
  try {
    let command = kubectl;
    if (privilege.length > 0) {
      // The credentials are read with privilege, used without: a socket of root's would not open to this user.
      const view = [...privilege, ...kubectl, "config", "view", "--raw", "--flatten", "--minify"];
      const { code, stdout, stderr } = await runProcess(view, { timeoutSeconds: firstSeconds, signal });
      if (code !== 0) throw unreadable(stderr);
      const copy = join(directory, "kubeconfig");
      await writeFile(copy, stdout, { mode: 0o600 });
      command = [...kubectl.filter((word) => !/^--(kubeconfig|context)=/.test(word)), `--kubeconfig=${copy}`];
    }
    const socket = join(directory, "socket");
    const words = wordsIn(join(directory, "stderr"));
    const proxy = Bun.spawn(["sh", "-c", keeper, "sh", ...command, "proxy", `--unix-socket=${socket}`], {
      env: { ...process.env, DIRECTORY: directory },
      stdin: "pipe",
      stdout: "pipe",
      stderr: words.file,
      // A group of its own: Ctrl-C is the pipeline's, which still has a word to say to the cluster then.
      detached: true,
    });
    const end = async () => {
      proxy.stdin.end();
      const kill = setTimeout(() => signalProcessGroup(proxy.pid, "SIGKILL"), GRACE_MS);
      await proxy.exited;
      clearTimeout(kill);
      words.close();
      await rm(directory, { recursive: true, force: true });
    };
    proxy.unref();
    const reader = proxy.stdout.getReader();
    const greeting = await first(reader.read(), firstSeconds, signal).catch(async (error: unknown) => {
      signalProcessGroup(proxy.pid, "SIGKILL");
      await end();
      throw error;
    });
    if (greeting === undefined || greeting.done) {
      if (greeting === undefined) signalProcessGroup(proxy.pid, "SIGKILL");
      const said = words.last();
      await end();
      throw greeting ? unreadable(said) : silent(kubectl, firstSeconds, said);
    }
    await chmod(socket, 0o600);
    // HTTP_PROXY is not asked: the socket is this machine's.
    const open = (path: string, init: RequestInit) =>
      fetch(`http://localhost${path}`, { ...init, unix: socket, proxy: false });
    return new ApiClient(service, open, signal, end, { kubectl, stderrTail: words.last });
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

/**
 * What is awaited, unless that takes too long: then undefined.
 *
 * @throws the signal's reason when it was aborted
 */
async function first<T>(awaited: Promise<T>, seconds: number, signal: AbortSignal): Promise<T | undefined> {
  const ended = Promise.withResolvers<undefined>();
  const end = () => ended.resolve(undefined);
  const timer = setTimeout(end, seconds * 1000);
  signal.addEventListener("abort", end);
  try {
    const found = await Promise.race([awaited, ended.promise]);
    signal.throwIfAborted();
    return found;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}

/**
 * A file for what a program says: what it has said before it answers can be read then, which is not so with a pipe. Among it are
 * the words of credential plugins, which have kubectl's stderr.
 * https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
 */
function wordsIn(path: string) {
  let file: number | undefined = openSync(path, "a+", 0o600);
  return {
    file,
    last(): string {
      if (file === undefined) return "";
      const buffer = Buffer.alloc(LAST_BYTES);
      const got = readSync(file, buffer, 0, LAST_BYTES, Math.max(0, fstatSync(file).size - LAST_BYTES));
      const lines = buffer.toString("utf8", 0, got).trim().split("\n");
      return lines.slice(-LAST_LINES).join("\n");
    },
    close() {
      if (file !== undefined) closeSync(file);
      file = undefined;
    },
  };
}

function silent(kubectl: string[], seconds: number, said: string): PipelineError {
  const command = kubectl.join(" ");
  return new PipelineError("environment", `kubectl has not started its proxy within ${seconds} s`, {
    hint: `Does \`${command} version\` answer? It may wait for somebody: a password, a login.`,
    output: said,
  });
}

function unreadable(stderr: string): PipelineError {
  const words = stderr.trim().split("\n").at(-1) || "kubectl ended without a word";
  const hint = /password is required|permission denied/i.test(stderr)
    ? "This user may not read the kubeconfig: run `sudo -v` first, or run the pipeline as root."
    : "`kubectl config get-contexts` lists the contexts that there are; --kubeconfig and --context choose.";
  return new PipelineError("environment", `kubectl cannot use the kubeconfig: ${words}`, {
    hint,
    output: stderr,
  });
}
