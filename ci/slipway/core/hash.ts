/** SHA-256, as ids, digests and checksums are written. */
import { closeSync, openSync, readSync } from "node:fs";

/** In hex. */
export function sha256(content: string | Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(content).digest("hex");
}

/** As registries and image configs write it, `sha256:…`. */
export function digestOf(content: string | Uint8Array): string {
  return `sha256:${sha256(content)}`;
}

/** Whether it has the form of such a digest. https://github.com/opencontainers/image-spec/blob/v1.1.0/descriptor.md#digests */
export function isDigest(text: unknown): text is string {
  return typeof text === "string" && /^sha256:[0-9a-f]{64}$/.test(text);
}

/** Of a file, in hex. In pieces that stay in the processor's cache: a stream takes a quarter longer. */
export function sha256OfFile(path: string): string {
  const hash = new Bun.CryptoHasher("sha256");
  const piece = new Uint8Array(1 << 18);
  const file = openSync(path, "r");
  try {
    for (let got: number; (got = readSync(file, piece)) > 0;) hash.update(piece.subarray(0, got));
  } finally {
    closeSync(file);
  }
  return hash.digest("hex");
}
