/** Images of two small files, for tests that need no build. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readImage, type ImageContent } from "../../slipway/image/compare.ts";
import { image, join as joinParts, part } from "../../slipway/test/edit-tar.ts";

interface SmallImage {
  library?: string;
  /** Octal mode of the library. */
  mode?: string;
  binary?: string;
  name?: string;
  store?: (layer: Uint8Array) => Uint8Array;
}

/** Writes an image with the files /lib/libc and /helloapp, and reads it. */
export async function smallImage({
  library = "the C library",
  mode = "0755",
  binary = "the binary",
  ...options
}: SmallImage = {}): Promise<ImageContent> {
  const layers = [[part("lib/libc", library, { 100: `000${mode}\0` })], [part("helloapp", binary)]];
  const directory = await mkdtemp(join(tmpdir(), "helloapp-test-"));
  try {
    const path = join(directory, "image.tar");
    await writeFile(path, joinParts(image(layers, options)));
    return await readImage(path);
  } finally {
    await rm(directory, { recursive: true });
  }
}
