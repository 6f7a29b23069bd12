/** What this build is. `bun run build` compiles the id in; run from source, it is "dev". */
import { name, version } from "../package.json";

declare const BUILD_ID: string | undefined;

export const build = {
  name,
  version,
  /** The first 12 hex digits of SHA-256 over all that went into the image; also the image's tag. */
  id: typeof BUILD_ID === "string" ? BUILD_ID : "dev",
  bun: Bun.version,
};
