import type { Lifecycle } from "slipway/service";
import type { Call } from "../request-context.ts";
import { once, problem, reply, TEXT, type Reply } from "../responses.ts";

/** `GET /healthz`, liveness: 200 also while draining, or Kubernetes would kill what is finishing its work. */
export const healthz = once(() => reply(TEXT, "ok\n"));

/** `GET /readyz`, readiness: 503 before start-up ends and from the first moment of the drain. */
export function readyz(lifecycle: Lifecycle): (call: Call) => Reply {
  return (call) =>
    lifecycle.state === "ready"
      ? healthz()
      : problem(503, "Service Unavailable", call.id, { detail: lifecycle.state });
}
