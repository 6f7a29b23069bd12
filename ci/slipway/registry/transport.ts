/**
 * Requests to an OCI registry: authorized, with deadlines and retries, and with a sentence for every failure.
 *
 * Tokens: https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/.
 *
 * Credentials go to the registry and to the token endpoint that it names, over https or on this machine, and nowhere
 * else: not to where an upload's Location points, and fetch() drops Authorization from a redirect to another origin.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PipelineError } from "../ground/errors.ts";
import { findCredentials } from "./credentials.ts";
import { isLoopback, type Reference } from "./reference.ts";

/** How often something is tried that a moment's failure can prevent. */
const TRIES = 3;
/** Statuses of a moment: too many requests, and a proxy without the registry behind it. */
const transient = new Set([429, 502, 503, 504]);

/** Whether a status is one of a moment. */
export const isTransient = (status: number): boolean => transient.has(status);

export interface RegistryOptions {
  signal: AbortSignal;
  say?(line: string): void;
  /** Seconds that a request may take; an upload may take ten minutes. Default 30. */
  patienceSeconds?: number;
  /** Seconds before a second try, where the registry asks for no other pause. Default 1. */
  pauseSeconds?: number;
}

export interface Request {
  method?: "GET" | "HEAD" | "POST" | "PUT";
  headers?: Record<string, string>;
  body?: Uint8Array<ArrayBuffer> | URLSearchParams;
  redirect?: "manual";
  seconds?: number;
}

export interface Reply extends Pick<Response, "status" | "ok" | "headers" | "url"> {
  body: Uint8Array;
}

/** A failure that may be gone in a moment. */
class TransientError extends PipelineError {
  /** Seconds to wait, where the registry named them. */
  pauseSeconds: number | undefined;
}

/** Every method throws a PipelineError "surroundings" when the registry cannot be reached, refuses, or is wrong. */
export class Transport {
  private authorization: Promise<string> | undefined;
  /** Whether credentials were found, for the sentence about a refusal. */
  private hasCredentials = false;
  private readonly signal: AbortSignal;

  /** @param actions what to ask a token for */
  constructor(
    protected readonly reference: Reference,
    private readonly actions: "pull" | "pull,push",
    private readonly options: RegistryOptions,
  ) {
    this.signal = options.signal;
  }

  /** A request whose answer may be that there is no such thing: then undefined. */
  protected async ask(url: URL, request: Request): Promise<Reply | undefined> {
    const reply = await this.authorized(url, request);
    if (reply.status === 404) return undefined;
    if (!reply.ok) throw this.refusal(url.host, reply);
    return reply;
  }

  protected async must(url: URL, request: Request): Promise<Reply> {
    const reply = await this.authorized(url, request);
    if (!reply.ok) throw this.refusal(url.host, reply);
    return reply;
  }

  /** Repeats what failed for a reason that may have passed. */
  protected async persist<T>(attempt: () => Promise<T>): Promise<T> {
    for (let tried = 1; ; tried++) {
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof TransientError) || tried === TRIES) throw error;
        const seconds = error.pauseSeconds ?? this.options.pauseSeconds ?? 1;
        this.options.say?.(`${error.message}; again in ${seconds} s`);
        await sleep(seconds * 1000, undefined, { signal: this.signal }).catch(() => {});
        this.signal.throwIfAborted();
      }
    }
  }

  /** A request with what authorizes it. A challenge is answered once: at the start, and when a token has expired. */
  protected async authorized(url: URL, request: Request): Promise<Reply> {
    if (url.origin !== this.reference.origin) return this.send(url, request);
    const used = this.authorization;
    const reply = await this.send(url, await authorize(request, used));
    if (reply.status !== 401) return reply;
    // Of several requests that are refused at once, one answers for all.
    if (this.authorization === used) {
      const answer = this.answer(reply);
      this.authorization = answer;
      answer.catch(() => (this.authorization = used));
    }
    return this.send(url, await authorize(request, this.authorization));
  }

  /** The Authorization that a challenge asks for. */
  private async answer(reply: Reply): Promise<string> {
    const { registry, path } = this.reference;
    const challenge = reply.headers.get("www-authenticate") ?? "";
    const credentials = await findCredentials(registry, path, this.signal);
    this.hasCredentials = credentials !== undefined;
    const basic =
      credentials && "user" in credentials
        ? `Basic ${Buffer.from(`${credentials.user}:${credentials.password}`).toString("base64")}`
        : undefined;
    const bearer = /\bBearer\s+(.*)/is.exec(challenge)?.[1];
    if (bearer === undefined) {
      if (basic && /\bBasic\b/i.test(challenge)) return basic;
      throw this.refusal(registry, reply);
    }

    const parameter = (name: string) => new RegExp(`\\b${name}="([^"]*)"`, "i").exec(bearer)?.[1];
    const endpoint = URL.parse(parameter("realm") ?? "");
    if (!endpoint) throw this.error("wants a token without saying from where (no realm)");
    const wanted = {
      service: parameter("service") ?? "",
      // Not the challenge's: to a question it would be for reading alone, and the upload would need another one.
      scope: `repository:${path}:${this.actions}`,
    };
    // Redirects are not followed: what is sent here is meant for this endpoint.
    const request: Request = { redirect: "manual" };
    if (credentials && "identityToken" in credentials) {
      request.method = "POST";
      request.body = new URLSearchParams({
        grant_type: "refresh_token",
        client_id: "slipway",
        refresh_token: credentials.identityToken,
        ...wanted,
      });
    } else {
      for (const [name, value] of Object.entries(wanted)) endpoint.searchParams.set(name, value);
      if (basic) request.headers = { Authorization: basic };
    }
    const answer = await this.send(endpoint, request);
    if (!answer.ok) throw this.refusal(endpoint.host, answer);
    const { token, access_token = token } = this.json<{ token?: string; access_token?: string }>(answer);
    if (!access_token) throw this.error(`wants a token of ${endpoint.host}, which gives none`);
    return `Bearer ${access_token}`;
  }

  /** One request and its whole reply, over https or to this machine. */
  private async send(url: URL, { seconds, ...request }: Request): Promise<Reply> {
    const timeout = seconds ?? this.options.patienceSeconds ?? 30;
    const here = isLoopback(url.hostname);
    if (url.protocol !== "https:" && !(here && url.protocol === "http:")) {
      throw this.error(`sends us on to ${url.origin}, which is not encrypted; nothing was sent there`, {
        hint: "Does a proxy in front of the registry tell it X-Forwarded-Proto? Registries make their addresses of that.",
      });
    }
    try {
      const response = await fetch(url, {
        ...request,
        // HTTP_PROXY would otherwise be given what is meant for this machine, credentials and all.
        ...(here && { proxy: false }),
        signal: AbortSignal.any([this.signal, AbortSignal.timeout(timeout * 1000)]),
      });
      const { status, ok, headers } = response;
      return { status, ok, headers, url: response.url, body: await response.bytes() };
    } catch (error) {
      this.signal.throwIfAborted();
      throw noReply(url.host, timeout, error);
    }
  }

  /** What the registry says that it has must be what we know it by. */
  protected compare(digest: string, reply: Reply): void {
    const given = reply.headers.get("docker-content-digest");
    if (given === null || given === digest) return;
    throw this.error(`says ${given} of what is ${digest}`, {
      hint: "Something on the way changes what passes through it, or the registry's storage is damaged.",
    });
  }

  protected json<T>({ body, url }: Reply): T {
    try {
      return Object(JSON.parse(Buffer.from(body).toString()));
    } catch {
      // Without the cause: a parser's message quotes what it could not parse, and that may be a token.
      throw this.error(`answers with something other than JSON (from ${new URL(url).host})`);
    }
  }

  protected error(message: string, options: { hint?: string } = {}): PipelineError {
    return new PipelineError("surroundings", `${this.reference.registry} ${message}`, options);
  }

  /** Says what was refused, by whom, in the registry's own words, and what to do about it. */
  protected refusal(host: string, { status, headers, body }: Reply): PipelineError {
    const { path, tag } = this.reference;
    const text = Buffer.from(body).toString();
    const words = [String(status), ...registryErrors(text)].join(", ");
    const what = this.actions === "pull" ? "to tell of" : "to take";
    const message = `${host} refuses ${what} ${path}:${tag} (${words})`;
    if (transient.has(status)) {
      const error = new TransientError("surroundings", message, {
        hint: "The registry is busy or restarts: run the command again in a while.",
      });
      const after = headers.get("retry-after") ?? "";
      if (/^\d+$/.test(after)) error.pauseSeconds = Math.min(Number(after), 5);
      return error;
    }
    return new PipelineError("surroundings", message, { hint: this.wayOut(status, text) });
  }

  private wayOut(status: number, text: string): string {
    const { registry, path } = this.reference;
    // docker-registry has a full disk as status 500, with the system's words in the error's detail.
    if (status === 413 || status === 507 || /no space left|quota/i.test(text))
      return "The registry is full, or it or a proxy in front of it limits the size of a request: raise that or free space.";
    if (status === 401 || status === 403) {
      const found = this.hasCredentials
        ? `The credentials found for ${registry} do not allow that`
        : `No credentials for ${registry} were found`;
      return `${found}: \`podman login ${registry}\` or \`docker login ${registry}\` writes some where they are looked for.`;
    }
    if (status === 404)
      return `Is ${path} the right name? In some registries a repository has to be made first.`;
    return "The registry's log should say more.";
  }
}

async function authorize(request: Request, authorization: Promise<string> | undefined): Promise<Request> {
  if (!authorization) return request;
  return { ...request, headers: { ...request.headers, Authorization: await authorization } };
}

/** Codes and messages of the specification's error body, without what could disturb a terminal. */
function registryErrors(text: string): string[] {
  try {
    const { errors } = JSON.parse(text) as { errors: { code?: string; message?: string }[] };
    return errors.map(({ code, message }) => `${code}: ${message}`.replace(/\p{Cc}/gu, " ").slice(0, 200));
  } catch {
    return [];
  }
}

/** Why there was no reply at all. */
function noReply(host: string, seconds: number, error: unknown): PipelineError {
  const { name, code = name } = error as { name: string; code?: string };
  if (name === "TimeoutError") {
    return new PipelineError("surroundings", `${host} gave no answer within ${seconds} s`, {
      hint: "Is the registry overloaded, or the way to it slow? Run the command again.",
      cause: error,
    });
  }
  if (/CERT|TLS|SSL|SIGNATURE|EPROTO/.test(code)) {
    return new PipelineError("surroundings", `${host} has no TLS that this machine trusts (${code})`, {
      hint:
        "NODE_EXTRA_CA_CERTS names a file with the certificate of an authority of your own; " +
        "without TLS a registry is used on localhost alone.",
      cause: error,
    });
  }
  if (/ECONNRESET|EPIPE/.test(code)) {
    return new TransientError("surroundings", `${host} broke off the connection (${code})`, {
      hint: "A registry or proxy does that when a request is too large for it, or when it restarts.",
      cause: error,
    });
  }
  return new PipelineError("surroundings", `${host} cannot be reached (${code})`, {
    hint: "Is the registry's name right, does it run, and does this machine reach it?",
    cause: error,
  });
}
