/** Builds the URL of the deployed service: below --url, or at its NodePort. */
import type { Service } from "../core/resolve-service.ts";

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

export function nodePortVersionUrl({ versionPath }: Service, address: string, port: number): string {
  return `http://${hostPort(address, port)}${versionPath}`;
}

/** Joins an address and a port. IPv6 addresses get brackets. */
export function hostPort(address: string, port: number): string {
  return `${address.includes(":") ? `[${address}]` : address}:${port}`;
}
