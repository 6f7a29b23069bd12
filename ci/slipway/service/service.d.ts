/**
 * What a service needs to be deployed without a failed request: which build it is, whether it is ready, and an end that
 * cuts nobody off.
 *
 * These types ask for nothing: where bun-types or the DOM's are installed they are exact, elsewhere they are what is
 * written here.
 *
 * @module
 */

/** What this build is, as `GET /version` tells it. */
export interface Build {
  /** The service's name; absent unless the build defines BUILD_NAME. */
  readonly name?: string;
  /** The service's version; absent unless the build defines BUILD_VERSION. */
  readonly version?: string;
  /** The build's id, which is also the image's tag; "dev" when run from source. */
  readonly id: string;
  /** Bun's version. */
  readonly bun: string;
}

/** The paths that `serve` answers. */
export type Path = "/version" | "/readyz" | "/healthz";

/** How to serve. Each has a default, so that nothing needs to be said. */
export interface ServiceOptions {
  /** `/readyz` answers 503 until this resolves. When it rejects, the process ends as it does for any unhandled rejection. */
  ready?: PromiseLike<unknown> | undefined;
  /**
   * Seconds from the signal until no connection is accepted any more: load balancers need them to take notice. 2 unless
   * given; the environment's DRAIN_DELAY_SECONDS wins. Of several servers' the longest holds for all.
   */
  drainDelaySeconds?: number | undefined;
  /**
   * Seconds that requests in flight then have to finish before they are cut. 10 unless given; the environment's
   * DRAIN_TIMEOUT_SECONDS wins. Of several servers' the longest holds for all.
   */
  drainTimeoutSeconds?: number | undefined;
  /** Those of the three paths that the service answers itself. None unless given. */
  customPaths?: readonly Path[] | undefined;
}

/** What this build is. */
export declare const build: Build;

/**
 * The reply to `GET /version`, for who routes by themselves: `build` as JSON, never to be cached.
 *
 * @example
 * app.get("/about/build", () => version());
 */
export declare function version(): WebResponse;

/**
 * Serves with `/version`, `/readyz` and `/healthz`, and drains on SIGTERM and SIGINT: `/readyz` turns 503 and every
 * reply says `Connection: close` for `delaySeconds`; then nothing is accepted any more and what is in flight finishes,
 * for at most `timeoutSeconds`; then the rest is cut and the process exits with 0. A second signal exits at once with 1.
 *
 * @param server a server of node:http or node:https, listening or not, also as Express (`app.listen(3000)`) and Fastify
 *   (`app.server`) have it
 * @returns the same server
 * @throws {Error} when DRAIN_DELAY_SECONDS or DRAIN_TIMEOUT_SECONDS is not a number of seconds
 * @example
 * serve(createServer(handler).listen(process.env.PORT ?? 3000));
 */
export declare function serve<Server extends NodeServer>(server: Server, how?: ServiceOptions): Server;
/**
 * The same in place of `Bun.serve(options)`, with other defaults: port 8080, hostname 0.0.0.0, `reusePort: false`, and
 * `development: false` in a build and where NODE_ENV is production when it runs. The first server of a process listens
 * on the environment's PORT where that is set, whatever its options say. Routes of the service's own win over the three
 * paths; `"/version": false` leaves that one to `fetch`.
 *
 * @returns Bun's server
 * @throws {Error} when PORT, DRAIN_DELAY_SECONDS or DRAIN_TIMEOUT_SECONDS is not a number that can be one; or the
 *   operating system's error (`code` EADDRINUSE, EACCES) when the port cannot be had
 * @example
 * serve({ fetch: app.fetch }); // Hono, Elysia
 */
export declare function serve<Data = undefined, R extends string = never>(
  options: Parameters<typeof bunServe<Data, R>>[0],
  how?: ServiceOptions,
): ReturnType<typeof bunServe<Data, R>>;

/**
 * Something to do between the drain and the end of the process, like closing a database. Several are done one after the other;
 * after 5 s the process ends without them.
 *
 * @example
 * afterDrain(() => database.close());
 */
export declare function afterDrain(ending: () => unknown): void;

export type State = "starting" | "ready" | "draining" | "stopped";

/** The part of Bun's server that the drain needs. */
export interface Stoppable {
  /** Stops accepting; resolves when the requests in flight are done. With `true`, cuts them. */
  stop(force?: boolean): Promise<void>;
}

/**
 * A service's life, for who builds a server without `serve`: starting, ready, draining, stopped; never back. It hears
 * no signals and writes no replies.
 */
export declare class Lifecycle {
  /** @param changed is told each new state */
  constructor(changed?: (state: State) => void);
  get state(): State;
  /** From the first moment of the drain on: connections are told to end. */
  get leaving(): boolean;
  ready(): void;
  /**
   * Drains: not ready any more, `Connection: close` for `delaySeconds` while load balancers take notice, then stop
   * accepting and finish what is in flight for at most `timeoutSeconds`, then cut the rest.
   *
   * @returns whether requests had to be cut
   */
  drain(
    servers: Stoppable[],
    times: { delaySeconds: number; timeoutSeconds: number },
  ): Promise<{ forced: boolean }>;
}

/** The part of a Node server that `serve` needs. */
export interface NodeServer {
  close(callback?: (error?: Error) => void): unknown;
  closeIdleConnections(): void;
  closeAllConnections(): void;
  emit(event: string, ...values: any[]): boolean;
}

/** The part of `Bun.serve`'s options that is known without bun-types. */
export interface BunOptions {
  port?: number | string | undefined;
  hostname?: string | undefined;
  fetch?(request: WebRequest, server: BunServer): unknown;
  routes?: { readonly [path: string]: unknown } | undefined;
  readonly [option: string]: unknown;
}

/** The part of Bun's server that is known without bun-types. */
export interface BunServer extends Stoppable {
  readonly port: number | undefined;
  readonly hostname: string | undefined;
  reload(options: BunOptions): BunServer;
}

/** The global class of this name where there is one, else what stands in for it. */
type Global<Name extends string, Else> = typeof globalThis extends {
  [name in Name]: { prototype: infer Instance };
}
  ? Instance
  : Else;
export type WebRequest = Global<"Request", { readonly method: string; readonly url: string }>;
export type WebResponse = Global<
  "Response",
  { readonly status: number; json(): Promise<any>; text(): Promise<string> }
>;

declare const bunServe: typeof globalThis extends { Bun: { serve: infer Serve } }
  ? Serve
  : <Data, R extends string>(options: BunOptions) => BunServer;

export {};
