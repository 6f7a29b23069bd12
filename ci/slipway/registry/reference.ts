/** Parses image references, `registry[:port]/path:tag`. */
import { PipelineError } from "../core/errors.ts";

export interface Reference {
  /** Registry as written, for example `docker.io` or `localhost:5001`. */
  registry: string;
  /** URL of the registry's API. */
  origin: string;
  path: string;
  tag: string;
}

/**
 * Parses `registry[:port]/path:tag`.
 *
 * The registry is required, because tools have different defaults. The protocol is https, except for this machine.
 * docker.io is the name of Docker Hub, and its API has another host.
 *
 * @throws {PipelineError} "usage" if the reference is malformed
 */
export function parseReference(reference: string): Reference {
  const name = /^(\[[\da-fA-F:]+\]|[\w.-]+)(:\d+)?\/([a-z\d]+(?:(?:[._]|__|-+|\/)[a-z\d]+)*):(\w[\w.-]{0,127})$/;
  const [, host = "", port = "", path = "", tag = ""] = name.exec(reference) ?? [];
  const url = URL.parse(`https://${host}${port}`);
  if (!url || (host !== "localhost" && !port && !/[.:]/.test(host))) {
    // The part before an @ can contain a password.
    const shown = reference.replace(/.*@/, "…@");
    throw new PipelineError("usage", `"${shown}" is not of the form REGISTRY[:PORT]/PATH:TAG`, {
      hint: "For Docker Hub, use docker.io/NAME/IMAGE:TAG.",
    });
  }
  if (/^(index\.)?docker\.io$/i.test(url.host)) {
    const origin = "https://registry-1.docker.io";
    return { registry: "docker.io", origin, path: path.includes("/") ? path : `library/${path}`, tag };
  }
  const origin = isLoopback(url.hostname) ? new URL(`http://${host}${port}`).origin : url.origin;
  return { registry: `${host}${port}`, origin, path, tag };
}

/** Whether a URL's host is this machine. URL normalises the host. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
}
