/**
 * Replaces service.ts in a service with an attachment.
 *
 * attach.ts is loaded before and is bundled apart. Both must use the same servers, signal handlers and state.
 */
import { SHARED } from "./version.ts";

type Service = typeof import("./service.ts");

export const { afterDrain, build, Lifecycle, serve, version } = (globalThis as unknown as { [SHARED]: Service })[
  SHARED
];
