import type { Lifecycle } from "slipway/service";
import type { Call } from "../call.ts";
import { problem, reply, TEXT, type Reply } from "../reply.ts";

const ok = reply(TEXT, "ok\n");

/** `GET /healthz`, liveness: 200 also while draining, or Kubernetes would kill what is finishing its work. */
export const healthz = (): Reply => ok;

/** `GET /readyz`, readiness: 503 before start-up ends and from the first moment of the drain. */
export function readyz(lifecycle: Lifecycle): (call: Call) => Reply {
  return (call) =>
    lifecycle.state === "ready"
      ? ok
      : problem(503, "Service Unavailable", call.id, { detail: lifecycle.state });
}
