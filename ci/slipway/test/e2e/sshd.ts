/** Runs Debian's sshd on loopback with temporary keys for the current user, and an ssh client that is configured for it. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { eventually, must, sh } from "./setup.ts";

/** Debian installs it in a directory that is not on a user's PATH. */
export const SSHD = "/usr/sbin/sshd";

export class Sshd {
  /** Host alias in the configuration of the ssh client. */
  readonly host = "shop";
  readonly log: string;
  readonly knownHosts: string;
  #daemon: Bun.Subprocess | undefined;

  private constructor(
    readonly directory: string,
    readonly port: number,
  ) {
    this.log = join(directory, "log");
    this.knownHosts = join(directory, "known_hosts");
  }

  /**
   * Starts sshd, which runs until stop().
   *
   * @param bin first directory of the PATH in SSH sessions
   * @param more additional lines of sshd_config
   */
  static async start(directory: string, bin: string, more: string[] = []): Promise<Sshd> {
    mkdirSync(join(directory, "bin"), { recursive: true });
    const free = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const { port } = free;
    free.stop(true);
    const sshd = new Sshd(directory, port);
    for (const key of ["host", "other", "user"])
      must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", join(directory, key)]);
    writeFileSync(
      join(directory, "config"),
      `Host ${sshd.host}
  HostName 127.0.0.1
  Port ${port}
  User ${must(["id", "-un"]).trim()}
  IdentityFile ${directory}/user
  IdentitiesOnly yes
  UserKnownHostsFile ${sshd.knownHosts}
`,
    );
    // ssh reads the configuration of the passwd entry's home, whatever HOME is.
    const ssh = Bun.which("ssh")!;
    writeFileSync(join(directory, "bin/ssh"), `#!/bin/sh\nexec ${ssh} -F ${directory}/config "$@"\n`);
    chmodSync(join(directory, "bin/ssh"), 0o755);
    sshd.setKnownHost("host");
    await sshd.restart("host", bin, more);
    return sshd;
  }

  /** Writes one of the keys to known_hosts. Default: none. */
  setKnownHost(key?: string): void {
    const entry = key && `[127.0.0.1]:${this.port} ${readFileSync(join(this.directory, `${key}.pub`), "utf8")}`;
    writeFileSync(this.knownHosts, entry ?? "");
  }

  /** Restarts sshd. */
  async restart(key: string, bin: string, more: string[] = []): Promise<void> {
    await this.stop();
    if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true });
    const file = join(this.directory, "sshd_config");
    const lines = [
      `Port ${this.port}`,
      "ListenAddress 127.0.0.1",
      `HostKey ${this.directory}/${key}`,
      `AuthorizedKeysFile ${this.directory}/user.pub`,
      "StrictModes no",
      "PermitRootLogin yes",
      "PidFile none",
      "UsePAM no",
      "LogLevel VERBOSE",
      `SetEnv PATH=${bin}:/usr/bin:/bin`,
      ...more,
    ];
    writeFileSync(file, `${lines.join("\n")}\n`);
    this.#daemon = Bun.spawn([SSHD, "-D", "-E", this.log, "-f", file], {
      stdin: "ignore",
      stderr: "inherit",
    });
    await eventually(async () => {
      // ssh-keyscan exits with 0 even without a response.
      return sh(["ssh-keyscan", "-p", String(this.port), "127.0.0.1"]).stdout !== "" || undefined;
    }, 20);
  }

  async stop(): Promise<void> {
    this.#daemon?.kill();
    await this.#daemon?.exited;
  }

  /** Counts the logins so far. */
  logins(): number {
    return readFileSync(this.log, "utf8").split("Accepted publickey").length - 1;
  }

  /** Kills all connections. */
  killConnections(): void {
    const processes = must(["ps", "-eo", "pid=,ppid="]).trim().split("\n");
    for (const line of processes) {
      const [pid, parent] = line.trim().split(/\s+/).map(Number);
      if (parent === this.#daemon?.pid) process.kill(pid!, "SIGKILL");
    }
  }
}
