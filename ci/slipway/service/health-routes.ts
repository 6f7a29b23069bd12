/** Adds the health endpoints to the routes of a Bun server. */
import { createResponse, isReplaced, UnroutedPaths } from "./built-in-replies.ts";
import { build, BUILD_HEADER, VERSION_PATH } from "./version.ts";

export type BunServer = Bun.Server<unknown>;
export type Handler = (this: unknown, request: Request, server: BunServer) => unknown;
type Routes = Record<string, unknown>;

/**
 * Adds the paths so that the service replies first: by its own route, by a route with a wildcard, or by `fetch`.
 *
 * Bundled pages have no handler that could reply. On a path of its own, a page stays. A page for all paths is not a page
 * for these, so the paths win.
 *
 * @param attached the service's `fetch`, or false to reply to all paths for which the service has no route
 */
export function addHealthRoutes(
  given: Routes,
  paths: string[],
  attached: { fetch: Handler | undefined } | false,
): Routes {
  const routes = { ...given };
  const patterns = Object.keys(attached && given).filter(
    (pattern) => /[*:]/.test(pattern) && handlerOf(given[pattern]),
  );
  const wrapped = new Map<string, string[]>();
  const unrouted = new UnroutedPaths();
  for (const path of paths) {
    // Like Bun, prefers a parameter to a wildcard, and a long pattern to a short one.
    const rank = (pattern: string) => (pattern.includes("*") ? 0 : 1000) + pattern.length;
    const [pattern] = patterns.filter((pattern) => matches(pattern, path)).sort((a, b) => rank(b) - rank(a));
    const byPattern = pattern === undefined ? undefined : handlerOf(given[pattern]);
    if (!attached && given[path] === false) continue;
    const own = given[path] || undefined;
    if (own === undefined && typeof byPattern === "function") {
      wrapped.set(pattern!, [...(wrapped.get(pattern!) ?? []), path]);
    } else {
      const reply = isReply(byPattern) ? byPattern : callFetch(attached ? attached.fetch : undefined);
      routes[path] = replaceReply(
        isMethodMap(own) ? { GET: reply, ...own } : (own ?? { GET: reply }),
        [path],
        unrouted,
      );
    }
  }
  for (const [pattern, found] of wrapped) routes[pattern] = replaceReply(given[pattern], found, unrouted);
  return routes;
}

/** Calls `fetch` as Bun would. */
const callFetch = (fetch: Handler | undefined): Handler =>
  fetch ? (request, server) => fetch.call(server, request, server) : () => undefined;

/** Returns the part of a route that replies to GET. */
const handlerOf = (route: unknown): unknown => (isMethodMap(route) ? (route as Routes).GET : route);
const isReply = (route: unknown) => route instanceof Response || route instanceof Blob;

/** Wraps a route, so that its replies to the paths are replaced or get the header with the build's ID. */
function replaceReply(route: unknown, paths: string[], unrouted: UnroutedPaths): unknown {
  if (isMethodMap(route)) return { ...route, GET: replaceReply(handlerOf(route), paths, unrouted) };
  if (route instanceof Response) return replaceReply(() => route.clone(), paths, unrouted);
  if (route instanceof Blob) return replaceReply(() => new Response(route), paths, unrouted);
  if (typeof route !== "function") return route;
  return function (this: unknown, request: Request, server: BunServer) {
    const path = paths.find((path) => request.url.includes(path));
    const isAsked =
      path !== undefined &&
      (request.method === "GET" || request.method === "HEAD") &&
      new URL(request.url).pathname === path;
    if (isAsked && unrouted.has(path)) return createResponse(path);
    const response = (route as Handler).call(this, request, server);
    if (!isAsked) return response;
    const decide = (response: unknown) => reply(path, response, unrouted);
    return response instanceof Promise ? response.then(decide) : decide(response);
  };
}

function reply(path: string, response: unknown, unrouted: UnroutedPaths): unknown {
  if (!(response instanceof Response)) return createResponse(path);
  unrouted.note(path, response.status);
  if (isReplaced(path, response.status)) return createResponse(path);
  if (path === VERSION_PATH) response.headers.set(BUILD_HEADER, build.id);
  return response;
}

/** Whether a pattern of Bun's router matches a path. https://bun.sh/docs/runtime/http/routing */
function matches(pattern: string, path: string): boolean {
  const segments = path.split("/");
  const parts = pattern.split("/");
  const isMatch = parts.every(
    (part, at) => part === "*" || (part.startsWith(":") && !!segments[at]) || part === segments[at],
  );
  return isMatch && (parts.at(-1) === "*" ? segments.length >= parts.length : segments.length === parts.length);
}

/** Whether a route is an object with a handler for each method, unlike bundled pages and directories. */
export function isMethodMap(route: unknown): route is object {
  if (typeof route !== "object" || route === null) return false;
  const keys = Object.keys(route);
  return keys.length > 0 && keys.every((key) => /^[A-Z]+$/.test(key));
}
