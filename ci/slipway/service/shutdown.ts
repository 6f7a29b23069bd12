/** One process has one life, however many servers it has: this is it. */
import { Lifecycle } from "./lifecycle.ts";
import type { Stoppable } from "./service.d";
import { NO_STORE_HEADERS, version, VERSION_PATH } from "./version.ts";

/** A server that can also tell its clients to leave. */
export interface DrainableServer extends Stoppable {
  /** From now on every reply says `Connection: close`. */
  startDraining(): void;
}

const servers: DrainableServer[] = [];
/** What is done between the drain and the end. */
const endings: (() => unknown)[] = [];
/** The lifecycle's, where it costs nothing to look at it with every reply. */
export const drainState = { leaving: false };
const lifecycle = new Lifecycle((state) => {
  drainState.leaving = lifecycle.leaving;
  if (state === "draining") for (const server of servers) server.startDraining();
});
/** Promises of readiness that are not resolved yet. */
let awaited = 0;
const times = { delaySeconds: 0, timeoutSeconds: 0 };

/** Seconds that an ending may take before the process ends without it. */
const ENDING_SECONDS = 5;

/** What is answered beside the service's own. */
export const builtInRoutes: Record<string, () => Response> = {
  [VERSION_PATH]: version,
  "/readyz": () =>
    new Response(lifecycle.state, {
      status: lifecycle.state === "ready" ? 200 : 503,
      headers: NO_STORE_HEADERS,
    }),
  // Also while draining, or Kubernetes would kill what is finishing its work.
  "/healthz": () => new Response("ok", { headers: NO_STORE_HEADERS }),
};

/** Whether no server was taken on yet. */
export const isFirstServer = (): boolean => servers.length === 0;

/** Takes a server on, which drains with the others from now on. */
export function registerServer(
  server: DrainableServer,
  { delaySeconds, timeoutSeconds, ready }: { delaySeconds: number; timeoutSeconds: number; ready?: unknown },
): void {
  times.delaySeconds = Math.max(times.delaySeconds, delaySeconds);
  times.timeoutSeconds = Math.max(times.timeoutSeconds, timeoutSeconds);
  hear();
  servers.push(server);
  awaited += 1;
  void Promise.resolve(ready).then(() => {
    awaited -= 1;
    if (awaited === 0 && lifecycle.state === "starting") lifecycle.ready();
  });
}

/** Something to do when nobody is served any more, like closing a database; in the order in which it was said. */
export function afterDrain(ending: () => unknown): void {
  endings.push(ending);
}

/** As afterDrain(), for a signal handler of the service's own, which may go on after it has returned and ends the process itself. */
export function runAfterDrain(handler: () => unknown): void {
  handedOver = true;
  afterDrain(handler);
  hear();
}

let handedOver = false;
let heard = false;
/** The process's own: slipway/attach puts others in their place. */
const on = process.on.bind(process);

function hear(): void {
  if (heard) return;
  heard = true;
  // As process 1 of a container the kernel drops signals that have no handler.
  on("SIGTERM", stop);
  on("SIGINT", stop);
}

function stop(): void {
  if (lifecycle.leaving) process.exit(1);
  // Without a server there is nobody to wait for.
  const { delaySeconds } = servers.length > 0 ? times : { delaySeconds: 0 };
  void lifecycle.drain(servers, { ...times, delaySeconds }).then(async ({ forced }) => {
    if (forced) console.error(`requests were cut after ${times.timeoutSeconds} s of draining`);
    const end = setTimeout(() => process.exit(0), ENDING_SECONDS * 1000);
    for (const ending of endings) await ending();
    if (!handedOver) process.exit(0);
    // It has until then, and the process ends by itself when nothing is left to do.
    end.unref();
  });
}
