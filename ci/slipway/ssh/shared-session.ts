/**
 * Holds one connection of the system's ssh to a host, shared by all commands. ssh's own configuration, agent, jump hosts
 * and known_hosts apply. slipway never prompts, and never trusts an unknown host key.
 *
 * The host needs sh and coreutils. Scripts are sent over stdin because the login shell can be any shell: it only gets one
 * command that all shells parse in the same way. Temporary files are in a directory on the host that only the SSH user
 * can enter. The host removes it when the connection ends, or else the next connection does.
 */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { isRunning, runProcess, type ProcessResult, type ProcessOptions } from "../core/process.ts";
import {
  remoteCommand,
  connectHost,
  OUTPUT_MARKER,
  wrapScript,
  sshOptions,
  type HostConnection,
  type RemoteHostInfo,
} from "./host-connection.ts";
import { lastReason, SshConnectionLost } from "./errors.ts";
import { shellQuote } from "./shell-quote.ts";

/** Exit code of ssh itself, as opposed to the script's. */
const SSH_FAILED = 255;
/** Time that ssh may take to exit after its connection is lost. */
const EXIT_MS = 500;

/** Prevents ssh from opening a connection of its own when the shared one is lost. */
const sharedOnly = ["-oControlMaster=no", "-oProxyCommand=false"];

export interface ScriptOptions extends Omit<ProcessOptions, "cwd" | "env" | "input"> {
  /** Content of the script's stdin, or a function that reads it. */
  input?: string | Uint8Array | (() => AsyncIterable<Uint8Array>);
}

export class SshSession {
  #connection: HostConnection | undefined;
  #connecting: Promise<HostConnection> | undefined;
  readonly #forwarded = new Map<string, Promise<string>>();
  #socketCount = 0;
  #runningScripts = 0;
  /** Scripts that sshd lets run at the same time. It has told the number if it has refused one. */
  #maxScripts = Infinity;
  #waiting: (() => void)[] = [];

  private constructor(
    readonly host: string,
    private readonly localDirectory: string,
    private readonly signal: AbortSignal,
  ) {}

  /**
   * @param signal cancels the attempt, and later scripts, but not a reconnect
   * @throws {PipelineError} "environment" if ssh is missing, the host is unreachable, or k3s or permissions are missing
   */
  static async open(host: string, signal: AbortSignal): Promise<SshSession> {
    await removeAbandonedSockets();
    const localDirectory = await mkdtemp(join(tmpdir(), `slipway-${process.pid}-`));
    const session = new SshSession(host, localDirectory, signal);
    try {
      await session.#connect(signal);
      return session;
    } catch (error) {
      await session.close();
      throw error;
    }
  }

  /** Describes the host. Reconnects if the connection was lost. @throws {SshConnectionLost} */
  async hostInfo(): Promise<RemoteHostInfo> {
    return (await this.#connect()).hostInfo;
  }

  /**
   * Explains a request over a forwarded socket that failed.
   *
   * ssh reports a refused forwarding only when a client connects, and only on the stderr of the shared connection. sshd
   * gives the same reason for a socket that nobody listens on, but then the connection ends with kubectl's proxy.
   */
  async explainForwardError(error: unknown): Promise<unknown> {
    const connection = this.#connection;
    const isLost = await Promise.race([connection?.closed.then(() => true), Bun.sleep(EXIT_MS)]);
    const output = connection?.stderr() ?? "";
    const isRefused = /open failed: (?:administratively prohibited|connect failed: open failed)/.test(output);
    if (isLost || !isRefused) return error;
    return new PipelineError("environment", `${this.host}: sshd forwards no connections to k3s's API`, {
      code: "ssh-forwarding-refused",
      hint: "Set `AllowTcpForwarding local` and `AllowStreamLocalForwarding local` in sshd_config on the host, for this user at least (`Match User`).",
      output,
      cause: error,
    });
  }

  /** Returns the last line that ssh wrote to stderr. */
  stderrTail(): string {
    return lastReason(this.#connection?.stderr() ?? "");
  }

  /**
   * Runs a sh script on the host. A code other than 0 is a result, not an error.
   *
   * The script waits for others if sshd's MaxSessions allows no more.
   *
   * @throws {SshConnectionLost} if the connection ends while the script runs
   * @throws {PipelineError} "environment" if MaxSessions allows no script at all
   */
  async run(script: string, options: ScriptOptions = {}): Promise<ProcessResult> {
    for (;;) {
      while (this.#runningScripts >= this.#maxScripts)
        await new Promise<void>((resolve) => this.#waiting.push(resolve));
      this.#runningScripts += 1;
      try {
        const result = await this.#run(script, options);
        if (result) return result;
        this.#maxScripts = this.#runningScripts - 1;
      } finally {
        this.#runningScripts -= 1;
        this.#waiting.shift()?.();
      }
    }
  }

  /** @returns undefined if sshd refuses another script beside the running ones */
  async #run(script: string, options: ScriptOptions): Promise<ProcessResult | undefined> {
    const { controlSocket, closed } = await this.#connect();
    const ssh = [
      "ssh",
      "-T",
      `-S${controlSocket}`,
      ...sshOptions,
      ...sharedOnly,
      "--",
      this.host,
      remoteCommand(script),
    ];
    const input = prependScript(script, options.input ?? "");
    const result = await runProcess(ssh, { signal: this.signal, ...options, input });
    const marker = result.stdout.indexOf(`${OUTPUT_MARKER}\n`);
    if (marker < 0 && /session request failed|Session open refused/i.test(result.stderr)) {
      if (this.#runningScripts > 1) return undefined;
      throw tooFewSessions(this.host, result.stderr);
    }
    if (result.code === SSH_FAILED) {
      const isLost = marker < 0 || (await Promise.race([closed.then(() => true), Bun.sleep(EXIT_MS)]));
      if (isLost) throw new SshConnectionLost(`SSH connection to ${this.host} lost`);
    }
    return { ...result, stdout: result.stdout.slice(marker < 0 ? 0 : marker + OUTPUT_MARKER.length + 1) };
  }

  /**
   * Forwards a local socket to an address or a socket on the host.
   *
   * @param remote `ADDRESS:PORT`, or the path of a socket
   * @returns the path of the local socket
   */
  async forward(remote: string): Promise<string> {
    const { controlSocket } = await this.#connect();
    const key = `${controlSocket} ${remote}`;
    let forwarded = this.#forwarded.get(key);
    if (!forwarded) {
      forwarded = this.#forward(controlSocket, remote);
      this.#forwarded.set(key, forwarded);
      forwarded.catch(() => this.#forwarded.delete(key));
    }
    return forwarded;
  }

  async #forward(controlSocket: string, remote: string): Promise<string> {
    const socket = join(this.localDirectory, `f${(this.#socketCount += 1)}`);
    const forwarding = ["-oStreamLocalBindMask=0177", "-Oforward", `-L${socket}:${remote}`];
    const ssh = ["ssh", `-S${controlSocket}`, ...forwarding, "--", this.host];
    const { code, stderr } = await runProcess(ssh, { timeoutSeconds: 5 });
    if (code === 0) return socket;
    const reason = lastReason(stderr) || `exit code ${code}`;
    throw new SshConnectionLost(`cannot forward ${remote} over SSH from ${this.host}: ${reason}`);
  }

  /** Returns a local command that runs kubectl on the host over this connection. */
  async kubectlCommand(args: string[], hasTerminal: boolean): Promise<string[]> {
    const { controlSocket, hostInfo } = await this.#connect();
    // The login shell only sees quoted words. The PATH of a non-login shell may lack k3s's directory.
    const script = 'PATH=$PATH:/usr/local/bin; exec k3s kubectl "$@"';
    const words = ["sh", "-c", script, "sh", `--kubeconfig=${hostInfo.kubeconfig}`, ...args];
    const terminal = hasTerminal ? ["-tt", "-oRequestTTY=force", "-oLogLevel=ERROR"] : ["-T"];
    const remote = `exec ${words.map(shellQuote).join(" ")}`;
    return ["ssh", ...terminal, `-S${controlSocket}`, ...sshOptions, ...sharedOnly, "--", this.host, remote];
  }

  async close(): Promise<void> {
    await this.#connection?.close();
    await rm(this.localDirectory, { recursive: true, force: true });
  }

  #connect(signal?: AbortSignal): Promise<HostConnection> {
    if (this.#connection && !this.#connection.isClosed()) return Promise.resolve(this.#connection);
    const open = async () => {
      const controlSocket = join(this.localDirectory, `c${(this.#socketCount += 1)}`);
      return (this.#connection = await connectHost(this.host, controlSocket, signal));
    };
    this.#connecting ??= open().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }
}

/** Removes local sockets of killed processes. */
async function removeAbandonedSockets(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const [, pid] = /^slipway-(\d+)-\w{6}$/.exec(name) ?? [];
    // Directories of other users cannot be removed.
    if (pid !== undefined && !isRunning(Number(pid)))
      await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => {});
  }
}

function tooFewSessions(host: string, output: string): PipelineError {
  return new PipelineError("environment", `${host}: sshd allows too few sessions in a connection`, {
    code: "ssh-sessions-limited",
    hint: "Set `MaxSessions 2` or more in sshd_config on the host. The default is 10.",
    output,
  });
}

function prependScript(
  script: string,
  input: NonNullable<ScriptOptions["input"]>,
): NonNullable<ProcessOptions["input"]> {
  const text = Buffer.from(wrapScript(script));
  if (typeof input === "string" || input instanceof Uint8Array) return Buffer.concat([text, Buffer.from(input)]);
  return (async function* () {
    yield text;
    yield* input();
  })();
}
