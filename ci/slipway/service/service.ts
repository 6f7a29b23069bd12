/**
 * What a service needs to be deployed without a failed request: which build it is, whether it is ready, and an end that
 * cuts nobody off. Imported by services as `slipway/service`; importing it does nothing.
 *
 * The types that a service sees are in service.d.ts, which asks for no others; the last line here holds the two together.
 *
 * No cost comes with it: Bun's router answers the three paths, a handler is called through one function more, and what
 * needs no handler (static replies) is exchanged for such that say `Connection: close` only when the drain begins.
 */
import { serveBun, type BunOptions, type BunServer } from "./bun.ts";
import { afterDrain, builtInRoutes, registerServer } from "./shutdown.ts";
import { Lifecycle } from "./lifecycle.ts";
import { isNodeServer, serveNode } from "./node.ts";
import type * as face from "./service.d";
import type { NodeServer, Path, ServiceOptions } from "./service.d";
import { build, version } from "./version.ts";

export { afterDrain, build, Lifecycle, version };

export function serve<Server extends NodeServer>(server: Server, how?: ServiceOptions): Server;
export function serve<Data = undefined, R extends string = never>(
  options: Bun.Serve.Options<Data, R>,
  how?: ServiceOptions,
): Bun.Server<Data>;
export function serve(target: NodeServer | BunOptions, how: ServiceOptions = {}): NodeServer | BunServer {
  const life = {
    delaySeconds: seconds("DRAIN_DELAY_SECONDS", how.drainDelaySeconds ?? 2),
    timeoutSeconds: seconds("DRAIN_TIMEOUT_SECONDS", how.drainTimeoutSeconds ?? 10),
    ready: how.ready,
  };
  const paths = Object.keys(builtInRoutes).filter((path) => !how.customPaths?.includes(path as Path));
  if (isNodeServer(target)) {
    registerServer(serveNode(target, paths), life);
    return target;
  }
  const { server, leaver } = serveBun(target, paths);
  registerServer(leaver, life);
  return server;
}

function seconds(variable: string, otherwise: number): number {
  const value = process.env[variable] ? Number(process.env[variable]) : otherwise;
  if (value >= 0 && value <= 86400) return value;
  throw new Error(
    `${variable} is ${JSON.stringify(process.env[variable] ?? otherwise)}, which is no number of seconds`,
  );
}

// What is said there is what is here.
null as unknown as typeof import("./service.ts") satisfies typeof face;
