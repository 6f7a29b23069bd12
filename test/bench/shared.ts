/** Helpers for benchmarks: statistics, tables, requests to the Service, clean-up. */
import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { must, sh } from "../../ci/slipway/test/e2e/setup.ts";

export const logLine = (line: string) => console.error(line);
export const secondsSince = (start: number) => (performance.now() - start) / 1000;

/** Returns the median: for an even count the mean of the two middle values, for no values NaN. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle) - 1]!) / 2;
}

/** Machine, date and Bun's version, for reports. */
export const machineInfo = `${cpus().length} × ${cpus()[0]?.model.trim()}, ${new Date().toISOString().slice(0, 10)}, Bun ${Bun.version}`;

/** Returns the resident memory of a process in MiB. */
export function residentMegabytes(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readProc(pid, "status"))![1]) / 1024;
}

/** Request headers of a client that accepts JSON. */
export const JSON_HEADERS = ["Accept: application/json"];
/** Request headers of a client that also sends a trace. */
export const TRACE_HEADERS = [...JSON_HEADERS, "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"];

/** Prints a Markdown table of measures, values and verdicts. */
export function printTable(rows: [measure: string, value: string, verdict: string][], verdict = ""): void {
  console.log(`| | ${machineInfo} | ${verdict} |\n|---|---|---|`);
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
}

/** Number of consecutive replies over new connections from one version that verify that it serves alone. */
export const VERIFY_REPLIES = 20;
const PAUSE_MS = 10;

/** Returns the version ID that replies on a new connection, or the error message. */
export async function fetchId(url: string): Promise<string> {
  const init = { keepalive: false, headers: { Connection: "close" }, signal: AbortSignal.timeout(2000) };
  return fetch(url, init)
    .then((reply) => reply.json())
    .then(
      ({ id }: { id: string }) => id,
      (error: Error) => error.message,
    );
}

/**
 * Waits until a new version serves alone, that is for enough consecutive replies with its ID.
 *
 * @param isExpected checks whether a reply is an expected ID
 * @param until the deploy. After its end, the first other reply ends the wait
 * @returns the ID and the time of its first reply (performance.now()), or undefined if another version serves after the deploy
 */
export async function waitUntilServed(
  url: string,
  isExpected: (reply: string) => boolean,
  until: Promise<unknown>,
): Promise<{ id: string; at: number } | undefined> {
  let isOver = false;
  const end = () => void (isOver = true);
  until.then(end, end);
  let [id, at, inARow] = ["", 0, 0];
  while (inARow < VERIFY_REPLIES) {
    const reply = await fetchId(url);
    if (inARow > 0 && reply === id) {
      inARow += 1;
    } else if (isExpected(reply)) {
      [id, at, inARow] = [reply, performance.now(), 1];
    } else {
      if (isOver) return undefined;
      inARow = 0;
    }
    await Bun.sleep(PAUSE_MS);
  }
  return { id, at };
}

/** Like ci/slipway/targets/k3s.ts: root, or sudo without a password. */
const k3s = process.getuid?.() === 0 ? ["k3s"] : ["sudo", "-n", "k3s"];

/** Creates a function that runs kubectl in a namespace of the local k3s. It throws if kubectl fails. */
export const createKubectl =
  (namespace: string) =>
  (...args: string[]) =>
    must([...k3s, "kubectl", "-n", namespace, ...args]);

export function deleteNamespace(namespace: string): void {
  sh([...k3s, "kubectl", "delete", "namespace", namespace, "--ignore-not-found"]);
}

/** Removes images from k3s's containerd. Each takes about 100 MB. */
export function removeImages(names: string[]): void {
  const images = [...k3s, "ctr", "-n", "k8s.io", "images"];
  const rows = sh([...images, "ls"])
    .stdout.split("\n")
    .slice(1);
  const all = rows.map((row) => row.split(/\s+/)).map(([name = "", , digest = ""]) => ({ name, digest }));
  const removed = all.filter(({ name }) => names.includes(name));
  const isAlias = (name: string) => name.startsWith("sha256:");
  const needed = new Set(all.filter(({ name }) => !isAlias(name) && !names.includes(name)).map(({ digest }) => digest));
  const digests = new Set(removed.map(({ digest }) => digest).filter((digest) => !needed.has(digest)));
  // The kubelet's second name of an image would keep the layers.
  const aliases = all.filter(({ name, digest }) => isAlias(name) && digests.has(digest));
  const remove = [...removed, ...aliases].map(({ name }) => name);
  if (remove.length > 0) sh([...images, "rm", ...remove]);
}

/** Environment variable that identifies the processes of a benchmark. */
export const MARK_VARIABLE = "BENCH_ROUND";

/** Returns the PIDs of processes with a mark in their environment. */
export function findMarked(mark: string): number[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => readProc(pid, "environ").includes(`${MARK_VARIABLE}=${mark}`)).map(Number);
}

/** Kills processes with a mark. Processes that have already ended are ignored. */
export function killMarked(mark: string): void {
  for (const pid of findMarked(mark)) sh(["kill", "-KILL", String(pid)]);
}

export const commandOf = (pid: number) => readProc(pid, "cmdline").replaceAll("\0", " ").trim() || `process ${pid}`;

/** Reads a file in /proc. @returns an empty text if the process has ended */
function readProc(pid: number | string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
