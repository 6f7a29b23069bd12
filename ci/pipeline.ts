/** What this service is to its pipeline. The command line stands in `bun ci/pipeline.ts --help`. */
import { pipeline } from "slipway";

await pipeline(import.meta, {
  // It answers and drains by itself.
  attach: false,
  // The greeting's own: it waits for nothing when it drains here.
  smokeEnv: { HOST: "127.0.0.1", ADMIN_PORT: "0", DRAIN_DELAY_SECONDS: "0" },
});
