/** What this build is. The pipeline compiles the id in; run from source, it is "dev". */
import { build as compiled } from "slipway/service";
import { name, version } from "../package.json";

export const build = { name, version, id: compiled.id, bun: compiled.bun };
