/**
 * Implements `slipway/service`: health endpoints and graceful shutdown. Importing it has no side effects.
 *
 * service.d.ts has the public types, which need no other types. The last line of this file compares
 * both.
 *
 * The cost per request is one more function call. Bun's router selects the three paths. Static responses need
 * no handler, so they are replaced by responses with `Connection: close` only when the drain begins.
 */
import { serveBun, type BunOptions, type BunServer } from "./bun.ts";
import { builtInReplies } from "./built-in-replies.ts";
import { afterDrain, registerServer } from "./shutdown.ts";
import { Lifecycle } from "./lifecycle.ts";
import { isNodeServer, serveNode } from "./node.ts";
import type * as declarations from "./service.d";
import type { NodeServer, Path, ServiceOptions } from "./service.d";
import { build, version } from "./version.ts";

export { afterDrain, build, Lifecycle, version };

export function serve<Server extends NodeServer>(server: Server, options?: ServiceOptions): Server;
export function serve<Data = undefined, R extends string = never>(
  options: Bun.Serve.Options<Data, R>,
  serviceOptions?: ServiceOptions,
): Bun.Server<Data>;
export function serve(target: NodeServer | BunOptions, options: ServiceOptions = {}): NodeServer | BunServer {
  return start(target, options, false);
}

/** Does the same for a service that does not know of it. Its own replies to the three paths come first. */
export function attach(target: NodeServer | BunOptions): NodeServer | BunServer {
  return start(target, {}, true);
}

function start(target: NodeServer | BunOptions, options: ServiceOptions, isAttached: boolean): NodeServer | BunServer {
  const shutdown = {
    delaySeconds: resolveSeconds("DRAIN_DELAY_SECONDS", options.drainDelaySeconds ?? 2),
    timeoutSeconds: resolveSeconds("DRAIN_TIMEOUT_SECONDS", options.drainTimeoutSeconds ?? 10),
    ready: options.ready,
  };
  const paths = Object.keys(builtInReplies).filter((path) => !options.customPaths?.includes(path as Path));
  if (isNodeServer(target)) {
    registerServer(serveNode(target, paths, isAttached), shutdown);
    return target;
  }
  const { server, drainable } = serveBun(target, paths, isAttached);
  registerServer(drainable, shutdown);
  return server;
}

/** Reads a number of seconds from the environment, or returns `fallback` if the variable is not set. */
function resolveSeconds(variable: string, fallback: number): number {
  const value = process.env[variable] ? Number(process.env[variable]) : fallback;
  if (value >= 0 && value <= 86400) return value;
  const found = JSON.stringify(process.env[variable] ?? fallback);
  throw new Error(`${variable} is ${found}. It must be a number of seconds from 0 to 86400.`);
}

// Keeps the implementation in line with service.d.ts.
null as unknown as typeof import("./service.ts") satisfies typeof declarations;
