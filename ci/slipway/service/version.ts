/** Identity of the build, compiled in by the bundler. */
import type { Build } from "./service.d";

declare const BUILD_ID: string | undefined;
declare const BUILD_NAME: string | undefined;
declare const BUILD_VERSION: string | undefined;
declare const BUILD_VERSION_PATH: string | undefined;
declare const BUILD_PORT: number | undefined;

/** Whether this code runs in a build, as opposed to from source. */
export const isBuild = typeof BUILD_ID === "string";

export const build: Build = {
  ...(typeof BUILD_NAME === "string" && { name: BUILD_NAME }),
  ...(typeof BUILD_VERSION === "string" && { version: BUILD_VERSION }),
  id: isBuild ? (BUILD_ID as string) : "dev",
  bun: Bun.version,
};

/** Path that returns `build`. */
export const VERSION_PATH = typeof BUILD_VERSION_PATH === "string" ? BUILD_VERSION_PATH : "/version";

/** Port of the service, unless the environment variable PORT has another. */
export const DEFAULT_PORT = typeof BUILD_PORT === "number" ? BUILD_PORT : 8080;

/** Header with the build's ID in every response to the version path, also if the service has the route itself. */
export const BUILD_HEADER = "Slipway-Build";

/** Prevents caches from returning an outdated state. */
export const NO_STORE_HEADERS = { "Cache-Control": "no-store" };

/** Creates the response to `GET /version`: `build` as JSON. */
export const version = (): Response => Response.json(build, { headers: NO_STORE_HEADERS });

/** Property of globalThis with the functions of service.ts that attach.ts has loaded. */
export const SHARED = Symbol.for("slipway/service");
