/** What this service is to its pipeline. The command line stands in `bun ci/pipeline.ts --help`. */
import { pipeline } from "slipway";

await pipeline(import.meta, {
  // It answers and drains by itself.
  attach: false,
  imageSize: { amd64: 112_484_384 },
});
