/**
 * Observes one run of a row in namespaces of its own, so that every service can have port 3000.
 *
 *     unshare … bun sandbox.ts RUN
 *
 * RUN is a Run as JSON. The behaviour is written to stdout as JSON. From source and in the image, the service's
 * directory is /srv, so paths are equal. The image's root is read-only, and only /tmp is writable.
 */
import { mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { configureLoopback, listeningPorts, makeReadOnly, mount, mountFlags } from "../../smoke-test/syscalls.ts";
import { methodOf, nameOf, type Behaviour, type HttpStep, type Reply, type Row, type Step } from "./row.ts";
import { rows } from "./rows/index.ts";

export interface Run {
  row: string;
  /** Project directory, or the image's root. */
  directory: string;
  /** Path of the image's binary. undefined: the project runs from source. */
  binary?: string;
  /** Directory for temporary files. Default: /tmp. */
  temporary?: string;
  /** Directory of PostgreSQL's socket. */
  sockets?: string;
  /** Whether this process is root in a user namespace only. */
  isUserNamespace: boolean;
}

export const PORT = 3000;
const ORIGIN = `http://127.0.0.1:${PORT}`;
const USER = 65532;
/** Milliseconds. They are long, because a busy machine must not change a result. */
const [START_MS, STEP_MS, STOP_MS] = [60_000, 60_000, 20_000];
/** Error of unshare if SIGKILL ended its child. */
const UNSHARE_KILLED = /^unshare: sigprocmask unblock failed:.*\n/m;
/** Devices and links that a container runtime creates in /dev. */
const devices = ["null", "zero", "full", "random", "urandom"];
const links = { fd: "/proc/self/fd", stdin: "fd/0", stdout: "fd/1", stderr: "fd/2" };

function mountSource({ directory, sockets }: Run): void {
  mount(directory, "/srv", "", mountFlags.bind | mountFlags.rec);
  if (sockets) mountSockets(sockets, "/run");
}

function mountImage({ directory: root, sockets }: Run): void {
  for (const path of ["proc", "dev", "tmp", "run", "etc"]) mkdirSync(join(root, path), { recursive: true });
  // The kubelet writes this file.
  writeFileSync(join(root, "etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n");
  mount(root, root, "", mountFlags.bind | mountFlags.rec);
  mount("tmpfs", join(root, "dev"), "tmpfs", mountFlags.nosuid | mountFlags.noexec, "mode=755");
  for (const name of devices) {
    writeFileSync(join(root, "dev", name), "");
    mount(join("/dev", name), join(root, "dev", name), "", mountFlags.bind);
  }
  for (const [name, target] of Object.entries(links)) symlinkSync(target, join(root, "dev", name));
  mount("tmpfs", join(root, "tmp"), "tmpfs", mountFlags.nosuid | mountFlags.nodev, "mode=1777");
  if (sockets) mountSockets(sockets, join(root, "run"));
  makeReadOnly(root);
}

/** A service finds the server in /run/postgresql, Debian's default. */
function mountSockets(sockets: string, run: string): void {
  mount("tmpfs", run, "tmpfs", mountFlags.nosuid | mountFlags.nodev, "mode=755");
  mkdirSync(join(run, "postgresql"));
  mount(sockets, join(run, "postgresql"), "", mountFlags.bind);
}

function start({ env = {}, args = [], command, settings }: Row, run: Run) {
  const { source, image } = command ?? { source: [settings?.entry ?? "src/index.ts", ...args], image: args };
  const temporary = run.temporary ?? "/tmp";
  const options = {
    env: {
      PATH: process.env.PATH!,
      NODE_ENV: "production",
      PORT: String(PORT),
      HOME: temporary,
      TMPDIR: temporary,
      TZ: "UTC",
      LANG: "C.UTF-8",
      DRAIN_DELAY_SECONDS: "0",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"] as ["ignore", "pipe", "pipe"],
  };
  if (!run.binary) {
    const child = Bun.spawn([process.execPath, ...source], { ...options, cwd: "/srv" });
    return { child, kill: (signal: NodeJS.Signals) => child.kill(signal) };
  }
  const user = run.isUserNamespace
    ? ["--user", `--map-user=${USER}`, `--map-group=${USER}`]
    : [`--setuid=${USER}`, `--setgid=${USER}`];
  const namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"];
  const root = [`--root=${run.directory}`, "--wd=/srv"];
  const unshare = Bun.which("unshare")!;
  const child = Bun.spawn([unshare, ...namespaces, ...root, ...user, "--", run.binary, ...image], options);
  return {
    child,
    kill(signal: NodeJS.Signals) {
      const pid = findChildOf(child.pid);
      if (pid !== undefined) process.kill(pid, signal);
      else child.kill("SIGKILL");
    },
  };
}

function findChildOf(pid: number): number | undefined {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
  return children === "" ? undefined : Number(children.split(" ")[0]);
}

async function observe(row: Row, run: Run): Promise<Behaviour> {
  const { requests = [], until, signal = "SIGTERM" } = row;
  const { child, kill } = start(row, run);
  const output = { stdout: "", stderr: "" };
  const collect = async (name: "stdout" | "stderr") => {
    for await (const chunk of child[name].pipeThrough(new TextDecoderStream())) output[name] += chunk;
  };
  const collected = Promise.all([collect("stdout"), collect("stderr")]);
  const hasExited = () => child.exitCode !== null || child.signalCode !== null;
  const hasPrinted = () => until !== undefined && output.stdout.includes(until);
  const isStarted = () =>
    requests.length > 0 ? listeningPorts().some((socket) => socket.endsWith(`:${PORT}`)) : hasPrinted();
  const waitFor = async (condition: () => boolean) => {
    const deadline = performance.now() + START_MS;
    while (!hasExited() && !condition() && performance.now() < deadline) await Bun.sleep(5);
  };
  const found: Behaviour = {};

  await waitFor(isStarted);
  if (isStarted()) {
    for (const step of requests) found[nameOf(step)] = await perform(step);
    if (until !== undefined) await waitFor(hasPrinted);
  } else if (!hasExited()) {
    found.start = requests.length > 0 ? `nothing listens on ${PORT}` : "the process neither starts nor exits";
  } else if (requests.length > 0 || until !== undefined) {
    found.start = "the process exits";
  }
  if (!hasExited() && (requests.length > 0 || until !== undefined)) kill(signal);
  if ((await Promise.race([child.exited, Bun.sleep(STOP_MS)])) === undefined) {
    kill("SIGKILL");
    await child.exited;
    found.exit = `still runs ${STOP_MS / 1000} s after ${signal}`;
  } else {
    found.exit = child.signalCode ?? `exit code ${child.exitCode}`;
  }
  // Other processes of the service may keep the pipes open.
  endOthers(child.pid);
  await Promise.race([collected, Bun.sleep(2000)]);
  return { ...found, ...output, stderr: output.stderr.replace(UNSHARE_KILLED, "") };
}

/** Ends the processes that the service has left behind. They are all in this PID namespace. */
function endOthers(own: number): void {
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid || pid === own) continue;
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // The process has exited meanwhile.
    }
  }
}

async function perform(step: Step): Promise<unknown> {
  const timeout = Bun.sleep(STEP_MS).then(() => ({ failure: `no response for ${STEP_MS / 1000} s` }));
  const attempt = async () => {
    try {
      if (typeof step === "string") return await request({ path: step });
      return await ("run" in step ? step.run(ORIGIN) : request(step));
    } catch (error) {
      return { failure: (error as Error).message };
    }
  };
  return Promise.race([attempt(), timeout]);
}

/** The date differs, and the drain changes the connection. */
const ignoredHeaders = ["date", "connection", "keep-alive"];

async function request(step: HttpStep): Promise<Reply> {
  const { path, headers = {}, json } = step;
  const reply = await fetch(ORIGIN + path, {
    method: methodOf(step),
    redirect: "manual",
    headers: { ...headers, ...(json !== undefined && { "content-type": "application/json" }) },
    ...(json !== undefined ? { body: JSON.stringify(json) } : step.body && { body: step.body() }),
  });
  const bytes = await reply.bytes();
  const isText = /^$|text|json|javascript|xml|form/.test(reply.headers.get("content-type") ?? "");
  const hash = () => `${bytes.length} bytes, SHA-256 ${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
  return {
    status: reply.status,
    headers: Object.fromEntries([...reply.headers].filter(([name]) => !ignoredHeaders.includes(name))),
    body: isText ? new TextDecoder().decode(bytes) : hash(),
  };
}

if (import.meta.main) {
  const run = JSON.parse(process.argv[2]!) as Run;
  const row = rows.find(({ name }) => name === run.row)!;
  configureLoopback("10.99.0.1");
  if (run.binary) mountImage(run);
  else mountSource(run);
  const found = await observe(row, run);
  await Bun.write(Bun.stdout, JSON.stringify(found));
  process.exit(0);
}
