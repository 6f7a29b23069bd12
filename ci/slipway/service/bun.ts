/** Bun's server, with the three paths and a drain. */
import { builtInRoutes, isFirstServer, drainState, type DrainableServer } from "./shutdown.ts";
import { isBuild } from "./version.ts";

/** Bun's own: slipway/attach puts another in its place. */
export const listen = Bun.serve;

// The bundler writes its own NODE_ENV in place of `process.env.NODE_ENV`, and of `process.env["NODE_ENV"]` too.
const { env } = process;

export type BunServer = Bun.Server<unknown>;
export type BunOptions = Bun.Serve.Options<unknown, string>;
type Handler = (this: unknown, request: Request, server: BunServer) => unknown;

export function serveBun(
  options: BunOptions,
  paths: string[],
): { server: BunServer; leaver: DrainableServer } {
  const ours = Object.fromEntries(paths.map((path) => [path, { GET: builtInRoutes[path]! }]));
  /** The options with our routes, and with replies that say when they are the last ones. */
  const dress = (options: BunOptions, last: boolean) => {
    const { fetch, error, routes: given } = options as { fetch?: Handler; error?: OnError; routes?: object };
    // A Hono app has a list of that name, which is its own.
    const routes = Array.isArray(given) ? {} : given;
    const all = Object.entries({ ...ours, ...routes }).map(([path, route]) => [
      path,
      dressRoute(route, last),
    ]);
    return {
      ...options,
      routes: Object.fromEntries(all),
      ...((fetch || last) && { fetch: marked(fetch ?? notFound) }),
      ...((error || last) && { error: marked((error ?? failed) as Handler) }),
    } as BunOptions;
  };

  const given = options as { port?: number | string; unix?: string };
  const server = listen({
    ...(given.unix === undefined && { hostname: "0.0.0.0", reusePort: false }),
    ...((isBuild || env.NODE_ENV === "production") && { development: false }),
    ...dress(options, false),
    ...(given.unix === undefined && { port: port(given.port) }),
  } as BunOptions);

  // A service that changes its routes keeps ours.
  const reload = server.reload.bind(server);
  let current = options;
  server.reload = ((changed: BunOptions) => {
    current = { ...current, ...changed } as BunOptions;
    reload(dress(current, drainState.leaving));
    return server;
  }) as BunServer["reload"];
  const startDraining = () => void reload(dress(current, true));
  return { server, leaver: { stop: (force) => server.stop(force), startDraining } };
}

type OnError = (this: BunServer, error: unknown) => unknown;

/**
 * The same route, whose replies say when they are the last ones. Directories and pages that Bun bundles are left as they
 * are: their replies cannot be changed.
 */
function dressRoute(route: unknown, last: boolean): unknown {
  if (typeof route === "function") return marked(route as Handler);
  // A static reply that says so is sent with the header, but Bun then leaves the connection open.
  if (last && route instanceof Response) return marked(() => route.clone());
  if (last && route instanceof Blob) return marked(() => new Response(route));
  if (isMethods(route)) {
    return Object.fromEntries(Object.entries(route).map(([method, one]) => [method, dressRoute(one, last)]));
  }
  return route;
}

/** Whether a route is an object with a handler for each method; a bundled page and a directory are objects as well. */
function isMethods(route: unknown): route is object {
  if (typeof route !== "object" || route === null) return false;
  const keys = Object.keys(route);
  return keys.length > 0 && keys.every((key) => /^[A-Z]+$/.test(key));
}

/** Calls the handler as Bun would have; what it throws is Bun's to handle as before. */
function marked(handler: Handler): Handler {
  return function (request, server) {
    const reply = handler.call(this, request, server);
    return reply instanceof Promise ? reply.then(mark) : mark(reply);
  };
}

/** A handler that has upgraded to a websocket replies nothing. */
function mark(reply: unknown): unknown {
  if (drainState.leaving && reply instanceof Response) reply.headers.set("Connection", "close");
  return reply;
}

/** What Bun says by itself, because to that nothing can be added. */
const notFound: Handler = () => new Response(null, { status: 404 });
const failed: OnError = (error) => {
  console.error(error);
  return new Response("Something went wrong!", { status: 500, headers: { "Content-Type": "text/plain" } });
};

/** The port to listen on: a platform that sets PORT knocks there. Only one server can have it: the first. */
function port(given: number | string | undefined): number | string {
  if (!isFirstServer() || !env.PORT) return given ?? 8080;
  const port = Number(env.PORT);
  if (Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new Error(`PORT is ${JSON.stringify(env.PORT)}, which is no port: 0 to 65535`);
}
