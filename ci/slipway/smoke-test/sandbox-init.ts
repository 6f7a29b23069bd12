/**
 * Runs as process 1 of new namespaces: mounts the pod's file system and runs the scenario.
 *
 *     unshare … bun sandbox-init.ts FILE
 *
 * FILE is a SandboxConfig as JSON. The result is written to stdout as JSON. When this process exits, the
 * kernel ends its child processes and removes its mounts. It exits when its stdin closes, so that it does not
 * outlive the pipeline.
 */
import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { PodSpec } from "../kubernetes/resolve-pod.ts";
import { exitResultOf, runScenario, type SmokeTestResult, type ServiceProcess } from "./scenario.ts";
import { configureLoopback, mountFlags, listeningPorts, makeReadOnly, mount, setHostname } from "./syscalls.ts";
import { OutputBuffer } from "./output-buffer.ts";

export interface SandboxConfig {
  pod: PodSpec;
  id: string;
  /** Directory with the image's files. */
  root: string;
  /** Empty directory for the volumes. */
  volumes: string;
  /** Whether this process is root in a new user namespace only, as opposed to root of the machine. */
  user: boolean;
  /** Paths of util-linux's programs. */
  programs: { unshare: string; nsenter: string | undefined };
}

/**
 * Devices and links that a container runtime creates in /dev.
 * https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md
 */
const devices = ["null", "zero", "full", "random", "urandom", "tty"];
const links = { fd: "/proc/self/fd", stdin: "fd/0", stdout: "fd/1", stderr: "fd/2" };
/**
 * Error of util-linux's unshare, with exit code 1, if SIGKILL ended its child. It tries to end itself by the
 * same signal.
 */
const KILLED = /^unshare: sigprocmask unblock failed:.*\n/m;
/** HOST_NAME_MAX of limits.h */
const HOSTNAME_BYTES = 64;
/** containerd's default, in bytes. */
const SHM_BYTES = 64 * 2 ** 20;

/** Content of /etc/hosts, as the kubelet writes it. */
const hostsFile = ({ address, name }: PodSpec) => `127.0.0.1 localhost\n::1 localhost\n${address} ${name}\n`;

function mountFileSystem({ pod, root, volumes }: SandboxConfig): void {
  const { nosuid, nodev, noexec } = mountFlags;
  for (const path of ["/proc", "/dev", "/etc", pod.cwd, ...pod.mounts.map(({ path }) => path)]) {
    mkdirSync(join(root, path), { recursive: true });
  }
  writeFileSync(join(root, "etc/hosts"), hostsFile(pod));
  writeFileSync(join(root, "etc/hostname"), `${pod.name}\n`);
  // There is no name server.
  writeFileSync(join(root, "etc/resolv.conf"), "nameserver 127.0.0.1\n");
  mount(root, root, "", mountFlags.bind | mountFlags.rec);

  const dev = join(root, "dev");
  mount("tmpfs", dev, "tmpfs", nosuid | noexec, "mode=755");
  for (const name of devices) {
    writeFileSync(join(dev, name), "");
    mount(join("/dev", name), join(dev, name), "", mountFlags.bind);
  }
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(dev, name));
  writeFileSync(join(dev, "termination-log"), "");
  chmodSync(join(dev, "termination-log"), 0o666);
  mkdirSync(join(dev, "shm"));
  mount("shm", join(dev, "shm"), "tmpfs", nosuid | nodev | noexec, `mode=1777,size=${SHM_BYTES}`);

  for (const { name, bytes } of pod.volumes) {
    mkdirSync(join(volumes, name));
    // The kubelet creates an emptyDir with this mode.
    mount("tmpfs", join(volumes, name), "tmpfs", nosuid | nodev, `mode=777${bytes ? `,size=${bytes}` : ""}`);
  }
  for (const { volume, path, subPath = "", readOnly } of pod.mounts) {
    const source = join(volumes, volume, subPath);
    mkdirSync(source, { recursive: true });
    if (subPath) chmodSync(source, 0o777);
    mkdirSync(join(root, path), { recursive: true });
    mount(source, join(root, path), "", mountFlags.bind);
    if (readOnly) makeReadOnly(join(root, path));
  }
  makeReadOnly(root);
}

/** Starts the service as process 1 of a PID namespace. As in a container, it gets only signals it handles. */
function startService({ pod, root, user, programs }: SandboxConfig): ServiceProcess {
  // A user namespace has one user, root. A nested user namespace maps it to the pod's uid.
  const asPodUser = user
    ? ["--user", `--map-user=${pod.uid}`, `--map-group=${pod.gid}`]
    : [`--setuid=${pod.uid}`, `--setgid=${pod.gid}`];
  const child = Bun.spawn(
    [
      programs.unshare,
      ...["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"],
      ...[`--root=${root}`, `--wd=${pod.cwd}`, ...asPodUser],
      "--",
      ...pod.argv,
    ],
    { env: pod.env, stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  const output = new OutputBuffer();
  output.collect(child.stdout);
  output.collect(child.stderr);
  return {
    host: pod.address,
    output,
    exited: exitResultOf(child).then(async (exit) =>
      KILLED.test(await output.all()) ? { how: "SIGKILL", exitCode: undefined } : exit,
    ),
    signal(name) {
      const pid = findChildOf(child.pid);
      if (pid !== undefined) process.kill(pid, name);
      // unshare has not started the service yet.
      else child.kill("SIGKILL");
    },
    exec: (command, timeoutSeconds) => exec(findChildOf(child.pid), command, timeoutSeconds),
    listening: listeningPorts,
  };

  async function exec(pid: number | undefined, command: string[], timeoutSeconds: number) {
    if (!programs.nsenter || pid === undefined) return "nsenter not found on PATH";
    // In a user namespace, nsenter keeps the caller's user, which is mapped to the pod's uid.
    const asPodUser = user ? ["--user", "--preserve-credentials"] : [`--setuid=${pod.uid}`, `--setgid=${pod.gid}`];
    const entered = Bun.spawn(
      [programs.nsenter, `--target=${pid}`, "--mount", "--pid", "--root", "--wd", ...asPodUser, "--", ...command],
      {
        env: pod.env,
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
        timeout: timeoutSeconds * 1000,
        killSignal: "SIGKILL",
      },
    );
    const texts = Promise.all([entered.stdout, entered.stderr].map((stream) => new Response(stream).text()));
    const code = await entered.exited;
    if (code === 0) return undefined;
    if (entered.signalCode) return `the command did not exit within ${timeoutSeconds} s`;
    return [`exit code ${code}`, (await texts).join("").trim().slice(0, 200)].filter(Boolean).join(": ");
  }
}

/** Finds the process whose parent is `pid`. */
function findChildOf(pid: number): number | undefined {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((candidate) => parentOf(candidate) === pid);
}

function parentOf(pid: number): number | undefined {
  try {
    // proc(5): the program's name in brackets may contain any character.
    return Number(/\) \S (\d+)[^)]*$/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1]);
  } catch {
    return undefined;
  }
}

async function exitWhenStdinCloses(): Promise<never> {
  for await (const _ of Bun.stdin.stream());
  process.exit(1);
}

/** @returns the result, or the reason why this machine cannot set up the sandbox */
async function runSandbox(config: SandboxConfig): Promise<SmokeTestResult | string> {
  try {
    mountFileSystem(config);
    configureLoopback(config.pod.address);
    setHostname(config.pod.name.slice(0, HOSTNAME_BYTES));
  } catch (error) {
    return (error as Error).message;
  }
  const result = await runScenario(config.pod, startService(config), config.id);
  return { ...result, output: result.output.replace(KILLED, "") };
}

if (import.meta.main) {
  void exitWhenStdinCloses();
  const file = Bun.file(process.argv[2]!);
  const config = (await file.json()) as SandboxConfig;
  // It has values from .env.
  await file.delete();
  const result = await runSandbox(config);
  await Bun.write(Bun.stdout, JSON.stringify(result));
  process.exit(0);
}
