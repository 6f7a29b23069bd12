/**
 * The SBOM beside the image in the registry: a manifest of its own that names the image as its subject, so that whoever
 * has the image's digest finds it (`oras discover`, `regctl artifact list`).
 *
 * Format: OCI image specification 1.1, https://github.com/opencontainers/image-spec/blob/v1.1.0/manifest.md, "Guidelines
 * for Artifact Usage". A registry that knows subjects says so when it takes one; for the others the client keeps the list:
 * https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pushing-manifests-with-subject.
 */
import { PipelineError } from "../core/errors.ts";
import { digestOf } from "../core/hash.ts";
import { SBOM } from "../image/sbom.ts";
import { ociTypes, type Descriptor, type Index, type Repository } from "./repository.ts";

const sbomType = "application/vnd.cyclonedx+json";

/** What stands for a config where there is none: an empty JSON object. */
const empty = new TextEncoder().encode("{}");
const emptyType = "application/vnd.oci.empty.v1+json";

/**
 * Attaches an SBOM to an image, unless this very one is attached already.
 *
 * @param subject the image's manifest, which is in the repository
 * @param path the SBOM, CycloneDX in JSON
 * @returns the digest of its manifest, and whether it was sent
 * @throws {PipelineError} "environment": no such file, registry not reached, credentials, space
 */
export async function attachSbom(
  repository: Repository,
  subject: Descriptor,
  path: string,
): Promise<{ digest: string; sent: boolean }> {
  const content = await Bun.file(path)
    .bytes()
    .catch((cause: unknown) => {
      throw new PipelineError("environment", `there is no SBOM at ${path}`, {
        hint: "`bun ci/pipeline.ts image` writes the archive, and the SBOM beside it.",
        cause,
      });
    });
  const config = describe(emptyType, empty);
  const layer = describe(sbomType, content);
  const manifest = encode({
    schemaVersion: 2,
    mediaType: ociTypes.manifest,
    artifactType: sbomType,
    config,
    // The name under which a client stores it.
    layers: [{ ...layer, annotations: { "org.opencontainers.image.title": SBOM } }],
    subject,
  });
  const referrer = { ...describe(ociTypes.manifest, manifest), artifactType: sbomType };
  const { digest } = referrer;
  const lists = (index: Index | undefined) => index?.manifests.some((one) => one.digest === digest) ?? false;

  const listed = await repository.referrers(subject.digest, sbomType);
  if (lists(listed ?? (await fallbackList(repository, subject)))) return { digest, sent: false };

  await Promise.all([repository.sendBlob(config.digest, empty), repository.sendBlob(layer.digest, content)]);
  const { linked } = await repository.putManifest(manifest, ociTypes.manifest, digest);
  if (!linked) {
    // Read as late as can be: another client may add to the list, and the protocol has no lock for it.
    const { manifests = [], ...rest } = (await fallbackList(repository, subject)) ?? {};
    if (!lists({ manifests })) {
      const index = {
        schemaVersion: 2,
        mediaType: ociTypes.index,
        ...rest,
        manifests: [...manifests, referrer],
      };
      await repository.putManifest(encode(index), ociTypes.index, fallbackTag(subject));
    }
  }
  return { digest, sent: true };
}

/** The tag under which clients keep the list for a registry that does not: `sha256-<hex>`. */
function fallbackTag({ digest }: Descriptor): string {
  return digest.replace(":", "-");
}

/** @throws {PipelineError} when something other than a list stands there: the specification says to leave it alone */
async function fallbackList(repository: Repository, subject: Descriptor): Promise<Index | undefined> {
  const tag = fallbackTag(subject);
  const found = await repository.manifest(tag);
  if (!found) return undefined;
  const { manifests } = found.content;
  if (!manifests)
    throw new PipelineError(
      "environment",
      `the registry's tag ${tag} is no list of what refers to the image`,
      {
        hint: "Who put it there? Without that tag the SBOM can be attached.",
      },
    );
  return { ...found.content, manifests };
}

function describe(mediaType: string, bytes: Uint8Array): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}

function encode(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(value));
}
