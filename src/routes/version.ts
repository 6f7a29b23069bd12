import { buildInfo } from "../build-info.ts";
import { createJsonReply, memoizeReply } from "../responses.ts";

/** `GET /version`: name, version, build ID and Bun's version. A deploy requests it to verify the rollout. */
export const handleVersion = memoizeReply(() => createJsonReply(buildInfo));
