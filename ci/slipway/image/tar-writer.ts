/**
 * Tar archives as image layers need them: every field fixed, so that the same files give the same bytes.
 * (Bun.Archive sets its own modes and today's date.) Format: POSIX.1-1988 ustar, pax(1). They are read in untar.ts.
 */
export interface TarHeader {
  /** Path without a leading slash; a directory ends in one. At most 255 bytes, and those behind a slash at most 100. */
  path: string;
  type: "file" | "directory";
  mode: number;
  /** Bytes of content. */
  size: number;
}

const BLOCK = 512;

/** The 512 bytes in front of a file's content: owner 0:0, time 0. */
export function tarHeader({ path, type, mode, size }: TarHeader): Uint8Array {
  const header = Buffer.alloc(BLOCK);
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

/** The field of a header for the start of a path that is too long for its name, and the rest; POSIX.1-1988. */
function split(path: string): [prefix: string, name: string] {
  const bytes = Buffer.from(path);
  if (bytes.length <= 100) return ["", path];
  // As much as can be into the name. Not at the slash that ends a directory.
  const at = bytes.indexOf("/", bytes.length - 101);
  if (at <= 0 || at > 155 || at === bytes.length - 1)
    throw new RangeError(`${path} is longer than what a tar header can hold`);
  return [bytes.toString("utf8", 0, at), bytes.toString("utf8", at + 1)];
}

/** Zero bytes that fill the last block of a file of `size` bytes. */
export function tarPadding(size: number): Uint8Array {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

/** The end of an archive: two blocks of zeros. */
export const TAR_END = new Uint8Array(2 * BLOCK);

/** The sum of a header's bytes, with the field of the checksum full of spaces. */
export function tarChecksum(header: Buffer): number {
  return header.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}
