/**
 * Runs inside of new namespaces, as their process 1: lays the pod's file system out, starts the service in it and leads it
 * through its life. With its own end all that it started ends, and all that it mounted is gone.
 *
 *     unshare … bun sandbox-init.ts FILE      FILE is a Stage as JSON; the Outcome comes on stdout, as JSON
 *
 * It ends when its stdin does, so that it does not outlive the pipeline.
 */
import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { PodSpec } from "../kubernetes/pod-spec.ts";
import { exitResultOf, runScenario, type SmokeTestResult, type ServiceProcess } from "./scenario.ts";
import { configureLoopback, flags, listeningPorts, makeReadOnly, mount, setHostname } from "./syscalls.ts";
import { OutputBuffer } from "./output-buffer.ts";

/** What it is given. */
export interface SandboxConfig {
  pod: PodSpec;
  id: string;
  /** The image's files. */
  root: string;
  /** An empty directory, to mount volumes below. */
  volumes: string;
  /** Whether it has the rights of root in a user namespace of its own only. */
  user: boolean;
  /** Where these programs are. */
  programs: { unshare: string; nsenter: string | undefined };
}

/** What a container runtime puts into /dev. https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md */
const devices = ["null", "zero", "full", "random", "urandom", "tty"];
const links = { fd: "/proc/self/fd", stdin: "fd/0", stdout: "fd/1", stderr: "fd/2" };
/** What util-linux's unshare says, with exit code 1, where its child was ended by SIGKILL: it tries to do as that. */
const KILLED = /^unshare: sigprocmask unblock failed:.*\n/m;
/** HOST_NAME_MAX of limits.h */
const HOSTNAME_BYTES = 64;
/** containerd's default, in bytes. */
const SHM_BYTES = 64 * 2 ** 20;

/** What the kubelet puts into /etc; there is no name server. */
const hosts = ({ address, name }: PodSpec) => `127.0.0.1 localhost\n::1 localhost\n${address} ${name}\n`;

function layOut({ pod, root, volumes }: SandboxConfig): void {
  const { nosuid, nodev, noexec } = flags;
  for (const path of ["/proc", "/dev", "/etc", pod.cwd, ...pod.mounts.map(({ path }) => path)]) {
    mkdirSync(join(root, path), { recursive: true });
  }
  writeFileSync(join(root, "etc/hosts"), hosts(pod));
  writeFileSync(join(root, "etc/hostname"), `${pod.name}\n`);
  writeFileSync(join(root, "etc/resolv.conf"), "nameserver 127.0.0.1\n");
  mount(root, root, "", flags.bind | flags.rec);

  const dev = join(root, "dev");
  mount("tmpfs", dev, "tmpfs", nosuid | noexec, "mode=755");
  for (const name of devices) {
    writeFileSync(join(dev, name), "");
    mount(join("/dev", name), join(dev, name), "", flags.bind);
  }
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(dev, name));
  writeFileSync(join(dev, "termination-log"), "");
  chmodSync(join(dev, "termination-log"), 0o666);
  mkdirSync(join(dev, "shm"));
  mount("shm", join(dev, "shm"), "tmpfs", nosuid | nodev | noexec, `mode=1777,size=${SHM_BYTES}`);

  for (const { name, bytes } of pod.volumes) {
    mkdirSync(join(volumes, name));
    // The kubelet's mode of an emptyDir.
    mount("tmpfs", join(volumes, name), "tmpfs", nosuid | nodev, `mode=777${bytes ? `,size=${bytes}` : ""}`);
  }
  for (const { volume, path, subPath = "", readOnly } of pod.mounts) {
    const source = join(volumes, volume, subPath);
    mkdirSync(source, { recursive: true });
    if (subPath) chmodSync(source, 0o777);
    mkdirSync(join(root, path), { recursive: true });
    mount(source, join(root, path), "", flags.bind);
    if (readOnly) makeReadOnly(join(root, path));
  }
  makeReadOnly(root);
}

/** Starts it as process 1 of a further process namespace, as which it gets no signal that it does not handle. */
function start({ pod, root, user, programs }: SandboxConfig): ServiceProcess {
  // In a user namespace, whose one user is root, another name for that one; or else another one.
  const as = user
    ? ["--user", `--map-user=${pod.uid}`, `--map-group=${pod.gid}`]
    : [`--setuid=${pod.uid}`, `--setgid=${pod.gid}`];
  const child = Bun.spawn(
    [
      programs.unshare,
      ...["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"],
      ...[`--root=${root}`, `--wd=${pod.cwd}`, ...as],
      "--",
      ...pod.argv,
    ],
    { env: pod.env, stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  const words = new OutputBuffer();
  words.hear(child.stdout);
  words.hear(child.stderr);
  return {
    host: pod.address,
    words,
    ended: exitResultOf(child).then(async (ending) =>
      KILLED.test(await words.all()) ? { how: "SIGKILL", ok: false } : ending,
    ),
    signal(name) {
      const own = childOf(child.pid);
      if (own !== undefined) process.kill(own, name);
      // It has not come to that yet.
      else child.kill("SIGKILL");
    },
    exec: (command, seconds) => exec(childOf(child.pid), command, seconds),
    listening: listeningPorts,
  };

  async function exec(of: number | undefined, command: string[], seconds: number) {
    if (!programs.nsenter || of === undefined) return "there is no nsenter on PATH";
    // It keeps the caller's user, which has the container's name in there.
    const as = user ? ["--user", "--preserve-credentials"] : [`--setuid=${pod.uid}`, `--setgid=${pod.gid}`];
    const entered = Bun.spawn(
      [programs.nsenter, `--target=${of}`, "--mount", "--pid", "--root", "--wd", ...as, "--", ...command],
      {
        env: pod.env,
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
        timeout: seconds * 1000,
        killSignal: "SIGKILL",
      },
    );
    const said = Promise.all([entered.stdout, entered.stderr].map((stream) => new Response(stream).text()));
    const code = await entered.exited;
    if (code === 0) return undefined;
    if (entered.signalCode) return `it does not end within ${seconds} s`;
    return [`exit code ${code}`, (await said).join("").trim().slice(0, 200)].filter(Boolean).join(": ");
  }
}

/** The process whose parent is `pid`. */
function childOf(pid: number): number | undefined {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((other) => parentOf(other) === pid);
}

function parentOf(pid: number): number | undefined {
  try {
    // proc(5): what stands in brackets is the program's name, which may be anything.
    return Number(/\) \S (\d+)[^)]*$/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1]);
  } catch {
    return undefined;
  }
}

async function outliveNobody(): Promise<never> {
  for await (const _ of Bun.stdin.stream());
  process.exit(1);
}

/** @returns the outcome; a string: why this machine cannot do it */
async function rehearse(stage: SandboxConfig): Promise<SmokeTestResult | string> {
  try {
    layOut(stage);
    configureLoopback(stage.pod.address);
    setHostname(stage.pod.name.slice(0, HOSTNAME_BYTES));
  } catch (error) {
    return (error as Error).message;
  }
  const outcome = await runScenario(stage.pod, start(stage), stage.id);
  return { ...outcome, output: outcome.output.replace(KILLED, "") };
}

if (import.meta.main) {
  void outliveNobody();
  const outcome = await rehearse((await Bun.file(process.argv[2]!).json()) as SandboxConfig);
  await Bun.write(Bun.stdout, JSON.stringify(outcome));
  process.exit(0);
}
