/** Where a version answers: below the address that a person has named, or at the NodePort. */
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import { objectName, type KubeObject, type KubeService } from "../kubernetes/objects.ts";

/**
 * @param base `http(s)://HOST[:PORT][/PATH]`; its path stays, as an ingress may have it
 * @param path the service's, with a slash in front
 */
export function joinUrl(base: string, path: string): string {
  const url = new URL(base);
  url.pathname = url.pathname.replace(/\/+$/, "") + path;
  return url.href;
}

/** The NodePort of the Service. @throws {PipelineError} "project" when the overlay has none */
export function nodePortOf({ name, overlays }: Service, manifests: KubeObject[]): number {
  const found = manifests.find((object) => objectName(object) === `Service/${name}`);
  const port = (found as KubeService | undefined)?.spec.ports?.[0]?.nodePort;
  if (port) return port;
  throw new PipelineError("project", `${overlays.k3s} has no Service ${name} with a nodePort`);
}

export function nodePortUrl({ versionPath }: Service, address: string, port: number): string {
  return `http://${hostPort(address, port)}${versionPath}`;
}

/** An address of IP's version 6 has colons of its own. */
export function hostPort(address: string, port: number): string {
  return `${address.includes(":") ? `[${address}]` : address}:${port}`;
}
