/**
 * Requests to an OCI registry: authorized, with deadlines and retries, and with a sentence for every failure.
 *
 * Tokens: https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/.
 *
 * Credentials go to the registry and to the token endpoint that it names, over https or on this machine, and nowhere
 * else: not to where an upload's Location or a redirect to another origin points.
 */
import { PipelineError } from "../core/errors.ts";
import { parseChallenges } from "./challenge.ts";
import { findCredentials } from "./credentials.ts";
import { sendRequest, type HttpReply, type HttpRequest } from "./http.ts";
import { parseRetryAfter } from "../core/retry-after.ts";
import { withRetry, TransientError } from "./retry.ts";
import type { Reference } from "./reference.ts";

/** Statuses of a moment: too many requests, a server that stumbled, and a proxy without the registry behind it. */
const transient = new Set([429, 500, 502, 503, 504]);

/** Whether a status is one of a moment, whatever was asked for. */
export const isTransient = (status: number): boolean => status !== 500 && transient.has(status);

export interface RegistryOptions {
  signal: AbortSignal;
  say?(line: string): void;
  /** Seconds that a request may take; an upload may take ten minutes. Default 30. Tries begin within twice that. */
  patienceSeconds?: number;
  /** Seconds before a second try, where the registry asks for no other pause. Default 1. */
  pauseSeconds?: number;
}

/** Seconds that a request may take. */
const REQUEST_SECONDS = 30;

/** Every method throws a PipelineError "environment" when the registry cannot be reached, refuses, or is wrong. */
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
  protected async ask(url: URL, request: HttpRequest): Promise<HttpReply | undefined> {
    const reply = await this.authorized(url, request);
    if (reply.status === 404) return undefined;
    if (!reply.ok) throw this.refusal(url.host, reply);
    return reply;
  }

  protected async must(url: URL, request: HttpRequest): Promise<HttpReply> {
    const reply = await this.authorized(url, request);
    if (!reply.ok) throw this.refusal(url.host, reply);
    return reply;
  }

  /**
   * Repeats what failed for a reason that may have passed.
   *
   * @param seconds that one try may take; default: those of a request
   */
  protected persist<T>(attempt: () => Promise<T>, seconds = this.requestSeconds): Promise<T> {
    const { signal, say, pauseSeconds } = this.options;
    return withRetry(attempt, { signal, say, pauseSeconds, seconds: seconds * 2 });
  }

  private get requestSeconds(): number {
    return this.options.patienceSeconds ?? REQUEST_SECONDS;
  }

  /** A request with what authorizes it. A challenge is answered once: at the start, and when a token has expired. */
  protected async authorized(url: URL, request: HttpRequest): Promise<HttpReply> {
    if (url.origin !== this.reference.origin) return this.send(url, request);
    const used = this.authorization;
    const reply = await this.send(url, await authorize(request, used));
    // Whoever a redirect led to is not asked where credentials are to go.
    if (reply.status !== 401 || new URL(reply.url).origin !== url.origin) return reply;
    // Of several requests that are refused at once, one answers for all.
    if (this.authorization === used) {
      const answer = this.answer(reply);
      this.authorization = answer;
      answer.catch(() => (this.authorization = used));
    }
    return this.send(url, await authorize(request, this.authorization));
  }

  /** The Authorization that a challenge asks for. */
  private async answer(reply: HttpReply): Promise<string> {
    const { registry, path } = this.reference;
    const challenge = reply.headers.get("www-authenticate") ?? "";
    const credentials = await findCredentials(registry, path, this.signal);
    this.hasCredentials = credentials !== undefined;
    const basic =
      credentials && "user" in credentials
        ? `Basic ${Buffer.from(`${credentials.user}:${credentials.password}`).toString("base64")}`
        : undefined;
    const challenges = parseChallenges(challenge);
    const bearers = challenges.filter(({ scheme }) => scheme === "bearer");
    if (bearers.length === 0) {
      if (basic && challenges.some(({ scheme }) => scheme === "basic")) return basic;
      throw this.refusal(registry, reply);
    }

    const named = bearers.find(({ parameters }) => URL.canParse(parameters.get("realm") ?? ""));
    if (!named) throw this.error("wants a token without saying from where (no realm)");
    const endpoint = new URL(named.parameters.get("realm")!);
    const wanted = {
      service: named.parameters.get("service") ?? "",
      // Not the challenge's: to a question it would be for reading alone, and the upload would need another one.
      scope: `repository:${path}:${this.actions}`,
    };
    // Redirects are not followed: what is sent here is meant for this endpoint.
    const request: HttpRequest = { redirect: "manual" };
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
    // Two names for one thing, of which either may be left empty.
    const { token, access_token } = this.json<{ token?: string; access_token?: string }>(answer);
    const granted = access_token || token;
    if (!granted) throw this.error(`wants a token of ${endpoint.host}, which gives none`);
    return `Bearer ${granted}`;
  }

  /** One request and its whole reply, over https or to this machine. */
  private send(url: URL, request: HttpRequest): Promise<HttpReply> {
    const { registry, origin } = this.reference;
    return sendRequest(url, request, {
      registry,
      secure: origin.startsWith("https:"),
      seconds: request.seconds ?? this.requestSeconds,
      signal: this.signal,
    });
  }

  /** What the registry says that it has must be what we know it by. */
  protected compare(digest: string, reply: HttpReply): void {
    const given = reply.headers.get("docker-content-digest");
    if (given === null || given === digest) return;
    throw this.error(`says ${given} of what is ${digest}`, {
      hint: "Something on the way changes what passes through it, or the registry's storage is damaged.",
    });
  }

  protected json<T>({ body, url }: HttpReply): T {
    try {
      return Object(JSON.parse(Buffer.from(body).toString()));
    } catch {
      // Without the cause: a parser's message quotes what it could not parse, and that may be a token.
      throw this.error(`answers with something other than JSON (from ${new URL(url).host})`);
    }
  }

  protected error(message: string, options: { hint?: string } = {}): PipelineError {
    return new PipelineError("environment", `${this.reference.registry} ${message}`, options);
  }

  /** Says what was refused, by whom, in the registry's own words, and what to do about it. */
  protected refusal(host: string, { status, headers, body }: HttpReply): PipelineError {
    const { path, tag } = this.reference;
    const text = Buffer.from(body).toString();
    const words = [String(status), ...registryErrors(text)].join(", ");
    const what = this.actions === "pull" ? "to tell of" : "to take";
    const message = `${host} refuses ${what} ${path}:${tag} (${words})`;
    if (transient.has(status) && !isFull(status, text)) {
      const busy = "The registry is busy or restarts: run the command again in a while.";
      const hint = status === 500 ? this.wayOut(status, text) : busy;
      const error = new TransientError("environment", message, { hint });
      error.pauseSeconds = parseRetryAfter(headers);
      return error;
    }
    return new PipelineError("environment", message, { hint: this.wayOut(status, text) });
  }

  private wayOut(status: number, text: string): string {
    const { registry, path } = this.reference;
    if (isFull(status, text))
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

/** docker-registry has a full disk as status 500, with the system's words in the error's detail. */
function isFull(status: number, text: string): boolean {
  return status === 413 || status === 507 || /no space left|quota/i.test(text);
}

async function authorize(
  request: HttpRequest,
  authorization: Promise<string> | undefined,
): Promise<HttpRequest> {
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
