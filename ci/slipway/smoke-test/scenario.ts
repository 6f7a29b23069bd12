/** Runs a pod's life in about a second: start, probes, version request, drain. A worker has to stay up instead. */
import type { PodSpec } from "../kubernetes/resolve-pod.ts";
import { describeProbeCheck, type ScheduledProbe } from "../kubernetes/convert-probes.ts";
import { fetchVersion } from "../deploy/verify-from-outside.ts";
import { beginRequest, runProbe, type ExecProbe } from "./kubelet-probes.ts";
import { describeExitCode } from "../core/exit-status.ts";
import type { OutputBuffer } from "./output-buffer.ts";

/** Process of the service in the sandbox. */
export interface ServiceProcess {
  /** Address of the service's ports. */
  host: string;
  output: OutputBuffer;
  exited: Promise<ExitResult>;
  signal(name: "SIGTERM" | "SIGKILL"): void;
  exec: ExecProbe;
  /** Lists the listening sockets, such as `0.0.0.0:3000`. */
  listening(): string[];
}

export interface ExitResult {
  /** Exit code or signal, for messages. */
  how: string;
  /** The exit code. undefined: a signal ended the process. */
  exitCode: number | undefined;
}

/** Waits until a process exits. */
export async function exitResultOf(child: Bun.Subprocess): Promise<ExitResult> {
  const code = await child.exited;
  const { signalCode } = child;
  return {
    how: signalCode === null ? `exit code ${describeExitCode(code)}` : String(signalCode),
    exitCode: signalCode === null ? code : undefined,
  };
}

/** Result of the scenario. It is passed between processes as JSON. */
export interface SmokeTestResult {
  /** Short descriptions of the checks that passed, in order. */
  passed: string[];
  /** The check that failed, or undefined if all passed. */
  failure?: string;
  /** Output of the container. */
  output: string;
  /** Listening sockets of a container that failed a check while it was running. */
  sockets?: string[];
}

const POLL_MS = 10;
/** Milliseconds from SIGTERM until the request in flight continues. */
const PAUSE_AFTER_SIGTERM_MS = 100;
/**
 * Milliseconds that a failed container has to exit after each signal, because its buffers may hold output.
 */
const FLUSH_TIMEOUT_MS = 1000;
/** Seconds that a worker has to run. */
const STAY_UP_SECONDS = 3;
/** Exit code of a process that SIGTERM has ended. */
const SIGTERM_EXIT_CODE = 143;
/** Seconds until the version request must succeed. It may be the first request, if there are no probes. */
const VERSION_TIMEOUT_SECONDS = 10;

/**
 * Probes the service, requests its version, drains it and stops it. A worker has to keep running.
 *
 * @param id build ID that the version path has to return
 */
export async function runScenario(pod: PodSpec, service: ServiceProcess, id: string): Promise<SmokeTestResult> {
  const passed: string[] = [];
  try {
    for (const probe of pod.asks) {
      await waitForProbe(probe, service);
      passed.push(`${probe.kind} (${describeProbeCheck(probe.check)})`);
    }
    if (pod.version) {
      await checkVersion(pod.version, service, id);
      passed.push(pod.version.path);
      await checkDrain({ ...pod, version: pod.version }, service, id);
      passed.push("drain");
    } else {
      await checkStaysUp(service);
      passed.push(`worker, up for ${STAY_UP_SECONDS} s${describeSockets(service)}`);
      service.signal("SIGTERM");
      await checkEnd(pod, service, performance.now() + pod.graceSeconds * 1000, [0, SIGTERM_EXIT_CODE]);
      passed.push("end after SIGTERM");
    }
    return { passed, output: await service.output.all() };
  } catch (error) {
    if (!(error instanceof SmokeTestFailure)) throw error;
    const sockets = service.listening();
    await stop(service);
    return { passed, failure: error.message, output: await service.output.all(), sockets };
  }
}

/** Stops the service, first with SIGTERM, so that it can flush its output. */
async function stop({ exited, signal }: ServiceProcess): Promise<void> {
  for (const name of ["SIGTERM", "SIGKILL"] as const) {
    signal(name);
    if (await Promise.race([exited, Bun.sleep(FLUSH_TIMEOUT_MS)])) return;
  }
}

/** A failed check of the container. */
export class SmokeTestFailure extends Error {
  override name = "Failure";
}

/**
 * Repeats an attempt until it succeeds or the time is over.
 *
 * @param event event that the attempt waits for, for messages
 * @returns the last failure, or undefined
 * @throws {SmokeTestFailure} if the container exits
 */
async function retryUntil(
  { exited }: ServiceProcess,
  timeoutSeconds: number,
  event: string,
  attempt: () => Promise<string | undefined>,
): Promise<string | undefined> {
  const deadline = performance.now() + timeoutSeconds * 1000;
  const early = exited.then(({ how }) => new SmokeTestFailure(`the container ended with ${how} before ${event}`));
  for (;;) {
    const failure = await Promise.race([early, attempt()]);
    if (failure instanceof SmokeTestFailure) throw failure;
    if (failure === undefined || performance.now() > deadline) return failure;
    await Bun.sleep(POLL_MS);
  }
}

async function waitForProbe(
  { kind, check, seconds, patienceSeconds }: ScheduledProbe,
  service: ServiceProcess,
): Promise<void> {
  const failure = await retryUntil(service, patienceSeconds, `the ${kind} probe passed`, () =>
    runProbe(service.host, check, seconds, service.exec),
  );
  if (failure === undefined) return;
  const probe = `the ${kind} probe (${describeProbeCheck(check)})`;
  const hint = check.how === "exec" ? "" : describeOtherPorts(service, check.port);
  throw new SmokeTestFailure(`${probe} failed for ${patienceSeconds} s: ${failure}${hint}`);
}

/** Describes the listening sockets if none of them is the expected port. */
function describeOtherPorts({ host, listening }: ServiceProcess, port: number): string {
  const sockets = listening();
  const expected = [`0.0.0.0:${port}`, `[::]:${port}`, `${host}:${port}`];
  if (sockets.some((socket) => expected.includes(socket))) return "";
  return ` (the service listens on ${sockets.length > 0 ? sockets.join(", ") : "no port"})`;
}

/** Names the ports of a worker. If it is a server after all, the manifests lack a Service. */
function describeSockets({ listening }: ServiceProcess): string {
  const sockets = listening();
  return sockets.length > 0 ? ` and listening on ${sockets.join(", ")}` : "";
}

/** Checks that the container of a worker keeps running. */
async function checkStaysUp({ exited }: ServiceProcess): Promise<void> {
  const exit = await Promise.race([exited, Bun.sleep(STAY_UP_SECONDS * 1000)]);
  if (!exit) return;
  const state = `the container ended with ${exit.how} within ${STAY_UP_SECONDS} s`;
  throw new SmokeTestFailure(
    `${state}. The manifests name no port of the service, so it has to keep running as a worker does`,
  );
}

type VersionEndpoint = NonNullable<PodSpec["version"]>;

async function checkVersion({ port, path }: VersionEndpoint, service: ServiceProcess, id: string): Promise<void> {
  const url = `http://${service.host}:${port}${path}`;
  const signal = new AbortController().signal;
  let found: string | undefined;
  const failure = await retryUntil(service, VERSION_TIMEOUT_SECONDS, `${path} responded`, async () => {
    const reply = await fetchVersion({ url, open: (init) => fetch(url, { ...init, proxy: false }) }, { signal });
    found = reply.id;
    return reply.failure;
  });
  if (failure !== undefined)
    throw new SmokeTestFailure(`GET :${port}${path} failed: ${failure}${describeOtherPorts(service, port)}`);
  if (found !== id) throw new SmokeTestFailure(`GET :${port}${path} returned the ID ${found}, expected ${id}`);
}

/**
 * Sends SIGTERM while a request is in flight.
 *
 * The request has to finish, and the container has to exit with 0 within the grace period.
 */
async function checkDrain(
  { version, graceSeconds }: Pick<PodSpec, "graceSeconds"> & { version: VersionEndpoint },
  service: ServiceProcess,
  id: string,
): Promise<void> {
  const request = await beginRequest({ host: service.host, ...version }, id);
  // Gives the service time to accept the connection and read the first half.
  await Bun.sleep(POLL_MS);
  service.signal("SIGTERM");
  const deadline = performance.now() + graceSeconds * 1000;
  await Promise.race([service.exited, Bun.sleep(PAUSE_AFTER_SIGTERM_MS)]);
  const failure = await request.finish();
  await checkEnd({ graceSeconds }, service, deadline, [0]);
  if (failure !== undefined) throw new SmokeTestFailure(`a request in flight at SIGTERM did not finish: ${failure}`);
}

/** Waits until the container exits after SIGTERM. @param codes exit codes that are no failure */
async function checkEnd(
  { graceSeconds }: Pick<PodSpec, "graceSeconds">,
  service: ServiceProcess,
  deadline: number,
  codes: number[],
): Promise<void> {
  const remaining = Math.max(0, deadline - performance.now());
  const exit = await Promise.race([service.exited, Bun.sleep(remaining)]);
  if (!exit)
    throw new SmokeTestFailure(
      `the container still runs ${graceSeconds} s after SIGTERM, and the cluster would kill it`,
    );
  if (exit.exitCode !== undefined && codes.includes(exit.exitCode)) return;
  throw new SmokeTestFailure(`after SIGTERM the container ended with ${exit.how}, expected exit code 0`);
}
