/**
 * Adds health endpoints and graceful shutdown to a service that does not call `serve` of slipway/service.
 *
 * The binary preloads this module before the service's main module. It replaces `Bun.serve`, which node:http
 * uses too. Every server then serves /version, /readyz and /healthz, unless the service has the route,
 * and drains on SIGTERM. A server that the source passes to `serve` behaves as without this module.
 */
import { listen } from "./bun.ts";
import { stopSelfStart } from "./stop-self-spawn.ts";
import { yieldMetricsPort } from "./metrics.ts";
import { delayHandlers } from "./delay-signal-handlers.ts";
import * as service from "./service.ts";
import { SHARED } from "./version.ts";
import type { NodeServer } from "./service.d";

stopSelfStart();

const { attach } = service;
Object.defineProperty(globalThis, SHARED, { value: service });

type Options = Parameters<typeof service.serve>[0] & object;

/** Option that only node:http passes to `Bun.serve`. */
const NODE_OPTION = "onNodeHTTPRequest";

Bun.serve = ((options: Options) => {
  if (!(NODE_OPTION in options)) return attach(options as Parameters<typeof attach>[0]);
  patchNodeServers();
  yieldMetricsPort((options as { port?: unknown }).port);
  return (listen as (options: Options) => unknown)(options);
}) as typeof listen;

let isPatched = false;

/**
 * Attaches each server of node:http and node:https when it starts to listen.
 *
 * It runs when the first server listens, because loading the modules takes milliseconds.
 */
function patchNodeServers(): void {
  if (isPatched) return;
  isPatched = true;
  const { EventEmitter } = process.getBuiltinModule("node:events");
  for (const name of ["node:http", "node:https"] as const) {
    const { Server } = process.getBuiltinModule(name);
    const emit = Server.prototype.emit ?? EventEmitter.prototype.emit;
    Server.prototype.emit = function (this: NodeServer, event: string, ...values: unknown[]): boolean {
      // attach() sets an own emit() on the server.
      if (event === "listening" && !Object.hasOwn(this, "emit")) attach(this);
      return emit.call(this as never, event, ...values);
    } as never;
  }
}

delayHandlers();
