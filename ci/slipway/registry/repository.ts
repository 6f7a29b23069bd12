/**
 * Reads and writes blobs and manifests in a repository of an OCI registry.
 *
 * Protocol: OCI distribution specification 1.1, https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
 */
import { digestOf, isDigest } from "../core/hash.ts";
import type { HttpRequest } from "./http-client.ts";
import { isTransient, Transport } from "./authorized-requests.ts";

const UPLOAD_TIMEOUT_SECONDS = 600;

export const ociMediaTypes = {
  manifest: "application/vnd.oci.image.manifest.v1+json",
  index: "application/vnd.oci.image.index.v1+json",
};

/** Types that a tag can have: manifest and index, of OCI and of Docker. */
const manifestTypes = [
  ociMediaTypes.manifest,
  ociMediaTypes.index,
  "application/vnd.docker.distribution.manifest.v2+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
];

/** Reference to a blob or manifest. */
export interface Descriptor {
  mediaType: string;
  digest: string;
  /** In bytes. */
  size: number;
  artifactType?: string;
}

export interface Index {
  manifests: Descriptor[];
}

/** The relevant keys of a manifest or an index. */
export interface Manifest extends Partial<Index> {
  config?: { digest: string };
  layers?: { digest: string }[];
}

/** Every method throws a PipelineError "environment" if the registry cannot be reached, refuses, or is faulty. */
export class Repository extends Transport {
  /** Returns the digest of the reference's tag, or undefined if the tag does not exist. */
  async digest(): Promise<string | undefined> {
    const url = this.manifestUrl();
    const reply = await this.retry(() => this.requestIfExists(url, { method: "HEAD", headers: accept }));
    // The header is optional. https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests
    const digest = reply?.headers.get("docker-content-digest");
    if (typeof digest === "string") return this.checkDigest(digest);
    return reply && (await this.manifest())?.descriptor.digest;
  }

  /**
   * Reads a manifest or an index.
   *
   * @param name a tag or a digest. Default: the reference's tag
   * @returns undefined if it does not exist
   */
  async manifest(name?: string): Promise<{ descriptor: Descriptor; content: Manifest } | undefined> {
    const reply = await this.retry(() => this.requestIfExists(this.manifestUrl(name), { headers: accept }));
    if (!reply) return undefined;
    const digest = digestOf(reply.body);
    this.compareDigest(digest, reply);
    const content = this.json<Manifest & { mediaType?: string }>(reply);
    // `mediaType` is optional in OCI manifests. The Content-Type header is the fallback.
    const mediaType = content.mediaType ?? reply.headers.get("content-type") ?? ociMediaTypes.manifest;
    return { descriptor: { mediaType, digest, size: reply.body.length }, content };
  }

  /**
   * Writes a manifest or an index.
   *
   * @param name a tag or the digest. Default: the reference's tag
   * @returns the digest, and whether the registry has linked the manifest to its subject
   */
  async putManifest(
    manifest: Uint8Array<ArrayBuffer>,
    type: string,
    name?: string,
  ): Promise<{ digest: string; linked: boolean }> {
    const digest = digestOf(manifest);
    const request: HttpRequest = { method: "PUT", headers: { "Content-Type": type }, body: manifest };
    const reply = await this.retry(() => this.request(this.manifestUrl(name), request));
    this.compareDigest(digest, reply);
    return { digest, linked: reply.headers.has("oci-subject") };
  }

  /**
   * Lists the manifests of a type whose subject has this digest.
   *
   * https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers. The specification demands
   * 404 without support, but older registries and proxies reply differently to unknown paths.
   *
   * @returns undefined if the registry does not support referrers
   */
  async referrers(digest: string, artifactType: string): Promise<Index | undefined> {
    const url = this.url(`referrers/${digest}`);
    url.searchParams.set("artifactType", artifactType);
    const reply = await this.retry(async () => {
      const reply = await this.sendAuthorized(url, { headers: { Accept: ociMediaTypes.index } });
      if (isTransient(reply.status)) throw this.rejection(url.host, reply);
      return reply;
    });
    const isIndex = reply.headers.get("content-type")?.startsWith(ociMediaTypes.index);
    if (!reply.ok || !isIndex) return undefined;
    return { manifests: this.json<Partial<Index>>(reply).manifests ?? [] };
  }

  /** Reads a blob. Returns undefined if it does not exist. */
  async blob(digest: string): Promise<Uint8Array | undefined> {
    const url = this.url(`blobs/${this.checkDigest(digest)}`);
    const reply = await this.retry(() => this.requestIfExists(url, {}));
    if (!reply) return undefined;
    const actual = digestOf(reply.body);
    if (actual !== digest) throw this.error(`returned ${actual} for ${digest}`);
    return reply.body;
  }

  async hasBlob(digest: string): Promise<boolean> {
    return this.retry(() => this.checkBlob(digest));
  }

  /** Uploads a blob, unless the registry has it. @returns whether it was sent */
  async sendBlob(digest: string, body: Uint8Array<ArrayBuffer>): Promise<boolean> {
    // A retry starts a new upload, because the URL of a broken upload is invalid.
    return this.retry(async () => {
      if (await this.checkBlob(digest)) return false;
      const start = await this.request(this.url("blobs/uploads/"), { method: "POST" });
      const value = start.headers.get("location");
      const location = value && URL.parse(value, start.url);
      if (!location) throw this.error("started an upload without a Location header");
      // searchParams would re-encode the rest of the query, which can be signed.
      location.search += `${location.search ? "&" : "?"}digest=${encodeURIComponent(digest)}`;
      const headers = { "Content-Type": "application/octet-stream" };
      const timeoutSeconds = UPLOAD_TIMEOUT_SECONDS;
      this.compareDigest(digest, await this.request(location, { method: "PUT", headers, body, timeoutSeconds }));
      return true;
    }, UPLOAD_TIMEOUT_SECONDS);
  }

  private async checkBlob(digest: string): Promise<boolean> {
    const url = this.url(`blobs/${this.checkDigest(digest)}`);
    const reply = await this.requestIfExists(url, { method: "HEAD" });
    if (reply) this.compareDigest(digest, reply);
    return reply !== undefined;
  }

  /** Checks the form of a digest from the registry, because it becomes part of URLs and manifests. */
  private checkDigest(digest: string): string {
    if (isDigest(digest)) return digest;
    throw this.error(`returned "${digest}", which is not a digest (sha256: and 64 hex digits)`);
  }

  private url(rest: string): URL {
    return new URL(`/v2/${this.reference.path}/${rest}`, this.reference.origin);
  }

  private manifestUrl(name = this.reference.tag): URL {
    return this.url(`manifests/${name}`);
  }
}

const accept = { Accept: manifestTypes.join(", ") };
