/** Compares the images that the host and the Dagger engine build from the same source. */
import type { Service } from "../../slipway/core/resolve-service.ts";
import { diffImages, filesInLayers, formatThousands, type ImageContent } from "../../slipway/image/compare.ts";
import { createImageSpec } from "../../slipway/image/image-spec.ts";

/**
 * Compares two images bit for bit if they have the same ID, otherwise without file contents.
 *
 * The engines may use different C libraries. The ID then differs, and so does the binary, which contains the ID.
 *
 * @returns a sentence for each unexpected difference, and a summary of the comparison
 */
export function compareEngines(
  service: Service,
  host: ImageContent,
  dagger: ImageContent,
): { differences: string[]; summary: string } {
  if (host.names.join() === dagger.names.join())
    return { differences: diffImages(host, dagger), summary: "equal, bit for bit" };
  const [hostFiles, daggerFiles] = [filesInLayers(host.layers), filesInLayers(dagger.layers)];
  const changed = [...hostFiles].flatMap(([path, { content }]) => {
    const other = daggerFiles.get(path);
    return other && Buffer.compare(content, other.content) !== 0 ? [path] : [];
  });
  const { binary } = createImageSpec(service);
  const libraries = changed.filter((path) => path !== binary);
  const reason =
    libraries.length > 0
      ? `the C library of the base image differs from this machine's (${libraries.join(", ")})`
      : "the Bun of the base image is a different build from this machine's";
  const [hostBinary, daggerBinary] = [hostFiles, daggerFiles].map((files) => files.get(binary)?.content);
  const difference =
    hostBinary && daggerBinary && hostBinary.length === daggerBinary.length
      ? `${formatThousands(countDifferingBytes(hostBinary, daggerBinary))} of ${formatThousands(hostBinary.length)} bytes`
      : "size";
  return {
    differences: diffImages(host, dagger, { content: false }),
    summary:
      "same paths, types, modes, owners, times and config. File contents are not expected to be equal: " +
      `${reason}, so the ID differs, and the binary, which contains the ID, differs in ${difference}`,
  };
}

/** Counts the differing bytes of two arrays of the same length. */
function countDifferingBytes(a: Uint8Array, b: Uint8Array): number {
  let count = 0;
  for (let at = 0; at < a.length; at += 1) if (a[at] !== b[at]) count += 1;
  return count;
}
