/**
 * Writes tar headers with fixed fields, so that layers are reproducible. Bun.Archive sets its own modes and the date.
 *
 * Format: POSIX.1-1988 ustar, pax(1). tar-reader.ts reads it.
 */
export interface TarHeader {
  /** Path without a leading slash, of at most 255 bytes. A directory ends in a slash. See split() for long paths. */
  path: string;
  type: "file" | "directory";
  mode: number;
  /** Size of the content in bytes. */
  size: number;
}

const BLOCK_BYTES = 512;

/** Creates the header of an entry, 512 bytes with owner 0:0 and time 0. */
export function tarHeader({ path, type, mode, size }: TarHeader): Uint8Array {
  const header = Buffer.alloc(BLOCK_BYTES);
  const [prefix, name] = split(path);
  const octal = (value: number, offset: number, width: number) =>
    header.write(value.toString(8).padStart(width - 1, "0") + "\0", offset, "latin1");
  header.write(name, 0);
  octal(mode, 100, 8);
  octal(0, 108, 8); // uid
  octal(0, 116, 8); // gid
  octal(size, 124, 12);
  octal(0, 136, 12); // mtime
  header.write(type === "file" ? "0" : "5", 156);
  header.write("ustar\x0000", 257, "latin1");
  header.write(prefix, 345);
  header.write(tarChecksum(header).toString(8).padStart(6, "0") + "\0 ", 148, "latin1");
  return header;
}

/** Splits a path into the prefix field (155 bytes) and the name field (100 bytes) of a header. POSIX.1-1988. */
function split(path: string): [prefix: string, name: string] {
  const bytes = Buffer.from(path);
  if (bytes.length <= 100) return ["", path];
  // The name is as long as possible. The final slash of a directory is no split point.
  const at = bytes.indexOf("/", bytes.length - 101);
  if (at <= 0 || at > 155 || at === bytes.length - 1) throw new RangeError(`${path} is too long for a tar header`);
  return [bytes.toString("utf8", 0, at), bytes.toString("utf8", at + 1)];
}

/** Returns the zeros that fill the last block of a file of `size` bytes. */
export function tarPadding(size: number): Uint8Array {
  return new Uint8Array((BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES);
}

/** End of an archive, two blocks of zeros. */
export const TAR_END = new Uint8Array(2 * BLOCK_BYTES);

/** Sums a header's bytes. The checksum field counts as spaces. */
export function tarChecksum(header: Buffer): number {
  return header.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}
