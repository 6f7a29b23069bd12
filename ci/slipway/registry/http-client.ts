/**
 * Sends HTTP requests with a timeout and a limited number of redirects, over https or to this machine.
 *
 * Redirects are followed manually (https://fetch.spec.whatwg.org/#http-redirect-fetch), because fetch() would follow a
 * redirect from https to http and send an upload's body there.
 */
import { PipelineError } from "../core/errors.ts";
import { TransientError } from "./retry.ts";
import { isLoopback } from "./reference.ts";

const MAX_REDIRECTS = 5;
const redirects = new Set([301, 302, 303, 307, 308]);

export interface HttpRequest {
  method?: "GET" | "HEAD" | "POST" | "PUT";
  headers?: Record<string, string>;
  body?: Uint8Array<ArrayBuffer> | URLSearchParams;
  /** "manual" returns a redirect instead of following it. */
  redirect?: "manual";
  /** Timeout of the request. Used by Transport, not by sendRequest(). */
  timeoutSeconds?: number;
}

export interface HttpReply extends Pick<Response, "status" | "ok" | "headers"> {
  /** URL of the last request, after redirects. */
  url: string;
  body: Uint8Array;
}

export interface RequestPolicy {
  /** Name of the registry for messages. */
  registry: string;
  /** Whether https is required, even for redirects to this machine. */
  isHttpsRequired: boolean;
  /** Timeout of the request including redirects. */
  timeoutSeconds: number;
  signal: AbortSignal;
}

/**
 * Sends a request and follows redirects.
 *
 * @throws {PipelineError} "environment" if there is no reply, or a redirect is not encrypted. Nothing is sent to its target
 * @throws the signal's reason if it is aborted
 */
export async function sendRequest(from: URL, request: HttpRequest, policy: RequestPolicy): Promise<HttpReply> {
  const { redirect, timeoutSeconds: _, ...first } = request;
  const timeout = AbortSignal.timeout(policy.timeoutSeconds * 1000);
  let [url, init] = [from, first];
  for (let followed = 0; ; followed += 1) {
    const isHttpsRequired = policy.isHttpsRequired || from.protocol === "https:";
    if (!isAllowed(url, isHttpsRequired)) throw unencryptedRedirect(url, policy);
    const reply = await sendOnce(url, init, timeout, policy);
    const next = redirect === "manual" ? undefined : redirectTarget(reply);
    if (!next) return reply;
    if (followed === MAX_REDIRECTS) throw tooManyRedirects(from, policy);
    init = redirectedRequest(init, reply.status, next.origin === url.origin);
    url = next;
  }
}

function isAllowed({ protocol, hostname }: URL, isHttpsRequired: boolean): boolean {
  return protocol === "https:" || (!isHttpsRequired && protocol === "http:" && isLoopback(hostname));
}

function redirectTarget({ status, headers, url }: HttpReply): URL | undefined {
  const location = headers.get("location");
  if (!redirects.has(status) || location === null) return undefined;
  return URL.parse(location, url) ?? undefined;
}

/** Creates the request to a redirect's target. Authorization is not sent to another origin. */
function redirectedRequest(request: HttpRequest, status: number, isSameOrigin: boolean): HttpRequest {
  const { method = "GET", headers: allHeaders = {}, body } = request;
  const { Authorization: _, ...withoutAuthorization } = allHeaders;
  const headers = isSameOrigin ? allHeaders : withoutAuthorization;
  const isRead = method === "GET" || method === "HEAD";
  const becomesGet = (status === 303 && !isRead) || (status < 303 && method === "POST");
  if (!becomesGet) return { method, headers, ...(body && { body }) };
  const { "Content-Type": __, ...bodilessHeaders } = headers;
  return { method: "GET", headers: bodilessHeaders };
}

async function sendOnce(url: URL, init: HttpRequest, timeout: AbortSignal, policy: RequestPolicy): Promise<HttpReply> {
  try {
    const response = await fetch(url, {
      ...init,
      redirect: "manual",
      // Otherwise HTTP_PROXY would receive requests to this machine, including credentials.
      ...(isLoopback(url.hostname) && { proxy: false }),
      signal: AbortSignal.any([policy.signal, timeout]),
    });
    const { status, ok, headers } = response;
    return { status, ok, headers, url: url.href, body: await response.bytes() };
  } catch (error) {
    policy.signal.throwIfAborted();
    throw explainNetworkError(url.host, policy.timeoutSeconds, error);
  }
}

function unencryptedRedirect({ origin }: URL, { registry }: RequestPolicy): PipelineError {
  const message = `${registry} redirects to ${origin}, which is not encrypted; nothing was sent there`;
  return new PipelineError("environment", message, {
    code: "registry-invalid-response",
    hint: "If a proxy is in front of the registry, make it send X-Forwarded-Proto. Registries build their URLs from it.",
  });
}

function tooManyRedirects({ host }: URL, { registry }: RequestPolicy): PipelineError {
  const message = `${registry} redirects more than ${MAX_REDIRECTS} times, from ${host}`;
  return new PipelineError("environment", message, {
    code: "registry-invalid-response",
    hint: "Check the registry's log.",
  });
}

/** Explains why a request got no reply. */
function explainNetworkError(host: string, timeoutSeconds: number, error: unknown): PipelineError {
  const { name, code = name } = error as { name: string; code?: string };
  if (name === "TimeoutError") {
    return new TransientError("environment", `${host} did not reply within ${timeoutSeconds} s`, {
      code: "registry-unreachable",
      hint: "Check the registry's load and the network, then run the command again.",
      cause: error,
    });
  }
  if (/CERT|TLS|SSL|SIGNATURE|EPROTO/.test(code)) {
    return new PipelineError("environment", `${host} has no TLS that this machine trusts (${code})`, {
      code: "registry-tls-untrusted",
      hint:
        "For a private certificate authority, set NODE_EXTRA_CA_CERTS to the file with its certificate. " +
        "Registries without TLS are supported on localhost only.",
      cause: error,
    });
  }
  if (/ECONNRESET|EPIPE/.test(code)) {
    return new TransientError("environment", `${host} closed the connection (${code})`, {
      code: "registry-unreachable",
      hint: "Check whether the registry restarts, or whether it or a proxy limits the request size.",
      cause: error,
    });
  }
  // A restarting registry refuses connections for a while. An unknown host name is permanent.
  const ErrorClass = /ECONNREFUSED|ETIMEDOUT|EAI_AGAIN/.test(code) ? TransientError : PipelineError;
  return new ErrorClass("environment", `cannot reach ${host} (${code})`, {
    code: "registry-unreachable",
    hint: "Check the registry's name, that it runs, and that this machine can reach it.",
    cause: error,
  });
}
