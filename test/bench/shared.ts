/** What the benches share: figures, the table, who answers a Service, what they leave on a machine and take away again. */
import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { must, sh } from "../../ci/slipway/test/e2e/setup.ts";

export const say = (line: string) => console.error(line);
export const secondsSince = (start: number) => (performance.now() - start) / 1000;

/** The middle one, of an even number the mean of both; NaN of none. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle) - 1]!) / 2;
}

/** Where and when something was measured. */
export const machine = `${cpus().length} × ${cpus()[0]?.model.trim()}, ${new Date().toISOString().slice(0, 10)}, Bun ${Bun.version}`;

/** Resident memory of a process, in megabytes. */
export function residentMegabytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readProc(pid, "status"))![1]) / 1024;
}

/** What a client sends that wants JSON, and one that traces as well. */
export const JSON_PLEASE = ["Accept: application/json"];
export const TRACED = [
  ...JSON_PLEASE,
  "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
];

/** Prints a Markdown table: what was measured, its value, and what is to be said of that. */
export function printTable(rows: [measure: string, value: string, verdict: string][], verdict = ""): void {
  console.log(`| | ${machine} | ${verdict} |\n|---|---|---|`);
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
}

/** Replies in a row over new connections that show that one version serves alone. */
export const REPLIES = 20;
/** Milliseconds between two of them. */
const PAUSE = 10;

/** The id that answers a new connection, or what went wrong. */
export async function ask(url: string): Promise<string> {
  const init = { keepalive: false, headers: { Connection: "close" }, signal: AbortSignal.timeout(2000) };
  return fetch(url, init)
    .then((reply) => reply.json())
    .then(
      ({ id }: { id: string }) => id,
      (error: Error) => error.message,
    );
}

/**
 * When the first of enough replies in a row with one id came, on performance.now()'s clock, and which.
 *
 * @param wanted whether an answer is such an id
 * @param until what changes the version; undefined comes back for it when that is over and another version answers
 */
export async function servedFirst(
  url: string,
  wanted: (answer: string) => boolean,
  until: Promise<unknown>,
): Promise<{ id: string; at: number } | undefined> {
  let over = false;
  const end = () => void (over = true);
  until.then(end, end);
  let [id, at, inARow] = ["", 0, 0];
  while (inARow < REPLIES) {
    const answer = await ask(url);
    if (inARow > 0 && answer === id) {
      inARow += 1;
    } else if (wanted(answer)) {
      [id, at, inARow] = [answer, performance.now(), 1];
    } else {
      if (over) return undefined;
      inARow = 0;
    }
    await Bun.sleep(PAUSE);
  }
  return { id, at };
}

/** As in ci/slipway/targets/k3s.ts: root, or sudo that asks for no password. */
const k3s = process.getuid?.() === 0 ? ["k3s"] : ["sudo", "-n", "k3s"];

/** kubectl in a namespace of this machine's k3s; ends with an error when kubectl does. */
export const kubectlIn =
  (namespace: string) =>
  (...args: string[]) =>
    must([...k3s, "kubectl", "-n", namespace, ...args]);

export function deleteNamespace(namespace: string): void {
  sh([...k3s, "kubectl", "delete", "namespace", namespace, "--ignore-not-found"]);
}

/** Removes images from k3s's containerd: each takes some 100 MB. */
export function removeImages(names: string[]): void {
  const images = [...k3s, "ctr", "-n", "k8s.io", "images"];
  const rows = sh([...images, "ls"])
    .stdout.split("\n")
    .slice(1);
  const all = rows.map((row) => row.split(/\s+/)).map(([name = "", , digest = ""]) => ({ name, digest }));
  const gone = all.filter(({ name }) => names.includes(name));
  const isAlias = (name: string) => name.startsWith("sha256:");
  const needed = new Set(
    all.filter(({ name }) => !isAlias(name) && !names.includes(name)).map(({ digest }) => digest),
  );
  const digests = new Set(gone.map(({ digest }) => digest).filter((digest) => !needed.has(digest)));
  // The kubelet's second name for an image keeps its layers for as long as it is there.
  const aliases = all.filter(({ name, digest }) => isAlias(name) && digests.has(digest));
  const remove = [...gone, ...aliases].map(({ name }) => name);
  if (remove.length > 0) sh([...images, "rm", ...remove]);
}

/** The variable that marks the processes of a bench in their environment. */
export const MARK = "BENCH_ROUND";

/** Processes whose environment has a mark. */
export function marked(mark: string): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => readProc(pid, "environ").includes(`${MARK}=${mark}`)).map(Number);
}

/** Ends them; one that has ended meanwhile is no error. */
export function killMarked(mark: string): void {
  for (const pid of marked(mark)) sh(["kill", "-KILL", String(pid)]);
}

export const commandOf = (pid: number) =>
  readProc(pid, "cmdline").replaceAll("\0", " ").trim() || `process ${pid}`;

/** A process's file, empty when the process is gone. */
function readProc(pid: number | string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
