/**
 * Attaches an SBOM to an image in a registry, as a manifest whose subject is the image.
 *
 * Clients find it by the image's digest (`oras discover`, `regctl artifact list`).
 *
 * Format: OCI image specification 1.1, https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md, "Guidelines
 * for Artifact Usage". A registry that supports subjects confirms them in its reply. For other registries, the client
 * maintains the list of referrers:
 * https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pushing-manifests-with-subject.
 */
import { PipelineError } from "../core/errors.ts";
import { digestOf } from "../core/hash.ts";
import { SBOM_FILE } from "../image/sbom.ts";
import { ociMediaTypes, type Descriptor, type Index, type Repository } from "./repository.ts";

const sbomType = "application/vnd.cyclonedx+json";

/** Placeholder for the config, an empty JSON object. */
const emptyConfig = new TextEncoder().encode("{}");
const emptyConfigType = "application/vnd.oci.empty.v1+json";

/**
 * Attaches an SBOM to an image, unless an identical SBOM is attached already.
 *
 * @param subject the image's manifest, which must be in the repository
 * @param path path of the SBOM, CycloneDX in JSON
 * @returns the digest of the SBOM's manifest, and whether it was sent
 * @throws {PipelineError} "environment" if the file is missing, or the registry cannot be reached, refuses the
 *   credentials, or is full
 */
export async function attachSbom(
  repository: Repository,
  subject: Descriptor,
  path: string,
): Promise<{ digest: string; sent: boolean }> {
  const content = await Bun.file(path)
    .bytes()
    .catch((cause: unknown) => {
      throw new PipelineError("environment", `SBOM ${path} not found`, {
        code: "sbom-not-found",
        hint: "Run `bun ci/pipeline.ts image` to write the archive and its SBOM.",
        cause,
      });
    });
  const config = createDescriptor(emptyConfigType, emptyConfig);
  const layer = createDescriptor(sbomType, content);
  const manifest = encode({
    schemaVersion: 2,
    mediaType: ociMediaTypes.manifest,
    artifactType: sbomType,
    config,
    // The file name that clients use for a download.
    layers: [{ ...layer, annotations: { "org.opencontainers.image.title": SBOM_FILE } }],
    subject,
  });
  const referrer = { ...createDescriptor(ociMediaTypes.manifest, manifest), artifactType: sbomType };
  const { digest } = referrer;
  const isListed = (index: Index | undefined) => index?.manifests.some((item) => item.digest === digest) ?? false;

  const referrers = await repository.referrers(subject.digest, sbomType);
  if (isListed(referrers ?? (await readFallbackList(repository, subject)))) return { digest, sent: false };

  await Promise.all([repository.sendBlob(config.digest, emptyConfig), repository.sendBlob(layer.digest, content)]);
  const { linked } = await repository.putManifest(manifest, ociMediaTypes.manifest, digest);
  if (!linked) {
    // Read as late as possible, because other clients can change the list and the protocol has no lock.
    const { manifests = [], ...rest } = (await readFallbackList(repository, subject)) ?? {};
    if (!isListed({ manifests })) {
      const index = {
        schemaVersion: 2,
        mediaType: ociMediaTypes.index,
        ...rest,
        manifests: [...manifests, referrer],
      };
      await repository.putManifest(encode(index), ociMediaTypes.index, fallbackTag(subject));
    }
  }
  return { digest, sent: true };
}

/** Returns the tag of the list in registries without referrers support, `sha256-<hex>`. */
function fallbackTag({ digest }: Descriptor): string {
  return digest.replace(":", "-");
}

/** Reads the list. @throws {PipelineError} if the tag is not a list, which the specification forbids to overwrite */
async function readFallbackList(repository: Repository, subject: Descriptor): Promise<Index | undefined> {
  const tag = fallbackTag(subject);
  const found = await repository.manifest(tag);
  if (!found) return undefined;
  const { manifests } = found.content;
  if (!manifests)
    throw new PipelineError("environment", `the registry's tag ${tag} is not a list of the image's referrers`, {
      code: "registry-referrers-tag-in-use",
      hint: "Delete the tag in the registry if it is unused, then push again.",
    });
  return { ...found.content, manifests };
}

function createDescriptor(mediaType: string, bytes: Uint8Array): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}

function encode(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(value));
}
