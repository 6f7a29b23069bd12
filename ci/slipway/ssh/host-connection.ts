/** Opens the SSH connection to a host, and starts the API proxy and creates a temporary directory there. */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import { signalProcessGroup, collectOutput } from "../core/process.ts";
import { explainSshError, lastReason } from "./errors.ts";

const CONNECT_TIMEOUT_SECONDS = 10;
/** Interval of ssh's keep-alive messages. ssh disconnects after three without a reply. */
const KEEP_ALIVE_SECONDS = 3;
/** Time limit from the start of ssh until the API proxy is ready. */
const BOOTSTRAP_TIMEOUT_SECONDS = CONNECT_TIMEOUT_SECONDS + 10;
/** Interval of the bytes that keep the remote directory, and the silence after which the host removes it. */
const HEARTBEAT_SECONDS = 15;
const MAX_SILENCE_SECONDS = 45;
/** Time that ssh has to exit by itself. */
const GRACE_MS = 2000;
/** Marks the start of a script's output. Anything before it is the greeting of a login shell. */
export const OUTPUT_MARKER = "slipway:";

const settings = {
  BatchMode: "yes",
  StrictHostKeyChecking: "yes",
  UpdateHostKeys: "no",
  Compression: "yes",
  ConnectTimeout: `${CONNECT_TIMEOUT_SECONDS}`,
  ServerAliveInterval: `${KEEP_ALIVE_SECONDS}`,
  ServerAliveCountMax: "3",
  LogLevel: "INFO",
  // Disables settings of ~/.ssh/config that are meant for interactive sessions.
  RemoteCommand: "none",
  RequestTTY: "no",
  ForwardAgent: "no",
  ForwardX11: "no",
  PermitLocalCommand: "no",
  ControlPersist: "no",
};
/** Options of every ssh call. The user's configuration decides everything else. */
export const sshOptions = Object.entries(settings).map(([name, value]) => `-o${name}=${value}`);

/** Exit codes of the bootstrap script. sysexits.h has none for these conditions. */
const bootstrapCodes = { noK3s: 70, noSudo: 71 } as const;
/** First word of the script's last line. kubectl prints it, or the script does on a node without an API server. */
const READY = "Starting";

/**
 * Creates the remote directory and runs until the SSH connection ends.
 *
 * The pid in a directory's name tells whether its connection still exists, so that abandoned directories are removed.
 * A k3s agent has no kubeconfig: it can import images, but has no API server. `test -O` is not in POSIX, but every sh on
 * Linux has it.
 */
export const bootstrapScript = (nonce: string) => `
for old in /tmp/slipway-*.*; do
  pid=\${old#/tmp/slipway-}; pid=\${pid%%.*}
  case $pid in ''|*[!0-9]*) continue;; esac
  if [ -O "$old" ] && [ ! -h "$old" ] && ! kill -0 "$pid" 2>/dev/null; then rm -rf "$old"; fi
done
d=/tmp/slipway-$$.${nonce}
mkdir "$d" || exit
trap 'rm -rf "$d"' EXIT
trap 'exit 1' HUP INT TERM
command -v k3s >/dev/null || exit ${bootstrapCodes.noK3s}
config=/etc/rancher/k3s/k3s.yaml
sudo=
if [ "$(id -u)" != 0 ]; then sudo='sudo -n '; fi
if [ "$sudo" ] && [ -e $config ] && [ ! -r $config ]; then
  \${sudo}k3s kubectl config view --raw --flatten --minify >$d/config || exit ${bootstrapCodes.noSudo}
  config=$d/config
fi
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "directory $d"
echo "sudo $sudo"
echo "config $config"
alive() { while [ -n "$(timeout ${MAX_SILENCE_SECONDS} head -c 1)" ]; do :; done; }
if [ -e $config ]; then
  exec 3<&0
  k3s kubectl "--kubeconfig=$config" proxy "--unix-socket=$d/api" </dev/null & proxy=$!
  { alive <&3; kill $proxy; } >/dev/null 2>&1 &
  wait $proxy
else
  echo "${READY}"
  alive
fi
`;

export interface RemoteHostInfo {
  /** Boot ID of the running kernel. */
  bootId: string;
  /** Temporary directory that only the SSH user can enter. */
  directory: string;
  /** Prefix of commands that need root: empty, or sudo and a space. */
  sudo: string;
  /** kubeconfig on the host that the SSH user can read. */
  kubeconfig: string;
  /** Socket of the API server's proxy on the host. undefined: the host has no API server. */
  apiSocket: string | undefined;
}

export interface HostConnection {
  hostInfo: RemoteHostInfo;
  /** Socket through which other ssh calls share this connection. */
  controlSocket: string;
  isClosed(): boolean;
  /** Resolves when the connection is closed. */
  closed: Promise<unknown>;
  /** Returns everything that ssh has written to stderr so far. */
  stderr(): string;
  close(): Promise<void>;
}

/**
 * @param controlSocket path of the socket to create
 * @param signal cancels the attempt, but not the open connection: an interrupted deploy still has to write to the cluster
 * @throws {PipelineError} "environment" if ssh is missing, the host is unreachable, or k3s or permissions are missing
 */
export async function connectHost(host: string, controlSocket: string, signal?: AbortSignal): Promise<HostConnection> {
  signal?.throwIfAborted();
  const script = bootstrapScript(crypto.randomUUID().slice(0, 8));
  const ssh = ["ssh", "-T", "-M", `-S${controlSocket}`, ...sshOptions, "--", host, remoteCommand(script)];
  const child = spawnSsh(ssh);
  const stderr = collectOutput(child.stderr);
  let isClosed = false;
  const closed = child.exited.then(() => (isClosed = true));
  const kill = () => signalProcessGroup(child.pid, "SIGKILL");
  const timeout = setTimeout(kill, BOOTSTRAP_TIMEOUT_SECONDS * 1000);
  signal?.addEventListener("abort", kill);
  // A connection can disappear without being closed, for example when a laptop sleeps. The host then notices the silence.
  const heartbeat = setInterval(() => {
    // Not a newline: sh on the host drops trailing newlines.
    void send(child, ".");
  }, HEARTBEAT_SECONDS * 1000);
  heartbeat.unref();
  const close = async () => {
    clearInterval(heartbeat);
    await Promise.resolve(child.stdin.end()).catch(() => {});
    const grace = setTimeout(kill, GRACE_MS);
    await child.exited;
    clearTimeout(grace);
  };
  try {
    await send(child, wrapScript(script));
    const values = await readBootstrapOutput(child.stdout);
    if (!values) {
      const code = await child.exited;
      await stderr.complete;
      throw explainBootstrapFailure(host, code, stderr.text()) ?? (await explainSshError(host, stderr.text(), signal));
    }
    const [bootId = "", directory = "", sudo = "", kubeconfig = ""] = ["boot", "directory", "sudo", "config"].map(
      (key) => values.get(key),
    );
    // kubectl prints "Starting to serve on …", the script only "Starting".
    const apiSocket = values.get(READY) === "" ? undefined : `${directory}/api`;
    return {
      hostInfo: { bootId, directory, sudo, kubeconfig, apiSocket },
      controlSocket,
      isClosed: () => isClosed,
      closed,
      stderr: stderr.text,
      close,
    };
  } catch (error) {
    kill();
    await close();
    signal?.throwIfAborted();
    throw error;
  } finally {
    clearTimeout(timeout);
    signal?.removeEventListener("abort", kill);
    child.unref();
  }
}

/** @returns the text after each line's first word, keyed by that word. undefined: the script exited too early */
async function readBootstrapOutput(stdout: ReadableStream<Uint8Array>): Promise<Map<string, string> | undefined> {
  const values = new Map<string, string>();
  const reader = stdout.getReader();
  const decoder = new TextDecoder();
  let [rest, isAfterMarker] = ["", false];
  while (!values.has(READY)) {
    const { value, done } = await reader.read();
    if (done) return undefined;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const [key = "", ...words] = line.split(" ");
      if (isAfterMarker) values.set(key, words.join(" "));
      else isAfterMarker = line === OUTPUT_MARKER;
    }
  }
  // Keeps reading so that the pipe never fills up.
  void (async () => {
    while (!(await reader.read()).done);
  })().catch(() => {});
  return values;
}

function explainBootstrapFailure(host: string, code: number, stderr: string): PipelineError | undefined {
  const failure = (code: ErrorCode, message: string, hint: string) =>
    new PipelineError("environment", `${host}: ${message}. Nothing was changed`, { code, hint, output: stderr });
  if (code === bootstrapCodes.noK3s) {
    const hint = "Install k3s there (https://docs.k3s.io/quick-start), on the user's PATH or in /usr/local/bin.";
    return failure("ssh-k3s-not-found", "k3s not found", hint);
  }
  if (code !== bootstrapCodes.noSudo) return undefined;
  return failure(
    "ssh-sudo-failed",
    `the SSH user cannot read k3s's kubeconfig, and sudo fails (${lastReason(stderr)})`,
    SUDOERS_HINT,
  );
}

export const SUDOERS_HINT =
  "Add the lines of docs/how-to/ssh-without-root.md to /etc/sudoers.d on the host, or connect as root: `--host root@HOST`.";

/** Returns the command that reads a script from stdin and runs it. sh, fish and csh parse it in the same way. */
export function remoteCommand(script: string): string {
  return `exec sh -c 'eval "$(head -c ${Buffer.byteLength(wrapScript(script))})"'`;
}

/**
 * Prepends the shell settings and the output marker to a script.
 *
 * The PATH of a non-login shell may lack k3s's directory. split(1) runs its filter in $SHELL.
 */
export function wrapScript(script: string): string {
  return `umask 077; LC_ALL=C PATH=$PATH:/usr/local/bin SHELL=/bin/sh; export LC_ALL PATH SHELL; echo ${OUTPUT_MARKER}\n${script}`;
}

function spawnSsh(command: string[]) {
  try {
    // Ctrl-C must not reach ssh, because the pipeline still writes to the cluster then. Hence a separate process group.
    const env = { ...process.env };
    return Bun.spawn(command, { env, stdin: "pipe", stdout: "pipe", stderr: "pipe", detached: true });
  } catch (error) {
    throw new PipelineError("environment", "ssh not found on PATH", {
      code: "program-not-found",
      hint: "Install it (Debian package: openssh-client).",
      cause: error,
    });
  }
}

/** Writes to stdin. Ignores a closed pipe, because ssh's stderr explains why it exited. */
async function send({ stdin }: ReturnType<typeof spawnSsh>, text: string): Promise<void> {
  try {
    stdin.write(text);
    await stdin.flush();
  } catch {
    // EPIPE
  }
}
