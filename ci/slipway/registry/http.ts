/**
 * One request and its whole reply, with a deadline: over https or to this machine, and by way of a few redirects.
 *
 * Redirects are followed by hand, https://fetch.spec.whatwg.org/#http-redirect-fetch: fetch() by itself would go on from https to
 * http, with an upload as its body.
 */
import { PipelineError } from "../core/errors.ts";
import { TransientError } from "./retry.ts";
import { isLoopback } from "./reference.ts";

const MOST_REDIRECTS = 5;
const redirects = new Set([301, 302, 303, 307, 308]);

export interface HttpRequest {
  method?: "GET" | "HEAD" | "POST" | "PUT";
  headers?: Record<string, string>;
  body?: Uint8Array<ArrayBuffer> | URLSearchParams;
  /** The reply is wanted, wherever it points. */
  redirect?: "manual";
  seconds?: number;
}

export interface HttpReply extends Pick<Response, "status" | "ok" | "headers"> {
  /** Of the last one that was asked. */
  url: string;
  body: Uint8Array;
}

export interface RequestPolicy {
  /** As a person calls it. */
  registry: string;
  /** Whether all of it has to be https, on this machine too: it began so. */
  secure: boolean;
  /** Seconds that the request may take, redirects included. */
  seconds: number;
  signal: AbortSignal;
}

/**
 * @throws {PipelineError} "environment" when nobody answers, or the way would go on without TLS: nothing is sent there then
 * @throws the signal's reason when it was aborted
 */
export async function sendRequest(from: URL, request: HttpRequest, terms: RequestPolicy): Promise<HttpReply> {
  const { redirect, seconds: _, ...first } = request;
  const limit = AbortSignal.timeout(terms.seconds * 1000);
  let [url, init] = [from, first];
  for (let followed = 0; ; followed += 1) {
    const secure = terms.secure || from.protocol === "https:";
    if (!isAllowed(url, secure)) throw unencrypted(url, terms);
    const reply = await once(url, init, limit, terms);
    const next = redirect === "manual" ? undefined : targetOf(reply);
    if (!next) return reply;
    if (followed === MOST_REDIRECTS) throw astray(from, terms);
    init = redirected(init, reply.status, next.origin === url.origin);
    url = next;
  }
}

function isAllowed({ protocol, hostname }: URL, secure: boolean): boolean {
  return protocol === "https:" || (!secure && protocol === "http:" && isLoopback(hostname));
}

function targetOf({ status, headers, url }: HttpReply): URL | undefined {
  const location = headers.get("location");
  if (!redirects.has(status) || location === null) return undefined;
  return URL.parse(location, url) ?? undefined;
}

/** What is asked at a redirect's target. Authorization is for the origin that it was meant for. */
function redirected(request: HttpRequest, status: number, sameOrigin: boolean): HttpRequest {
  const { method = "GET", headers = {}, body } = request;
  const { Authorization: _, ...others } = headers;
  const kept = sameOrigin ? headers : others;
  const isRead = method === "GET" || method === "HEAD";
  const turnsToGet = (status === 303 && !isRead) || (status < 303 && method === "POST");
  if (!turnsToGet) return { method, headers: kept, ...(body && { body }) };
  const { "Content-Type": __, ...bare } = kept;
  return { method: "GET", headers: bare };
}

async function once(
  url: URL,
  init: HttpRequest,
  limit: AbortSignal,
  terms: RequestPolicy,
): Promise<HttpReply> {
  try {
    const response = await fetch(url, {
      ...init,
      redirect: "manual",
      // HTTP_PROXY would otherwise be given what is meant for this machine, credentials and all.
      ...(isLoopback(url.hostname) && { proxy: false }),
      signal: AbortSignal.any([terms.signal, limit]),
    });
    const { status, ok, headers } = response;
    return { status, ok, headers, url: url.href, body: await response.bytes() };
  } catch (error) {
    terms.signal.throwIfAborted();
    throw noReply(url.host, terms.seconds, error);
  }
}

function unencrypted({ origin }: URL, { registry }: RequestPolicy): PipelineError {
  const message = `${registry} sends us on to ${origin}, which is not encrypted; nothing was sent there`;
  return new PipelineError("environment", message, {
    hint: "Does a proxy in front of the registry tell it X-Forwarded-Proto? Registries make their addresses of that.",
  });
}

function astray({ host }: URL, { registry }: RequestPolicy): PipelineError {
  const message = `${registry} sends us on more than ${MOST_REDIRECTS} times, from ${host}`;
  return new PipelineError("environment", message, { hint: "The registry's log should say more." });
}

/** Why there was no reply at all. */
function noReply(host: string, seconds: number, error: unknown): PipelineError {
  const { name, code = name } = error as { name: string; code?: string };
  if (name === "TimeoutError") {
    return new TransientError("environment", `${host} gave no answer within ${seconds} s`, {
      hint: "Is the registry overloaded, or the way to it slow? Run the command again.",
      cause: error,
    });
  }
  if (/CERT|TLS|SSL|SIGNATURE|EPROTO/.test(code)) {
    return new PipelineError("environment", `${host} has no TLS that this machine trusts (${code})`, {
      hint:
        "NODE_EXTRA_CA_CERTS names a file with the certificate of an authority of your own; " +
        "without TLS a registry is used on localhost alone.",
      cause: error,
    });
  }
  if (/ECONNRESET|EPIPE/.test(code)) {
    return new TransientError("environment", `${host} broke off the connection (${code})`, {
      hint: "A registry or proxy does that when a request is too large for it, or when it restarts.",
      cause: error,
    });
  }
  // Nobody listens while it restarts; a name that nobody knows stays unknown.
  const Kind = /ECONNREFUSED|ETIMEDOUT|EAI_AGAIN/.test(code) ? TransientError : PipelineError;
  return new Kind("environment", `${host} cannot be reached (${code})`, {
    hint: "Is the registry's name right, does it run, and does this machine reach it?",
    cause: error,
  });
}
