/** Checks the served version from outside. Changes nothing. */
import { PipelineError } from "../core/errors.ts";
import type { DeployContext } from "./plan.ts";
import { renderManifests } from "../kubernetes/render.ts";
import { verifyVersion, type Endpoint } from "./verify-from-outside.ts";

/** Returns the Service's external endpoint, according to the overlay. */
export async function endpointOf({ target, service, signal }: DeployContext): Promise<Endpoint> {
  return target.endpoint(await renderManifests(target, service, signal));
}

/** Checks from outside that every response has `id`, or that a worker stays up. @returns the endpoint @throws {PipelineError} "project" if not */
export async function assertServing({ signal }: DeployContext, endpoint: Endpoint, id: string): Promise<Endpoint> {
  const { ok, last } = await verifyVersion(endpoint, id, { signal, deadlineSeconds: 5 });
  if (ok) return endpoint;
  const message = endpoint.observe
    ? `${endpoint.url} does not run ${id} steadily: ${last}`
    : `${endpoint.url} does not serve ${id} (last response: ${last})`;
  throw new PipelineError("project", message, {
    code: "version-not-served",
    hint: "Run `bun ci/pipeline.ts` to deploy the working tree.",
  });
}
