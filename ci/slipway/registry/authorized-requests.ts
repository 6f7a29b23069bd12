/**
 * Sends requests to an OCI registry, with authorization, timeouts, retries and explained errors.
 *
 * Credentials are sent only to the registry and to its token endpoint, over https or on this machine. They are never
 * sent to another origin in an upload's Location or a redirect.
 *
 * Tokens: https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/.
 */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import { parseChallenges } from "./challenge.ts";
import { findCredentials } from "./credentials.ts";
import { sendRequest, type HttpReply, type HttpRequest } from "./http-client.ts";
import { retryAfterSeconds } from "../core/retry-after.ts";
import { withRetry, TransientError } from "./retry.ts";
import type { Reference } from "./reference.ts";

/** Statuses that can be transient: too many requests, a server error, and a proxy without its backend. */
const transientStatuses = new Set([429, 500, 502, 503, 504]);

/** Whether a status is transient for any request. 500 is not, because it can be a reply to an unsupported request. */
export const isTransient = (status: number): boolean => status !== 500 && transientStatuses.has(status);

export interface RegistryOptions {
  signal: AbortSignal;
  log?(line: string): void;
  /** Timeout of a request. Default: 30. Uploads have 600. Attempts start within twice that time. */
  requestTimeoutSeconds?: number;
  /** Pause before the second attempt, unless the registry requests another pause. Default: 1. */
  pauseSeconds?: number;
}

const REQUEST_TIMEOUT_SECONDS = 30;

/** Every method throws a PipelineError "environment" if the registry cannot be reached, refuses, or is faulty. */
export class Transport {
  private authorization: Promise<string> | undefined;
  /** Whether credentials were found, for the hint of a rejection. */
  private hasCredentials = false;
  private readonly signal: AbortSignal;

  /** @param actions permissions that a token must have */
  constructor(
    protected readonly reference: Reference,
    private readonly actions: "pull" | "pull,push",
    private readonly options: RegistryOptions,
  ) {
    this.signal = options.signal;
  }

  /** Sends a request. Returns undefined for status 404. */
  protected async requestIfExists(url: URL, request: HttpRequest): Promise<HttpReply | undefined> {
    const reply = await this.sendAuthorized(url, request);
    if (reply.status === 404) return undefined;
    if (!reply.ok) throw this.rejection(url.host, reply);
    return reply;
  }

  /** Sends a request that must succeed. */
  protected async request(url: URL, request: HttpRequest): Promise<HttpReply> {
    const reply = await this.sendAuthorized(url, request);
    if (!reply.ok) throw this.rejection(url.host, reply);
    return reply;
  }

  /**
   * Repeats an attempt after transient failures.
   *
   * @param attemptSeconds time that one attempt may take. Default: the timeout of a request
   */
  protected retry<T>(attempt: () => Promise<T>, attemptSeconds = this.requestTimeoutSeconds): Promise<T> {
    const { signal, log, pauseSeconds } = this.options;
    return withRetry(attempt, { signal, log, pauseSeconds, retryBudgetSeconds: attemptSeconds * 2 });
  }

  private get requestTimeoutSeconds(): number {
    return this.options.requestTimeoutSeconds ?? REQUEST_TIMEOUT_SECONDS;
  }

  /** Sends a request with authorization. Handles one challenge, either the first or that of an expired token. */
  protected async sendAuthorized(url: URL, request: HttpRequest): Promise<HttpReply> {
    if (url.origin !== this.reference.origin) return this.send(url, request);
    const used = this.authorization;
    const reply = await this.send(url, await authorize(request, used));
    // A challenge of another origin, after a redirect, must not decide where credentials are sent.
    if (reply.status !== 401 || new URL(reply.url).origin !== url.origin) return reply;
    // If several requests are challenged at the same time, they share one authorization.
    if (this.authorization === used) {
      const authorization = this.createAuthorization(reply);
      this.authorization = authorization;
      authorization.catch(() => (this.authorization = used));
    }
    return this.send(url, await authorize(request, this.authorization));
  }

  /** Creates the Authorization header for a challenge. */
  private async createAuthorization(reply: HttpReply): Promise<string> {
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
      throw this.rejection(registry, reply);
    }

    const bearer = bearers.find(({ parameters }) => URL.canParse(parameters.get("realm") ?? ""));
    if (!bearer) throw this.error("requires a token, but its challenge has no realm");
    const endpoint = new URL(bearer.parameters.get("realm")!);
    const tokenParameters = {
      service: bearer.parameters.get("service") ?? "",
      // Not the challenge's scope, which is read-only for a read request, so that an upload would need another token.
      scope: `repository:${path}:${this.actions}`,
    };
    // Redirects are not followed, because the credentials are only for this endpoint.
    const request: HttpRequest = { redirect: "manual" };
    if (credentials && "identityToken" in credentials) {
      request.method = "POST";
      request.body = new URLSearchParams({
        grant_type: "refresh_token",
        client_id: "slipway",
        refresh_token: credentials.identityToken,
        ...tokenParameters,
      });
    } else {
      for (const [name, value] of Object.entries(tokenParameters)) endpoint.searchParams.set(name, value);
      if (basic) request.headers = { Authorization: basic };
    }
    const tokenReply = await this.send(endpoint, request);
    if (!tokenReply.ok) throw this.rejection(endpoint.host, tokenReply);
    // Both names are in use, and the unused key can be empty.
    const { token, access_token } = this.json<{ token?: string; access_token?: string }>(tokenReply);
    const granted = access_token || token;
    if (!granted) throw this.error(`requires a token from ${endpoint.host}, which returned none`);
    return `Bearer ${granted}`;
  }

  private send(url: URL, request: HttpRequest): Promise<HttpReply> {
    const { registry, origin } = this.reference;
    return sendRequest(url, request, {
      registry,
      isHttpsRequired: origin.startsWith("https:"),
      timeoutSeconds: request.timeoutSeconds ?? this.requestTimeoutSeconds,
      signal: this.signal,
    });
  }

  /** Checks that the digest in the registry's reply is the expected one. */
  protected compareDigest(digest: string, reply: HttpReply): void {
    const found = reply.headers.get("docker-content-digest");
    if (found === null || found === digest) return;
    throw this.error(`returned the digest ${found}, expected ${digest}`, {
      hint: "Check for a proxy that changes the content, and for damage in the registry's storage.",
    });
  }

  protected json<T>({ body, url }: HttpReply): T {
    try {
      return Object(JSON.parse(Buffer.from(body).toString()));
    } catch {
      // The cause is omitted, because a parser's message quotes the content, which can be a token.
      throw this.error(`returned a reply that is not JSON (from ${new URL(url).host})`);
    }
  }

  protected error(message: string, options: { hint?: string } = {}): PipelineError {
    return new PipelineError("environment", `${this.reference.registry} ${message}`, {
      code: "registry-invalid-response",
      ...options,
    });
  }

  /** Creates the error for a rejected request, with the registry's errors and a hint. */
  protected rejection(host: string, { status, headers, body }: HttpReply): PipelineError {
    const { path, tag } = this.reference;
    const text = Buffer.from(body).toString();
    const details = [String(status), ...registryErrors(text)].join(", ");
    const action = this.actions === "pull" ? "the lookup" : "the push";
    const message = `${host} refuses ${action} of ${path}:${tag} (${details})`;
    if (transientStatuses.has(status) && !isFull(status, text)) {
      const busy = "The registry is busy or restarting. Run the command again later.";
      const hint = status === 500 ? this.rejectionHint(status, text) : busy;
      const error = new TransientError("environment", message, { code: "registry-busy", hint });
      error.pauseSeconds = retryAfterSeconds(headers);
      return error;
    }
    return new PipelineError("environment", message, {
      code: rejectionCode(status, text),
      hint: this.rejectionHint(status, text),
    });
  }

  private rejectionHint(status: number, text: string): string {
    const { registry, path } = this.reference;
    if (isFull(status, text))
      return "Free space in the registry, or raise the request size limit of the registry or its proxy.";
    if (status === 401 || status === 403) {
      const found = this.hasCredentials
        ? `The credentials found for ${registry} do not allow this`
        : `No credentials for ${registry} were found`;
      return `${found}. Run \`podman login ${registry}\` or \`docker login ${registry}\`.`;
    }
    if (status === 404) return `Check the name ${path}. Some registries require you to create the repository first.`;
    return "Check the registry's log.";
  }
}

function rejectionCode(status: number, text: string): ErrorCode {
  if (isFull(status, text)) return "registry-full";
  if (status === 401 || status === 403) return "registry-unauthorized";
  return status === 404 ? "registry-repository-not-found" : "registry-rejected";
}

/** Whether the registry is out of space. docker-registry reports a full disk as 500, with the OS error as detail. */
function isFull(status: number, text: string): boolean {
  return status === 413 || status === 507 || /no space left|quota/i.test(text);
}

async function authorize(request: HttpRequest, authorization: Promise<string> | undefined): Promise<HttpRequest> {
  if (!authorization) return request;
  return { ...request, headers: { ...request.headers, Authorization: await authorization } };
}

/** Extracts codes and messages of an OCI error body, without control characters. */
function registryErrors(text: string): string[] {
  try {
    const { errors } = JSON.parse(text) as { errors: { code?: string; message?: string }[] };
    return errors.map(({ code, message }) => `${code}: ${message}`.replace(/\p{Cc}/gu, " ").slice(0, 200));
  } catch {
    return [];
  }
}
