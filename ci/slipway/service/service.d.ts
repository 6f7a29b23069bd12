/**
 * Health endpoints and graceful shutdown for Bun and Node servers, so that a deploy fails no request.
 *
 * The types have no dependencies. They are exact if bun-types or the DOM types are installed, otherwise the
 * fallbacks below apply.
 *
 * @module
 */

/** Identity of the running build, as `GET /version` returns it. */
export interface Build {
  /** Name of the service. Absent unless the build defines BUILD_NAME. */
  readonly name?: string;
  /** Version of the service. Absent unless the build defines BUILD_VERSION. */
  readonly version?: string;
  /** ID of the build, which is also the image tag. "dev" if the service runs from source. */
  readonly id: string;
  /** Version of Bun. */
  readonly bun: string;
}

/** Paths that `serve` adds to a server. */
export type Path = "/version" | "/readyz" | "/healthz";

/** Options of `serve`. All are optional. */
export interface ServiceOptions {
  /**
   * Promise that delays readiness: `/readyz` returns 503 until it resolves.
   * If it rejects, the process exits as it does for any unhandled rejection.
   *
   * @default undefined, which means ready at once
   * @example database.connect()
   */
  ready?: PromiseLike<unknown> | undefined;
  /**
   * Seconds between the signal and the moment at which the server stops accepting connections.
   * Load balancers need this time to remove the pod.
   * The environment variable DRAIN_DELAY_SECONDS overrides it.
   * If the process has several servers, the longest value applies to all.
   *
   * @default 2
   * @example 5
   */
  drainDelaySeconds?: number | undefined;
  /**
   * Seconds that requests in flight then have to finish before the server closes their connections.
   * The environment variable DRAIN_TIMEOUT_SECONDS overrides it.
   * If the process has several servers, the longest value applies to all.
   *
   * @default 10
   * @example 30
   */
  drainTimeoutSeconds?: number | undefined;
  /**
   * Paths that the service handles itself.
   *
   * @default []
   * @example ["/version"]
   */
  customPaths?: readonly Path[] | undefined;
}

/** Identity of the running build. */
export declare const build: Build;

/**
 * Creates the response to `GET /version`: `build` as JSON with `Cache-Control: no-store`.
 *
 * Use it to expose the build on another path.
 *
 * @example
 * app.get("/about/build", () => version());
 */
export declare function version(): WebResponse;

/**
 * Adds `/version`, `/readyz` and `/healthz` to a Node server and drains it on SIGTERM and SIGINT.
 *
 * A drain has these steps:
 *
 * 1. `/readyz` returns 503 and every response has `Connection: close`, for `drainDelaySeconds`.
 * 2. The server stops accepting connections. Requests in flight finish, for at most `drainTimeoutSeconds`.
 * 3. The server closes the remaining connections and the process exits with 0.
 *
 * A second signal exits immediately with 1.
 *
 * @param server a server of node:http or node:https, listening or not. Express (`app.listen(3000)`) and
 *   Fastify (`app.server`) provide one.
 * @returns the same server
 * @throws {Error} if DRAIN_DELAY_SECONDS or DRAIN_TIMEOUT_SECONDS is not a number of seconds
 * @example
 * serve(createServer(handler).listen(process.env.PORT ?? 3000));
 */
export declare function serve<Server extends NodeServer>(server: Server, options?: ServiceOptions): Server;
/**
 * Replaces `Bun.serve(options)`: starts a Bun server with the three paths and the same drain.
 *
 * The defaults differ from Bun's: port 8080, hostname 0.0.0.0 and `reusePort: false`. `development` is
 * `false` in a build and if NODE_ENV is `production` at run time. A server whose options name no port, or the
 * service's configured port, listens on the environment variable PORT if it is set. Routes of the service take
 * precedence over the three paths. `"/version": false` leaves that path to `fetch`.
 *
 * @returns Bun's server
 * @throws {Error} if PORT, DRAIN_DELAY_SECONDS or DRAIN_TIMEOUT_SECONDS is not a valid number, or with the
 *   operating system's error code (EADDRINUSE, EACCES) if the port is not available
 * @example
 * serve({ fetch: app.fetch }); // Hono, Elysia
 */
export declare function serve<Data = undefined, R extends string = never>(
  options: Parameters<typeof bunServe<Data, R>>[0],
  serviceOptions?: ServiceOptions,
): ReturnType<typeof bunServe<Data, R>>;

/**
 * Registers a callback to run between the drain and the exit of the process.
 *
 * Callbacks run one after another, in order of registration. The process exits after 5 s, even if they have
 * not finished.
 *
 * @example
 * afterDrain(() => database.close());
 */
export declare function afterDrain(callback: () => unknown): void;

/** State of a service. It only moves forward in this order. */
export type State = "starting" | "ready" | "draining" | "stopped";

/** Part of Bun's server that the drain uses. */
export interface Stoppable {
  /** Stops accepting connections and resolves when requests in flight have finished. `true` closes them. */
  stop(force?: boolean): Promise<void>;
}

/**
 * State machine of a service, to implement shutdown without `serve`.
 *
 * It handles no signals and sends no responses.
 *
 * @example
 * const lifecycle = new Lifecycle();
 * process.on("SIGTERM", () => void lifecycle.drain([server], { delaySeconds: 2, timeoutSeconds: 10 }));
 */
export declare class Lifecycle {
  /** @param changed callback that receives each new state */
  constructor(changed?: (state: State) => void);
  get state(): State;
  /** Whether the drain has begun. From then on, responses should have `Connection: close`. */
  get leaving(): boolean;
  /** Enters the state "ready". */
  ready(): void;
  /**
   * Drains the servers and enters the state "stopped".
   *
   * 1. The state is "draining" for `delaySeconds`. Load balancers need this time to remove the pod.
   * 2. The servers stop accepting connections. Requests in flight finish, for at most `timeoutSeconds`. With `isQuiet`,
   *    the delay goes on until it returns true, for at most half of `timeoutSeconds`.
   * 3. The servers close the remaining connections.
   *
   * @returns whether requests were closed before they finished
   */
  drain(
    servers: Stoppable[],
    times: { delaySeconds: number; timeoutSeconds: number; isQuiet?: () => boolean },
  ): Promise<{ forced: boolean }>;
}

/** Part of a Node server that `serve` uses. */
export interface NodeServer {
  close(callback?: (error?: Error) => void): unknown;
  closeIdleConnections(): void;
  closeAllConnections(): void;
  emit(event: string, ...values: any[]): boolean;
}

/** Part of the options of `Bun.serve` that is typed without bun-types. */
export interface BunOptions {
  port?: number | string | undefined;
  hostname?: string | undefined;
  fetch?(request: WebRequest, server: BunServer): unknown;
  routes?: { readonly [path: string]: unknown } | undefined;
  readonly [option: string]: unknown;
}

/** Part of Bun's server that is typed without bun-types. */
export interface BunServer extends Stoppable {
  readonly port: number | undefined;
  readonly hostname: string | undefined;
  reload(options: BunOptions): BunServer;
}

/** Instance type of the global class `Name` if it exists, otherwise `Else`. */
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
