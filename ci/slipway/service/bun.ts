/** Starts a Bun server with the health endpoints and the drain. */
import { addHealthRoutes, isMethodMap, type BunServer, type Handler } from "./health-routes.ts";
import { countRequests, countFailures } from "./count-requests.ts";
import { hasMetrics, RouteCounter, serveMetrics, yieldMetricsPort } from "./metrics.ts";
import { closeIfDraining, drainState, noteRequest, type DrainableServer } from "./shutdown.ts";
import { DEFAULT_PORT, isBuild } from "./version.ts";

/** The original `Bun.serve`, because attach.ts replaces it. */
export const listen = Bun.serve;

// The bundler replaces `process.env.NODE_ENV`, and `process.env["NODE_ENV"]` too, by a constant.
const { env } = process;

export type { BunServer };
export type BunOptions = Bun.Serve.Options<unknown, string>;
type OnError = (this: BunServer, error: unknown) => unknown;

/** @param isAttached whether the service's own replies to the paths come first */
export function serveBun(
  options: BunOptions,
  paths: string[],
  isAttached: boolean,
): { server: BunServer; drainable: DrainableServer } {
  /** Adds the health routes and wraps all handlers. Then responses get `Connection: close` during the drain. */
  const wrapOptions = (options: BunOptions, isDraining: boolean) => {
    const { fetch, error, routes: given } = options as { fetch?: Handler; error?: OnError; routes?: object };
    // A Hono app has an unrelated array of that name.
    const routes = addHealthRoutes(Array.isArray(given) ? {} : { ...given }, paths, isAttached && { fetch });
    const wrapped = Object.entries(routes).map(([path, route]) => [
      path,
      wrapRoute(route, { isDraining, path, error }),
    ]);
    return {
      ...options,
      routes: Object.fromEntries(wrapped),
      ...((fetch || isDraining) && { fetch: wrapHandler(fetch ?? notFound, { error }) }),
      ...((error || isDraining) && { error: wrapErrorHandler((error ?? failed) as Handler) }),
    } as BunOptions;
  };

  const given = options as { port?: number | string; unix?: string };
  yieldMetricsPort(given.port);
  const server = listen({
    ...(given.unix === undefined && { hostname: "0.0.0.0", reusePort: false }),
    ...((isBuild || env.NODE_ENV === "production") && { development: false }),
    ...wrapOptions(options, false),
    ...(given.unix === undefined && { port: resolvePort(given.port) }),
  } as BunOptions);
  serveMetrics(listen);

  // Keeps the health routes if the service changes its routes.
  const reload = server.reload.bind(server);
  let current = options;
  server.reload = ((changed: BunOptions) => {
    current = { ...current, ...changed } as BunOptions;
    reload(wrapOptions(current, drainState.leaving));
    return server;
  }) as BunServer["reload"];
  const startDraining = () => void reload(wrapOptions(current, true));
  return { server, drainable: { stop: (force) => server.stop(force), startDraining } };
}

/** The handler's place in the server. */
interface Place {
  isDraining?: boolean;
  /** Pattern of its route. Undefined for `fetch`. */
  path?: string;
  /** The service's handler of errors. */
  error: OnError | undefined;
}

/**
 * Wraps a route, so that its responses get `Connection: close` during the drain.
 *
 * Directories and bundled pages are returned unchanged, because their responses cannot be changed.
 */
function wrapRoute(route: unknown, place: Place): unknown {
  const { isDraining } = place;
  if (typeof route === "function") return wrapHandler(route as Handler, place);
  // Bun sends the header of a static response but leaves the connection open. A handler closes it.
  if (isDraining && route instanceof Response) return wrapHandler(() => route.clone(), place);
  if (isDraining && route instanceof Blob) return wrapHandler(() => new Response(route), place);
  if (isMethodMap(route)) {
    return Object.fromEntries(Object.entries(route).map(([method, handler]) => [method, wrapRoute(handler, place)]));
  }
  return route;
}

/** Calls the handler as Bun would. Bun handles its exceptions as before. */
function wrapHandler(handler: Handler, { path, error }: Place): Handler {
  if (hasMetrics) return countRequests(handler, RouteCounter.of(path), error !== undefined);
  return function (request, server) {
    if (drainState.leaving) noteRequest(request.headers?.get("user-agent"));
    const response = handler.call(this, request, server);
    return response instanceof Promise ? response.then(closeIfDraining) : closeIfDraining(response);
  };
}

function wrapErrorHandler(handler: Handler): Handler {
  if (hasMetrics) return countFailures(handler);
  return function (error, server) {
    const response = handler.call(this, error, server);
    return response instanceof Promise ? response.then(closeIfDraining) : closeIfDraining(response);
  };
}

/** Copies of Bun's default responses, because headers cannot be added to Bun's. */
const notFound: Handler = () => new Response(null, { status: 404 });
const failed: OnError = (error) => {
  console.error(error);
  return new Response("Something went wrong!", { status: 500, headers: { "Content-Type": "text/plain" } });
};

/**
 * Resolves the port. A server listens on PORT, to which the platform connects, if its options ask for it.
 *
 * They do if they name no port or the service's configured port. Any other port is for clients of its own.
 */
function resolvePort(given: number | string | undefined): number | string {
  if (given !== undefined && Number(given) !== DEFAULT_PORT) return given;
  if (!env.PORT) return DEFAULT_PORT;
  const port = Number(env.PORT);
  if (Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new Error(`PORT is ${JSON.stringify(env.PORT)}. It must be an integer from 0 to 65535.`);
}
