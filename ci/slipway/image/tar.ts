/**
 * Tar archives as image layers need them: every field fixed, so that the same files give the same bytes.
 * (Bun.Archive sets its own modes and today's date.) Format: POSIX.1-1988 ustar, pax(1).
 */
import { closeSync, openSync, readSync } from "node:fs";

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
  header.write(checksum(header).toString(8).padStart(6, "0") + "\0 ", 148, "latin1");
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
export const tarEnd = new Uint8Array(2 * BLOCK);

export interface TarEntry extends Omit<TarHeader, "type"> {
  type: TarHeader["type"] | "symbolic link" | "hard link" | "special file";
  /** Of a link: what it names. */
  link?: string;
  uid: number;
  gid: number;
  /** Seconds since 1970. */
  mtime: number;
  /** Where the content starts in the file. */
  offset: number;
}

/** What stands in a header for the type of an entry; 0 and "" are files. */
const types: Record<string, TarEntry["type"]> = {
  "": "file",
  0: "file",
  1: "hard link",
  2: "symbolic link",
  5: "directory",
};

/**
 * Lists a tar file: headers only, so that a large archive is no slower than a small one. Plain ustar and GNU, without
 * the extensions for long names and sparse files, which image archives do not use.
 *
 * @param start @param end the part of the file that holds the tar, for one inside another
 * @throws {Error} when it is not a tar file
 */
export function readTar(path: string, start = 0, end = Infinity): TarEntry[] {
  const file = openSync(path, "r");
  try {
    return list(path, (header, at) => readSync(file, header, 0, BLOCK, at), start, end);
  } finally {
    closeSync(file);
  }
}

/** As readTar(), of one in memory. @param name what an error calls it */
export function listTar(name: string, bytes: Uint8Array): TarEntry[] {
  const read = (header: Buffer, at: number) => {
    const block = bytes.subarray(at, at + BLOCK);
    header.set(block);
    return block.length;
  };
  return list(name, read, 0, bytes.length);
}

function list(
  name: string,
  read: (header: Buffer, at: number) => number,
  start: number,
  end: number,
): TarEntry[] {
  const entries: TarEntry[] = [];
  const header = Buffer.alloc(BLOCK);
  for (let at = start; at < end;) {
    if (read(header, at) < BLOCK) throw new Error(`${name} is not a whole tar file`);
    if (header.every((byte) => byte === 0)) break;
    if (header.toString("latin1", 257, 262) !== "ustar") throw new Error(`${name} is not a tar file`);
    const text = (offset: number, length: number) =>
      header.toString("utf8", offset, offset + length).replace(/\0.*$/s, "");
    const octal = (offset: number, length: number) => parseInt(text(offset, length).trim() || "0", 8);
    if (octal(148, 8) !== checksum(header)) {
      throw new Error(`${name} is damaged: the header at byte ${at - start} does not have its own checksum`);
    }
    const size = octal(124, 12);
    const link = text(157, 100);
    entries.push({
      path: text(0, 100),
      type: types[text(156, 1)] ?? "special file",
      // Some writers put the type of the file in front of the permissions.
      mode: octal(100, 8) & 0o7777,
      uid: octal(108, 8),
      gid: octal(116, 8),
      size,
      mtime: octal(136, 12),
      offset: at + BLOCK,
      ...(link && { link }),
    });
    at += BLOCK + size + tarPadding(size).length;
  }
  return entries;
}

/** The sum of a header's bytes, with the field of the checksum full of spaces. */
function checksum(header: Buffer): number {
  return header.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : byte), 0);
}
