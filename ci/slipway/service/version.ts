/** What this build is, as it was compiled in. */
import type { Build } from "./service.d";

declare const BUILD_ID: string | undefined;
declare const BUILD_NAME: string | undefined;
declare const BUILD_VERSION: string | undefined;
declare const BUILD_VERSION_PATH: string | undefined;

/** Whether this is a build, and not the source. */
export const isBuild = typeof BUILD_ID === "string";

export const build: Build = {
  ...(typeof BUILD_NAME === "string" && { name: BUILD_NAME }),
  ...(typeof BUILD_VERSION === "string" && { version: BUILD_VERSION }),
  id: isBuild ? (BUILD_ID as string) : "dev",
  bun: Bun.version,
};

/** Where `build` is answered. */
export const VERSION_PATH = typeof BUILD_VERSION_PATH === "string" ? BUILD_VERSION_PATH : "/version";

/** An answer kept by a cache says nothing about now. */
export const NO_STORE_HEADERS = { "Cache-Control": "no-store" };

/** The reply to `GET /version`: `build` as JSON. */
export const version = (): Response => Response.json(build, { headers: NO_STORE_HEADERS });
