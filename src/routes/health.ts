import type { Lifecycle } from "slipway/service";
import type { RequestContext } from "../request-context.ts";
import { createProblemReply, createReply, memoizeReply, TEXT_TYPE, type Reply } from "../responses.ts";

/** `GET /healthz`, liveness: 200 also while draining, or Kubernetes would kill a pod that finishes its requests. */
export const handleLiveness = memoizeReply(() => createReply(TEXT_TYPE, "ok\n"));

/** `GET /readyz`, readiness: 503 until the service has started, and again as soon as it drains. */
export function createReadinessHandler(lifecycle: Lifecycle): (context: RequestContext) => Reply {
  return (context) =>
    lifecycle.state === "ready"
      ? handleLiveness()
      : createProblemReply(503, "Service Unavailable", context.id, { detail: lifecycle.state });
}
