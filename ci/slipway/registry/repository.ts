/**
 * One repository of an OCI registry: its blobs and manifests over HTTP.
 *
 * Protocol: OCI distribution specification 1.1, https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
 */
import { digestOf, isDigest } from "../core/hash.ts";
import type { HttpRequest } from "./http.ts";
import { isTransient, Transport } from "./transport.ts";

/** Seconds that an upload may take. */
const UPLOAD_SECONDS = 600;

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

/** Every method throws a PipelineError "environment" when the registry cannot be reached, refuses, or is wrong. */
export class Repository extends Transport {
  /** The digest under the reference's tag; undefined when there is none. */
  async digest(): Promise<string | undefined> {
    const url = this.manifestUrl();
    const reply = await this.persist(() => this.ask(url, { method: "HEAD", headers: accept }));
    // The header is not a must. https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests
    const given = reply?.headers.get("docker-content-digest");
    if (typeof given === "string") return this.checked(given);
    return reply && (await this.manifest())?.descriptor.digest;
  }

  /**
   * What stands under a name; undefined when there is nothing.
   *
   * @param name a tag or a digest; default: the reference's tag
   */
  async manifest(name?: string): Promise<{ descriptor: Descriptor; content: Manifest } | undefined> {
    const reply = await this.persist(() => this.ask(this.manifestUrl(name), { headers: accept }));
    if (!reply) return undefined;
    const digest = digestOf(reply.body);
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
    const digest = digestOf(manifest);
    const request: HttpRequest = { method: "PUT", headers: { "Content-Type": type }, body: manifest };
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
      if (isTransient(reply.status)) throw this.refusal(url.host, reply);
      return reply;
    });
    const isIndex = reply.headers.get("content-type")?.startsWith(ociTypes.index);
    if (!reply.ok || !isIndex) return undefined;
    return { manifests: this.json<Partial<Index>>(reply).manifests ?? [] };
  }

  /** A blob's content; undefined when it is not there. */
  async blob(digest: string): Promise<Uint8Array | undefined> {
    const url = this.url(`blobs/${this.checked(digest)}`);
    const reply = await this.persist(() => this.ask(url, {}));
    if (!reply) return undefined;
    const actual = digestOf(reply.body);
    if (actual !== digest) throw this.error(`gives ${actual} for ${digest}`);
    return reply.body;
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
    }, UPLOAD_SECONDS);
  }

  private async blobIsThere(digest: string): Promise<boolean> {
    const reply = await this.ask(this.url(`blobs/${this.checked(digest)}`), { method: "HEAD" });
    if (reply) this.compare(digest, reply);
    return reply !== undefined;
  }

  /** What a registry calls a digest becomes a part of addresses and of manifests. */
  private checked(digest: string): string {
    if (isDigest(digest)) return digest;
    throw this.error(`names something "${digest}" that is no digest (sha256: and 64 hex digits)`);
  }

  private url(rest: string): URL {
    return new URL(`/v2/${this.reference.path}/${rest}`, this.reference.origin);
  }

  private manifestUrl(name = this.reference.tag): URL {
    return this.url(`manifests/${name}`);
  }
}

const accept = { Accept: manifestTypes.join(", ") };
