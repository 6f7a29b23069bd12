/** A pod's life in a second: it starts, is probed, says which build it is, and drains. */
import type { PodSpec } from "../kubernetes/pod-spec.ts";
import { describeProbeCheck, type ScheduledProbe } from "../kubernetes/probe-spec.ts";
import { fetchVersion } from "../deploy/verify.ts";
import { beginRequest, runProbe, type ExecProbe } from "./probes.ts";
import type { OutputBuffer } from "./output-buffer.ts";

/** The service's process, wherever it runs. */
export interface ServiceProcess {
  /** Where its ports are. */
  host: string;
  words: OutputBuffer;
  /** How it ended, in words, and whether that was exit code 0. */
  ended: Promise<ExitResult>;
  signal(name: "SIGTERM" | "SIGKILL"): void;
  exec: ExecProbe;
  /** Where it listens, `0.0.0.0:3000`; undefined: that cannot be told here. */
  listening?: () => string[];
}

export interface ExitResult {
  how: string;
  ok: boolean;
}

/** How a process ends. */
export async function exitResultOf(child: Bun.Subprocess): Promise<ExitResult> {
  const code = await child.exited;
  const { signalCode } = child;
  return {
    how: signalCode === null ? `exit code ${code}` : String(signalCode),
    ok: code === 0 && signalCode === null,
  };
}

/** What came of it. It is handed from one process to another as JSON. */
export interface SmokeTestResult {
  /** What holds, in a few words each, in order. */
  tried: string[];
  /** What does not; undefined: all does. */
  failure?: string;
  /** What the container said. */
  output: string;
}

/** Milliseconds between two questions, and from SIGTERM until the request in flight goes on. */
const PAUSE = 10;
const FLIGHT = 100;
/** Milliseconds for last words. */
const LAST_WORDS = 1000;
/** Seconds until the version is told where no probe waits for the service before. */
const VERSION_SECONDS = 10;

/**
 * Leads a process through the life that the manifests have for it, and ends it.
 *
 * @param id what /version has to say
 * @param check looks at the process when it is ready; it throws a Failure
 */
export async function runScenario(
  pod: PodSpec,
  running: ServiceProcess,
  id: string,
  check: () => void | Promise<void> = () => {},
): Promise<SmokeTestResult> {
  const tried: string[] = [];
  try {
    for (const asked of pod.asks) {
      await pass(asked, running);
      tried.push(`${asked.kind} (${describeProbeCheck(asked.check)})`);
    }
    await answerVersion(pod, running, id);
    tried.push(pod.version.path);
    await check();
    await drain(pod, running, id);
    tried.push("drain");
    return { tried, output: "" };
  } catch (error) {
    if (!(error instanceof SmokeTestFailure)) throw error;
    await end(running);
    return { tried, failure: error.message, output: await running.words.all() };
  }
}

/** Ends it, by SIGTERM at first: what it would have said may still be in its buffers. */
async function end({ ended, signal }: ServiceProcess): Promise<void> {
  for (const name of ["SIGTERM", "SIGKILL"] as const) {
    signal(name);
    if (await Promise.race([ended, Bun.sleep(LAST_WORDS)])) return;
  }
}

/** What is wrong with the container. */
export class SmokeTestFailure extends Error {
  override name = "Failure";
}

/** Asks until nothing is wrong. @returns what is wrong when the time is over @throws {SmokeTestFailure} when it has ended */
async function until(
  { ended }: ServiceProcess,
  seconds: number,
  before: string,
  attempt: () => Promise<string | undefined>,
): Promise<string | undefined> {
  const end = performance.now() + seconds * 1000;
  const over = ended.then(
    ({ how }) => new SmokeTestFailure(`the container ended with ${how} before ${before}`),
  );
  for (;;) {
    const wrong = await Promise.race([over, attempt()]);
    if (wrong instanceof SmokeTestFailure) throw wrong;
    if (wrong === undefined || performance.now() > end) return wrong;
    await Bun.sleep(PAUSE);
  }
}

async function pass(
  { kind, check, seconds, patienceSeconds }: ScheduledProbe,
  running: ServiceProcess,
): Promise<void> {
  const wrong = await until(running, patienceSeconds, `its ${kind} probe passed`, () =>
    runProbe(running.host, check, seconds, running.exec),
  );
  if (wrong === undefined) return;
  const what = `the ${kind} probe (${describeProbeCheck(check)}) fails: ${wrong}${elsewhere(running, check)}`;
  throw new SmokeTestFailure(`${what}, after ${patienceSeconds} s`);
}

/** Where it listens instead, if it does at all. */
function elsewhere({ host, listening }: ServiceProcess, check: { port?: number; how?: string }): string {
  const places = listening?.() ?? [];
  const reached = [`0.0.0.0:${check.port}`, `[::]:${check.port}`, `${host}:${check.port}`];
  if (check.port === undefined || !listening || places.some((place) => reached.includes(place))) return "";
  return places.length > 0 ? ` (it listens on ${places.join(", ")})` : " (it listens nowhere)";
}

async function answerVersion(
  { version: { port, path } }: PodSpec,
  running: ServiceProcess,
  id: string,
): Promise<void> {
  const url = `http://${running.host}:${port}${path}`;
  const signal = new AbortController().signal;
  let found: string | undefined;
  const wrong = await until(running, VERSION_SECONDS, `it answered ${path}`, async () => {
    const answer = await fetchVersion(
      { url, open: (init) => fetch(url, { ...init, proxy: false }) },
      { signal },
    );
    found = answer.id;
    return answer.failure;
  });
  if (wrong !== undefined)
    throw new SmokeTestFailure(`GET :${port}${path} fails: ${wrong}${elsewhere(running, { port })}`);
  if (found !== id) throw new SmokeTestFailure(`GET :${port}${path} answers with the id ${found}, not ${id}`);
}

/** SIGTERM while a request is in flight: that is answered, and the end is exit code 0 within the grace period. */
async function drain({ version, graceSeconds }: PodSpec, running: ServiceProcess, id: string): Promise<void> {
  const flight = await beginRequest({ host: running.host, ...version }, id);
  // Accepted, and read as far as it goes.
  await Bun.sleep(PAUSE);
  running.signal("SIGTERM");
  const end = performance.now() + graceSeconds * 1000;
  await Promise.race([running.ended, Bun.sleep(FLIGHT)]);
  const wrong = await flight.finish();
  const ending = await Promise.race([running.ended, Bun.sleep(Math.max(0, end - performance.now()))]);
  if (!ending) {
    throw new SmokeTestFailure(
      `the container still runs ${graceSeconds} s after SIGTERM, when the cluster kills it`,
    );
  }
  if (!ending.ok)
    throw new SmokeTestFailure(`after SIGTERM the container ends with ${ending.how}, not with exit code 0`);
  if (wrong !== undefined)
    throw new SmokeTestFailure(`a request in flight at SIGTERM is not finished: ${wrong}`);
}
