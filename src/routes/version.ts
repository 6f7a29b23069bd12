import { build } from "../build.ts";
import { json, type Reply } from "../reply.ts";

const said = json(build);

/** `GET /version`: name, version, build id and Bun's version. What a deploy asks to see that it took effect. */
export const version = (): Reply => said;
