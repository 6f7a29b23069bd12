/** One connection of ssh to a host, and what is begun there with it: the API's proxy, and a directory that goes with the line. */
import { PipelineError } from "../core/errors.ts";
import { signalProcessGroup, collectOutput } from "../core/process.ts";
import { lastReason, explainSshError } from "./errors.ts";

/** Seconds that ssh may take to get there; and between two signs of life, three of which may be missing. */
const CONNECT_SECONDS = 10;
const ALIVE_SECONDS = 3;
/** Seconds from the first byte to an answer of the API's proxy. */
const FIRST_SECONDS = CONNECT_SECONDS + 10;
/** Seconds between two bytes that keep the other side's directory, and without one after which it goes. */
const BEAT_SECONDS = 15;
const SILENT_SECONDS = 45;
/** Milliseconds that ssh has to end by itself. */
const GRACE_MS = 2000;
/** What a script's output begins with: all before it is some login shell's greeting. */
export const OUTPUT_MARKER = "slipway:";

const settings = {
  BatchMode: "yes",
  StrictHostKeyChecking: "yes",
  UpdateHostKeys: "no",
  Compression: "yes",
  ConnectTimeout: `${CONNECT_SECONDS}`,
  ServerAliveInterval: `${ALIVE_SECONDS}`,
  ServerAliveCountMax: "3",
  LogLevel: "INFO",
  // Of a host's configuration, what is for sessions at a terminal.
  RemoteCommand: "none",
  RequestTTY: "no",
  ForwardAgent: "no",
  ForwardX11: "no",
  PermitLocalCommand: "no",
  ControlPersist: "no",
};
/** What each call of ssh is made with: the user's configuration counts for all else. */
export const sshOptions = Object.entries(settings).map(([name, value]) => `-o${name}=${value}`);

/** Exit codes of the first script, as sysexits.h has none for them. */
const codes = { noK3s: 70, noSudo: 71 } as const;
/** How the last line of it begins: kubectl's, or in its place where a node has no API to ask. */
const READY = "Starting";

// An agent of k3s has no kubeconfig: an image can be brought there, and nothing asked. `test -O` is not in POSIX, but in every sh that Linux has. The pid in a directory's name tells whether its line still is.
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
command -v k3s >/dev/null || exit ${codes.noK3s}
config=/etc/rancher/k3s/k3s.yaml
sudo=
if [ "$(id -u)" != 0 ]; then sudo='sudo -n '; fi
if [ "$sudo" ] && [ -e $config ] && [ ! -r $config ]; then
  \${sudo}k3s kubectl config view --raw --flatten --minify >$d/config || exit ${codes.noSudo}
  config=$d/config
fi
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "directory $d"
echo "sudo $sudo"
alive() { while [ -n "$(timeout ${SILENT_SECONDS} head -c 1)" ]; do :; done; }
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

/** What is at the other end. */
export interface RemoteHostInfo {
  /** The id of the boot of what runs there. */
  boot: string;
  /** For what a script has to lay down; only that user can enter it. */
  directory: string;
  /** What root's commands begin with there: nothing, or sudo and a space. */
  sudo: string;
  /** The socket there on which its API server answers; undefined: it has none. */
  api: string | undefined;
}

export interface HostConnection {
  there: RemoteHostInfo;
  /** The socket that other calls of ssh reach it by. */
  control: string;
  isGone(): boolean;
  /** Resolves when it has. */
  gone: Promise<unknown>;
  /** All that ssh has said so far. */
  said(): string;
  end(): Promise<void>;
}

/**
 * @param control a path for the socket
 * @param signal ends the attempt, not what comes of it: an interruption still has a word to say to the cluster
 * @throws {PipelineError} "environment": no ssh, no way there, no k3s, no rights
 */
export async function connectHost(
  host: string,
  control: string,
  signal?: AbortSignal,
): Promise<HostConnection> {
  signal?.throwIfAborted();
  const script = bootstrapScript(crypto.randomUUID().slice(0, 8));
  const child = start(["ssh", "-T", "-M", `-S${control}`, ...sshOptions, "--", host, remoteCommand(script)]);
  const said = collectOutput(child.stderr);
  let isGone = false;
  const gone = child.exited.then(() => (isGone = true));
  const kill = () => signalProcessGroup(child.pid, "SIGKILL");
  const limit = setTimeout(kill, FIRST_SECONDS * 1000);
  signal?.addEventListener("abort", kill);
  // A line that was given up without an end, in a laptop that sleeps, is given up there as well.
  const beat = setInterval(() => {
    // Not a newline: the other side's sh drops those.
    void send(child, ".");
  }, BEAT_SECONDS * 1000);
  beat.unref();
  const end = async () => {
    clearInterval(beat);
    await Promise.resolve(child.stdin.end()).catch(() => {});
    const grace = setTimeout(kill, GRACE_MS);
    await child.exited;
    clearTimeout(grace);
  };
  try {
    await send(child, wrapScript(script));
    const facts = await factsIn(child.stdout);
    if (!facts) {
      const code = await child.exited;
      await said.whole;
      throw refusal(host, code, said.text()) ?? (await explainSshError(host, said.text(), signal));
    }
    const [boot = "", directory = "", sudo = ""] = ["boot", "directory", "sudo"].map((key) => facts.get(key));
    // kubectl's is "Starting to serve on …".
    const api = facts.get(READY) === "" ? undefined : `${directory}/api`;
    return {
      there: { boot, directory, sudo, api },
      control,
      isGone: () => isGone,
      gone,
      said: said.text,
      end,
    };
  } catch (error) {
    kill();
    await end();
    signal?.throwIfAborted();
    throw error;
  } finally {
    clearTimeout(limit);
    signal?.removeEventListener("abort", kill);
    child.unref();
  }
}

/** What the first script says, by its first words; undefined: it has ended before. */
async function factsIn(stdout: ReadableStream<Uint8Array>): Promise<Map<string, string> | undefined> {
  const facts = new Map<string, string>();
  const reader = stdout.getReader();
  const decoder = new TextDecoder();
  let [rest, isHeard] = ["", false];
  while (!facts.has(READY)) {
    const { value, done } = await reader.read();
    if (done) return undefined;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      const [word = "", ...words] = line.split(" ");
      if (isHeard) facts.set(word, words.join(" "));
      else isHeard = line === OUTPUT_MARKER;
    }
  }
  // What else comes is nobody's.
  void (async () => {
    while (!(await reader.read()).done);
  })().catch(() => {});
  return facts;
}

/** Of the first script. */
function refusal(host: string, code: number, said: string): PipelineError | undefined {
  const wrong = (message: string, hint: string) =>
    new PipelineError("environment", `${host}: ${message}; nothing was changed`, { hint, output: said });
  if (code === codes.noK3s) {
    const hint =
      "https://docs.k3s.io/quick-start installs it there; it has to be on that user's PATH, or in /usr/local/bin.";
    return wrong("there is no k3s", hint);
  }
  if (code !== codes.noSudo) return undefined;
  return wrong(
    `this user may not read k3s's kubeconfig, and sudo does not let it (${lastReason(said)})`,
    SUDOERS,
  );
}

/** What to do where the user there may not. */
export const SUDOERS =
  "README has the lines for /etc/sudoers.d that let this user do it; or name root, `--host root@HOST`.";

/** The one command that a login shell gets for a script, of a form that fish and csh read as sh does. */
export function remoteCommand(script: string): string {
  return `exec sh -c 'eval "$(head -c ${Buffer.byteLength(wrapScript(script))})"'`;
}

/** What is sent for a script. A shell that is not a login's may lack the place where k3s is; split(1) runs what it is given in $SHELL. */
export function wrapScript(script: string): string {
  return `umask 077; LC_ALL=C PATH=$PATH:/usr/local/bin SHELL=/bin/sh; export LC_ALL PATH SHELL; echo ${OUTPUT_MARKER}\n${script}`;
}

function start(ssh: string[]) {
  try {
    // A group of its own: Ctrl-C is the pipeline's, which still has a word to say to the cluster then.
    const env = { ...process.env };
    return Bun.spawn(ssh, { env, stdin: "pipe", stdout: "pipe", stderr: "pipe", detached: true });
  } catch (error) {
    throw new PipelineError("environment", "there is no ssh on PATH", {
      hint: "Debian's package is openssh-client.",
      cause: error,
    });
  }
}

/** Writes to what may have ended before it reads, as ssh does that gets nowhere: its own words say why. */
async function send({ stdin }: ReturnType<typeof start>, text: string): Promise<void> {
  try {
    stdin.write(text);
    await stdin.flush();
  } catch {
    // EPIPE
  }
}
