/** Settings of this service for slipway. `bun ci/pipeline.ts --help` lists the commands. */
import { pipeline } from "slipway";

await pipeline(import.meta, {
  // The service has its own health endpoints and shutdown.
  attach: false,
});
