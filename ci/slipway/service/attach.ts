/**
 * What the build puts in front of a service's entry: every server that it starts answers /version, /readyz and /healthz where the
 * service itself does not, and drains on SIGTERM, as if the source said `serve` of slipway/service.
 *
 * Importing it puts another `Bun.serve` in the place of Bun's, through which node:http goes as well. A server whose source says
 * `serve` is as it would be without.
 */
import { listen } from "./bun.ts";
import { runAfterDrain } from "./shutdown.ts";
import { serve } from "./service.ts";
import type { NodeServer, Path } from "./service.d";

declare const BUILD_OWN_PATHS: readonly Path[];

/** Those that the build has found in the source: a router answers them, which cannot be seen from outside. */
const how = { customPaths: BUILD_OWN_PATHS };

type Options = Parameters<typeof serve>[0] & object;

/** Of the options with which node:http calls Bun: the one that nobody else has. */
const NODE = "onNodeHTTPRequest";

Bun.serve = ((options: Options) => {
  if (!(NODE in options)) return serve(options as Parameters<typeof listen>[0], how);
  adoptNodeServers();
  return (listen as (options: Options) => unknown)(options);
}) as typeof listen;

let adopted = false;

/** Each server of node:http and node:https from when it listens on. Not before one does: the module takes milliseconds to load. */
function adoptNodeServers(): void {
  if (adopted) return;
  adopted = true;
  const { EventEmitter } = process.getBuiltinModule("node:events");
  for (const name of ["node:http", "node:https"] as const) {
    const { Server } = process.getBuiltinModule(name);
    const emit = Server.prototype.emit ?? EventEmitter.prototype.emit;
    Server.prototype.emit = function (this: NodeServer, event: string, ...values: unknown[]): boolean {
      // It has an emit() of its own from then on.
      if (event === "listening" && !Object.hasOwn(this, "emit")) serve(this, how);
      return emit.call(this as never, event, ...values);
    } as never;
  }
}

// What ends the service on a signal would cut those who are served: it runs when they are gone.
const signals = new Set<unknown>(["SIGTERM", "SIGINT"]);
const handlers = new Set<unknown>();
for (const method of ["on", "once", "addListener", "prependListener", "prependOnceListener"] as const) {
  const own = process[method].bind(process) as (event: unknown, handler: unknown) => NodeJS.Process;
  process[method] = ((event: string, handler: (signal: string) => unknown) => {
    if (!signals.has(event)) return own(event, handler);
    // One for both signals is called once.
    if (!handlers.has(handler)) runAfterDrain(() => handler(event));
    handlers.add(handler);
    return process;
  }) as never;
}
