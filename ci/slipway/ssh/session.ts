/**
 * The line to a host: one connection of the system's ssh, which everything goes over. ssh's own configuration, agent, jump hosts
 * and known_hosts count; nothing is ever asked, and no key is taken on trust.
 *
 * The other side needs sh and coreutils. What is run there is a script that comes over stdin, because the login shell may be any:
 * it gets one command whose form all shells read alike. A directory there, which only that user can enter, holds what the line
 * needs; it goes with the line, and what a line has left that could not end so goes with the next one.
 */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isRunning, runProcess, type ProcessResult, type ProcessOptions } from "../core/process.ts";
import {
  remoteCommand,
  connectHost,
  OUTPUT_MARKER,
  wrapScript,
  sshOptions,
  type HostConnection,
  type RemoteHostInfo,
} from "./connection.ts";
import { lastReason, SshConnectionLost } from "./errors.ts";

/** ssh's own code for what is not the script's. */
const LOST = 255;
/** Milliseconds that ssh may take to end once its line is cut. */
const CUT_MS = 500;

export class SshSession {
  #connection: HostConnection | undefined;
  #connecting: Promise<HostConnection> | undefined;
  readonly #forwarded = new Map<string, Promise<string>>();
  #count = 0;

  private constructor(
    readonly host: string,
    private readonly here: string,
    private readonly signal: AbortSignal,
  ) {}

  /**
   * @param signal ends the attempt, and scripts; a line that was opened once is opened again even so
   * @throws {PipelineError} "environment": no ssh, no way there, no k3s, no rights
   */
  static async open(host: string, signal: AbortSignal): Promise<SshSession> {
    await removeAbandoned();
    const line = new SshSession(host, await mkdtemp(join(tmpdir(), `slipway-${process.pid}-`)), signal);
    try {
      await line.#connected(signal);
      return line;
    } catch (error) {
      await line.close();
      throw error;
    }
  }

  /** What is there; a line that has gone is opened again. @throws {SshConnectionLost} */
  async there(): Promise<RemoteHostInfo> {
    return (await this.#connected()).there;
  }

  /** The last of what ssh has said. */
  words(): string {
    return lastReason(this.#connection?.said() ?? "");
  }

  /**
   * Runs a script of sh there. A code other than 0 is a result, not an error.
   *
   * @throws {SshConnectionLost} when the line has gone meanwhile
   */
  async run(script: string, options: Omit<ProcessOptions, "cwd" | "env"> = {}): Promise<ProcessResult> {
    const { control, gone } = await this.#connected();
    // Over the one connection or not at all: where that has gone, ssh would open one of its own.
    const alone = ["-oControlMaster=no", "-oProxyCommand=false"];
    const ssh = [
      "ssh",
      "-T",
      `-S${control}`,
      ...sshOptions,
      ...alone,
      "--",
      this.host,
      remoteCommand(script),
    ];
    const input = inputOf(script, options.input ?? "");
    const result = await runProcess(ssh, { signal: this.signal, ...options, input });
    const marked = result.stdout.indexOf(`${OUTPUT_MARKER}\n`);
    if (result.code === LOST) {
      const isCut = marked < 0 || (await Promise.race([gone.then(() => true), Bun.sleep(CUT_MS)]));
      if (isCut) throw new SshConnectionLost(this.host, "the line has gone meanwhile");
    }
    return { ...result, stdout: result.stdout.slice(marked < 0 ? 0 : marked + OUTPUT_MARKER.length + 1) };
  }

  /**
   * Has what listens there answer here as well.
   *
   * @param to `ADDRESS:PORT`, or the path of a socket
   * @returns the path of a socket
   */
  async forward(to: string): Promise<string> {
    const { control } = await this.#connected();
    const key = `${control} ${to}`;
    let forwarded = this.#forwarded.get(key);
    if (!forwarded) {
      forwarded = this.#forward(control, to);
      this.#forwarded.set(key, forwarded);
      forwarded.catch(() => this.#forwarded.delete(key));
    }
    return forwarded;
  }

  async #forward(control: string, to: string): Promise<string> {
    const socket = join(this.here, `f${(this.#count += 1)}`);
    const ssh = ["ssh", `-S${control}`, "-oStreamLocalBindMask=0177", "-Oforward", `-L${socket}:${to}`];
    const { code, stderr } = await runProcess([...ssh, "--", this.host], { timeoutSeconds: 5 });
    if (code === 0) return socket;
    throw new SshConnectionLost(this.host, lastReason(stderr) || "nothing is forwarded");
  }

  async close(): Promise<void> {
    await this.#connection?.end();
    await rm(this.here, { recursive: true, force: true });
  }

  #connected(signal?: AbortSignal): Promise<HostConnection> {
    if (this.#connection && !this.#connection.isGone()) return Promise.resolve(this.#connection);
    const open = async () => {
      const control = join(this.here, `c${(this.#count += 1)}`);
      return (this.#connection = await connectHost(this.host, control, signal));
    };
    this.#connecting ??= open().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }
}

/** Sockets here that killed runs have left. */
async function removeAbandoned(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const [, pid] = /^slipway-(\d+)-\w{6}$/.exec(name) ?? [];
    // What is another user's stays: it cannot be removed.
    if (pid !== undefined && !isRunning(Number(pid)))
      await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => {});
  }
}

function inputOf(
  script: string,
  input: NonNullable<ProcessOptions["input"]>,
): NonNullable<ProcessOptions["input"]> {
  const text = Buffer.from(wrapScript(script));
  if (typeof input === "string" || input instanceof Uint8Array)
    return Buffer.concat([text, Buffer.from(input)]);
  return (async function* () {
    yield text;
    yield* input;
  })();
}
