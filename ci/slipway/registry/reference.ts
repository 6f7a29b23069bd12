/** An image's name in a registry, and what it is taken to mean. */
import { PipelineError } from "../core/errors.ts";

/** An image's name, taken apart. */
export interface Reference {
  /** As it was written, `docker.io` or `localhost:5001`. */
  registry: string;
  /** The registry's address. */
  origin: string;
  path: string;
  tag: string;
}

/**
 * Takes `registry[:port]/path:tag` apart. The registry has to be there: a name without one means another place to every
 * tool. https for all, but for this machine itself; docker.io is the name of Docker Hub, not its address.
 *
 * @throws {PipelineError} "usage" when it is not of that form
 */
export function parseReference(reference: string): Reference {
  const name =
    /^(\[[\da-fA-F:]+\]|[\w.-]+)(:\d+)?\/([a-z\d]+(?:(?:[._]|__|-+|\/)[a-z\d]+)*):(\w[\w.-]{0,127})$/;
  const [, host = "", port = "", path = "", tag = ""] = name.exec(reference) ?? [];
  const url = URL.parse(`https://${host}${port}`);
  if (!url || (host !== "localhost" && !port && !/[.:]/.test(host))) {
    // What is in front of an @ may be a password.
    throw new PipelineError("usage", `"${reference.replace(/.*@/, "…@")}" is no REGISTRY[:PORT]/PATH:TAG`, {
      hint: "For Docker Hub it is docker.io/NAME/IMAGE:TAG.",
    });
  }
  if (/^(index\.)?docker\.io$/i.test(url.host)) {
    const origin = "https://registry-1.docker.io";
    return { registry: "docker.io", origin, path: path.includes("/") ? path : `library/${path}`, tag };
  }
  const origin = isLoopback(url.hostname) ? new URL(`http://${host}${port}`).origin : url.origin;
  return { registry: `${host}${port}`, origin, path, tag };
}

/** Whether a URL's host is this machine itself; URL has normalised it already. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
}
