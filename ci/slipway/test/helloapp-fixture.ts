/** The service that the tests are about: the one of this repository. */
import { join } from "node:path";
import { resolveService } from "../core/service-config.ts";
import { createImageSpec } from "../image/image-spec.ts";
import type { Settings } from "../index.d.ts";

export const root = join(import.meta.dir, "../../..");
/** As ci/pipeline.ts has them, of which agreement.test.ts makes sure. Without the size, which is no matter of the tests. */
export const settings: Settings = {
  attach: false,
  smokeEnv: { HOST: "127.0.0.1", ADMIN_PORT: "0", DRAIN_DELAY_SECONDS: "0" },
};
export const service = resolveService(root, settings);
export const image = createImageSpec(service);
