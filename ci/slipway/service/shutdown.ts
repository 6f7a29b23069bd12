/** Coordinates readiness and shutdown of all servers in the process. */
import { Lifecycle } from "./lifecycle.ts";
import type { Stoppable } from "./service.d";
import { NO_STORE_HEADERS, version, VERSION_PATH } from "./version.ts";

/** A server that can also tell its clients to disconnect. */
export interface DrainableServer extends Stoppable {
  /** Adds `Connection: close` to every response from now on. */
  startDraining(): void;
}

const servers: DrainableServer[] = [];
const afterDrainCallbacks: (() => unknown)[] = [];
/** Copy of `lifecycle.leaving` in a plain property, because every response reads it. */
export const drainState = { leaving: false };
const lifecycle = new Lifecycle((state) => {
  drainState.leaving = lifecycle.leaving;
  if (state === "draining") for (const server of servers) server.startDraining();
});
/** Number of servers that are not ready yet. */
let pendingServers = 0;
const drainTimes = { delaySeconds: 0, timeoutSeconds: 0 };

/** Seconds until the process exits, even if callbacks are still running. */
const CALLBACK_TIMEOUT_SECONDS = 5;

/** Endpoints that are added to the routes of the service. */
export const builtInRoutes: Record<string, () => Response> = {
  [VERSION_PATH]: version,
  "/readyz": () =>
    new Response(lifecycle.state, {
      status: lifecycle.state === "ready" ? 200 : 503,
      headers: NO_STORE_HEADERS,
    }),
  // Returns 200 during the drain too. Otherwise Kubernetes would kill the container before it finishes.
  "/healthz": () => new Response("ok", { headers: NO_STORE_HEADERS }),
};

/** Whether no server is registered yet. */
export const isFirstServer = (): boolean => servers.length === 0;

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

/**
 * Registers a signal handler of the service to run after the drain.
 *
 * Unlike a callback of afterDrain(), it may continue after it has returned. It is expected to exit the
 * process itself.
 */
export function runAfterDrain(handler: () => unknown): void {
  hasServiceHandler = true;
  afterDrain(handler);
  handleSignals();
}

let hasServiceHandler = false;
let isHandlingSignals = false;
/** The original method, because attach.ts replaces it. */
const on = process.on.bind(process);

function handleSignals(): void {
  if (isHandlingSignals) return;
  isHandlingSignals = true;
  // In process 1 of a container, the kernel ignores signals without a handler.
  on("SIGTERM", shutDown);
  on("SIGINT", shutDown);
}

function shutDown(): void {
  if (lifecycle.leaving) process.exit(1);
  // Without a server, there are no clients to wait for.
  const { delaySeconds } = servers.length > 0 ? drainTimes : { delaySeconds: 0 };
  void lifecycle.drain(servers, { ...drainTimes, delaySeconds }).then(async ({ forced }) => {
    if (forced) console.error(`requests were closed after ${drainTimes.timeoutSeconds} s of draining`);
    const exitTimer = setTimeout(() => process.exit(0), CALLBACK_TIMEOUT_SECONDS * 1000);
    for (const callback of afterDrainCallbacks) await callback();
    if (!hasServiceHandler) process.exit(0);
    // The service's handler may still be running. The process exits when it has finished, or by the timer.
    exitTimer.unref();
  });
}
