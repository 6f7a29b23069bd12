/** The service that the tests are about: the one of this repository. */
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { createImageSpec } from "../image/image-spec.ts";
import type { Settings } from "../index.d.ts";

export const root = join(import.meta.dir, "../../..");
/** The settings of ci/pipeline.ts. duplicated-constants.test.ts compares the two. */
export const settings: Settings = {
  attach: false,
};
export const service = resolveService(root, settings);
export const image = createImageSpec(service);
