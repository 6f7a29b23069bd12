/** Identity of this build. The pipeline compiles the ID in. Run from source, the ID is "dev". */
import { build } from "slipway/service";
import { name, version } from "../package.json";

export const buildInfo = { name, version, id: build.id, bun: build.bun };
