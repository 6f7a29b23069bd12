/** Builds the URL of the deployed service: below --url, or at its NodePort. */
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { objectName, type KubeObject, type KubeService } from "../kubernetes/objects.ts";

/**
 * Appends a path to a base URL.
 *
 * @param base `http(s)://HOST[:PORT][/PATH]`. The path is kept, because an ingress may need it.
 * @param path starts with a slash
 */
export function joinUrl(base: string, path: string): string {
  const url = new URL(base);
  url.pathname = url.pathname.replace(/\/+$/, "") + path;
  return url.href;
}

/** @throws {PipelineError} "project" if the manifests have no NodePort for the service */
export function nodePortOf({ name, overlays }: Service, manifests: KubeObject[]): number {
  const service = manifests.find((object) => objectName(object) === `Service/${name}`);
  const port = (service as KubeService | undefined)?.spec.ports?.[0]?.nodePort;
  if (port) return port;
  throw new PipelineError("project", `${overlays.k3s} has no Service ${name} with a nodePort`, {
    code: "node-port-missing",
  });
}

export function nodePortVersionUrl({ versionPath }: Service, address: string, port: number): string {
  return `http://${hostPort(address, port)}${versionPath}`;
}

/** Joins an address and a port. IPv6 addresses get brackets. */
export function hostPort(address: string, port: number): string {
  return `${address.includes(":") ? `[${address}]` : address}:${port}`;
}
