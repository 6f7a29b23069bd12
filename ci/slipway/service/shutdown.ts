/** Coordinates readiness and shutdown of all servers in the process. */
import { Lifecycle } from "./lifecycle.ts";
import type { Stoppable } from "./service.d";

/** A server that can also tell its clients to disconnect. */
export interface DrainableServer extends Stoppable {
  /** Adds `Connection: close` to every response from now on. */
  startDraining(): void;
}

const servers: DrainableServer[] = [];
const afterDrainCallbacks: (() => unknown)[] = [];
/** Copy of `lifecycle.leaving` in a plain property, because every response reads it. */
export const drainState = { leaving: false, lastRequest: 0 };

/** Milliseconds without a request after which clients no longer find this process. */
const QUIET_MS = 500;

/** Notes a request during the drain. The kubelet's probes come until the end. */
export function noteRequest(userAgent: string | null | undefined): void {
  if (!userAgent?.startsWith("kube-probe/")) drainState.lastRequest = performance.now();
}

/** Adds `Connection: close` during the drain. A handler that upgrades to a websocket returns no response. */
export function closeIfDraining(response: unknown): unknown {
  if (drainState.leaving && response instanceof Response) response.headers.set("Connection", "close");
  return response;
}

const isQuiet = () => performance.now() - drainState.lastRequest > QUIET_MS;

export const lifecycle = new Lifecycle((state) => {
  drainState.leaving = lifecycle.leaving;
  if (state === "draining") for (const server of servers) server.startDraining();
});
/** Number of servers that are not ready yet. */
let pendingServers = 0;
const drainTimes = { delaySeconds: 0, timeoutSeconds: 0 };

/** Seconds until the process exits, even if callbacks are still running. */
const CALLBACK_TIMEOUT_SECONDS = 5;

/** Registers a server, so that it drains together with the others. */
export function registerServer(
  server: DrainableServer,
  { delaySeconds, timeoutSeconds, ready }: { delaySeconds: number; timeoutSeconds: number; ready?: unknown },
): void {
  drainTimes.delaySeconds = Math.max(drainTimes.delaySeconds, delaySeconds);
  drainTimes.timeoutSeconds = Math.max(drainTimes.timeoutSeconds, timeoutSeconds);
  handleSignals();
  servers.push(server);
  pendingServers += 1;
  void Promise.resolve(ready).then(() => {
    pendingServers -= 1;
    if (pendingServers === 0 && lifecycle.state === "starting") lifecycle.ready();
  });
}

/** Registers a callback to run between the drain and the exit. Callbacks run in order of registration. */
export function afterDrain(callback: () => unknown): void {
  afterDrainCallbacks.push(callback);
}

/** Signals that start the drain, with their numbers. https://man7.org/linux/man-pages/man7/signal.7.html */
export const SIGNAL_NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;
export type Signal = keyof typeof SIGNAL_NUMBERS;

/** Calls the service's handlers of a signal. @returns whether there are any */
type CallHandlers = (signal: Signal) => boolean;

let callHandlers: CallHandlers | undefined;
let isHandlingSignals = false;
/** Whether the drain and the callbacks have finished. */
let isDrained = false;

/**
 * Sets the function that calls the service's own signal handlers, which run after the drain.
 *
 * Unlike callbacks of afterDrain(), they may continue after they have returned. They are expected to exit the process
 * themselves. The caller passes the signals to receiveSignal().
 */
export function deferHandlers(call: CallHandlers): void {
  callHandlers = call;
  isHandlingSignals = true;
}

function handleSignals(): void {
  if (isHandlingSignals) return;
  isHandlingSignals = true;
  // In process 1 of a container, the kernel ignores signals without a handler.
  process.on("SIGTERM", () => receiveSignal("SIGTERM"));
  process.on("SIGINT", () => receiveSignal("SIGINT"));
}

/**
 * Starts the drain, or exits at a second signal.
 *
 * @param isOwn whether the process has sent the signal to itself. It is not a second request to stop
 */
export function receiveSignal(signal: Signal, isOwn = false): void {
  const hasDrain = servers.length > 0 || afterDrainCallbacks.length > 0;
  if (callHandlers && !hasDrain) {
    // Without a handler, the signal ends the process, as from source. Process 1 has to exit by itself.
    if (!callHandlers(signal)) process.exit(128 + SIGNAL_NUMBERS[signal]);
  } else if (isDrained && isOwn) {
    if (!callHandlers?.(signal)) process.exit(0);
  } else if (!lifecycle.leaving) {
    void shutDown(signal);
  } else if (!isOwn) {
    process.exit(1);
  }
}

async function shutDown(signal: Signal): Promise<void> {
  // Without a server, there are no clients to wait for.
  const { delaySeconds } = servers.length > 0 ? drainTimes : { delaySeconds: 0 };
  const { forced } = await lifecycle.drain(servers, { ...drainTimes, delaySeconds, isQuiet });
  if (forced) console.error(`requests were closed after ${drainTimes.timeoutSeconds} s of draining`);
  const exitTimer = setTimeout(() => process.exit(0), CALLBACK_TIMEOUT_SECONDS * 1000);
  for (const callback of afterDrainCallbacks) await callback();
  isDrained = true;
  // In a task of its own, so that an exception of a handler is an uncaught exception, as from source.
  setImmediate(() => {
    if (!callHandlers?.(signal)) process.exit(0);
    // The service's handler may still be running. The process exits when it has finished, or by the timer.
    exitTimer.unref();
  });
}
