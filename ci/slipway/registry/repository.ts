/**
 * One repository of an OCI registry: its blobs and manifests over HTTP, with authentication, deadlines and retries.
 *
 * Protocol: OCI distribution specification 1.1, https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md;
 * tokens: https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/.
 *
 * Credentials go to the registry and to the token endpoint that it names, over https or on this machine, and nowhere
 * else: not to where an upload's Location points, and fetch() drops Authorization from a redirect to another origin.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { app } from "../app.ts";
import { PipelineError } from "../ground/errors.ts";
import { findCredentials } from "./credentials.ts";

/** Seconds that an upload may take. */
const UPLOAD_SECONDS = 600;
/** How often something is tried that a moment's failure can prevent. */
const TRIES = 3;
/** Statuses of a moment: too many requests, and a proxy without the registry behind it. */
const transient = new Set([429, 502, 503, 504]);

export const ociTypes = {
  manifest: "application/vnd.oci.image.manifest.v1+json",
  index: "application/vnd.oci.image.index.v1+json",
};

/** What may stand under a tag: OCI's manifest and index, and the same two of Docker's. */
const manifestTypes = [
  ociTypes.manifest,
  ociTypes.index,
  "application/vnd.docker.distribution.manifest.v2+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
];

export interface RegistryOptions {
  signal: AbortSignal;
  say?(line: string): void;
  /** Seconds that a request may take; an upload may take ten minutes. Default 30. */
  patienceSeconds?: number;
  /** Seconds before a second try, where the registry asks for no other pause. Default 1. */
  pauseSeconds?: number;
}

/** An image's name, taken apart. */
export interface Reference {
  /** As it was written, `docker.io` or `localhost:5001`. */
  registry: string;
  /** The registry's address. */
  origin: string;
  path: string;
  tag: string;
}

/** How one thing in a registry names another. */
export interface Descriptor {
  mediaType: string;
  digest: string;
  /** In bytes. */
  size: number;
  artifactType?: string;
}

/** A list of manifests. */
export interface Index {
  manifests: Descriptor[];
}

/** A manifest or an index, as far as it matters here. */
export interface Manifest extends Partial<Index> {
  config?: { digest: string };
  layers?: { digest: string }[];
}

interface Request {
  method?: "GET" | "HEAD" | "POST" | "PUT";
  headers?: Record<string, string>;
  body?: Uint8Array<ArrayBuffer> | URLSearchParams;
  redirect?: "manual";
  seconds?: number;
}

interface Reply extends Pick<Response, "status" | "ok" | "headers" | "url"> {
  body: Uint8Array;
}

/** A failure that may be gone in a moment. */
class TransientError extends PipelineError {
  /** Seconds to wait, where the registry named them. */
  pauseSeconds: number | undefined;
}

/** SHA-256 as registries write it, `sha256:…`. */
export function digestBytes(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

/** Every method throws a PipelineError "surroundings" when the registry cannot be reached, refuses, or is wrong. */
export class Repository {
  private authorization: Promise<string> | undefined;
  /** Whether credentials were found, for the sentence about a refusal. */
  private hasCredentials = false;
  private readonly signal: AbortSignal;

  /** @param actions what to ask a token for */
  constructor(
    private readonly reference: Reference,
    private readonly actions: "pull" | "pull,push",
    private readonly options: RegistryOptions,
  ) {
    this.signal = options.signal;
  }

  /** The digest under the reference's tag; undefined when there is none. */
  async digest(): Promise<string | undefined> {
    const url = this.manifestUrl();
    const reply = await this.persist(() => this.ask(url, { method: "HEAD", headers: accept }));
    // The header is not a must. https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests
    return (
      reply && (reply.headers.get("docker-content-digest") ?? (await this.manifest())?.descriptor.digest)
    );
  }

  /**
   * What stands under a name; undefined when there is nothing.
   *
   * @param name a tag or a digest; default: the reference's tag
   */
  async manifest(name?: string): Promise<{ descriptor: Descriptor; content: Manifest } | undefined> {
    const reply = await this.persist(() => this.ask(this.manifestUrl(name), { headers: accept }));
    if (!reply) return undefined;
    const digest = digestBytes(reply.body);
    this.compare(digest, reply);
    const content = this.json<Manifest & { mediaType?: string }>(reply);
    // OCI's manifests may leave it out, and are then what the registry says of them.
    const mediaType = content.mediaType ?? reply.headers.get("content-type") ?? ociTypes.manifest;
    return { descriptor: { mediaType, digest, size: reply.body.length }, content };
  }

  /**
   * @param name a tag or the digest; default: the reference's tag
   * @returns the digest; and whether the registry has noted which manifest this one refers to
   */
  async putManifest(
    manifest: Uint8Array<ArrayBuffer>,
    type: string,
    name?: string,
  ): Promise<{ digest: string; linked: boolean }> {
    const digest = digestBytes(manifest);
    const request: Request = { method: "PUT", headers: { "Content-Type": type }, body: manifest };
    const reply = await this.persist(() => this.must(this.manifestUrl(name), request));
    this.compare(digest, reply);
    return { digest, linked: reply.headers.has("oci-subject") };
  }

  /**
   * The manifests of a type that refer to the one with this digest; undefined when the registry does not keep account.
   *
   * https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers; 404 is what it asks for, but
   * registries and proxies of before have had other answers to a path that they do not know.
   */
  async referrers(digest: string, artifactType: string): Promise<Index | undefined> {
    const url = this.url(`referrers/${digest}`);
    url.searchParams.set("artifactType", artifactType);
    const reply = await this.persist(async () => {
      const reply = await this.authorized(url, { headers: { Accept: ociTypes.index } });
      if (transient.has(reply.status)) throw this.refusal(url.host, reply);
      return reply;
    });
    const isIndex = reply.headers.get("content-type")?.startsWith(ociTypes.index);
    if (!reply.ok || !isIndex) return undefined;
    return { manifests: this.json<Partial<Index>>(reply).manifests ?? [] };
  }

  async hasBlob(digest: string): Promise<boolean> {
    return this.persist(() => this.blobIsThere(digest));
  }

  /** Sends a blob, unless the registry has it. @returns whether it was sent */
  async sendBlob(digest: string, body: Uint8Array<ArrayBuffer>): Promise<boolean> {
    // A second try begins at the beginning: an upload that broke has no address any more.
    return this.persist(async () => {
      if (await this.blobIsThere(digest)) return false;
      const start = await this.must(this.url("blobs/uploads/"), { method: "POST" });
      const given = start.headers.get("location");
      const location = given && URL.parse(given, start.url);
      if (!location) throw this.error("starts an upload without saying where (no Location)");
      // Not with searchParams: that would write the rest of the query anew, and it may be signed.
      location.search += `${location.search ? "&" : "?"}digest=${encodeURIComponent(digest)}`;
      const headers = { "Content-Type": "application/octet-stream" };
      this.compare(
        digest,
        await this.must(location, { method: "PUT", headers, body, seconds: UPLOAD_SECONDS }),
      );
      return true;
    });
  }

  private async blobIsThere(digest: string): Promise<boolean> {
    const reply = await this.ask(this.url(`blobs/${digest}`), { method: "HEAD" });
    if (reply) this.compare(digest, reply);
    return reply !== undefined;
  }

  private url(rest: string): URL {
    return new URL(`/v2/${this.reference.path}/${rest}`, this.reference.origin);
  }

  private manifestUrl(name = this.reference.tag): URL {
    return this.url(`manifests/${name}`);
  }

  /** A request whose answer may be that there is no such thing: then undefined. */
  private async ask(url: URL, request: Request): Promise<Reply | undefined> {
    const reply = await this.authorized(url, request);
    if (reply.status === 404) return undefined;
    if (!reply.ok) throw this.refusal(url.host, reply);
    return reply;
  }

  private async must(url: URL, request: Request): Promise<Reply> {
    const reply = await this.authorized(url, request);
    if (!reply.ok) throw this.refusal(url.host, reply);
    return reply;
  }

  /** Repeats what failed for a reason that may have passed. */
  private async persist<T>(attempt: () => Promise<T>): Promise<T> {
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
  private async authorized(url: URL, request: Request): Promise<Reply> {
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
        client_id: app.name,
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
  private compare(digest: string, reply: Reply): void {
    const given = reply.headers.get("docker-content-digest");
    if (given === null || given === digest) return;
    throw this.error(`says ${given} of what is ${digest}`, {
      hint: "Something on the way changes what passes through it, or the registry's storage is damaged.",
    });
  }

  private json<T>({ body, url }: Reply): T {
    try {
      return Object(JSON.parse(Buffer.from(body).toString()));
    } catch {
      // Without the cause: a parser's message quotes what it could not parse, and that may be a token.
      throw this.error(`answers with something other than JSON (from ${new URL(url).host})`);
    }
  }

  private error(message: string, options: { hint?: string } = {}): PipelineError {
    return new PipelineError("surroundings", `${this.reference.registry} ${message}`, options);
  }

  /** Says what was refused, by whom, in the registry's own words, and what to do about it. */
  private refusal(host: string, { status, headers, body }: Reply): PipelineError {
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

const accept = { Accept: manifestTypes.join(", ") };

async function authorize(request: Request, authorization: Promise<string> | undefined): Promise<Request> {
  if (!authorization) return request;
  return { ...request, headers: { ...request.headers, Authorization: await authorization } };
}

/** Whether a URL's host is this machine itself; URL has normalised it already. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
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
