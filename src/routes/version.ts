import { build } from "../build-info.ts";
import { json, once } from "../responses.ts";

/** `GET /version`: name, version, build id and Bun's version. What a deploy asks to see that it took effect. */
export const version = once(() => json(build));
