/**
 * Reads the headers of tar archives, strictly. The time does not depend on the size of the files.
 *
 * Entries that readers interpret differently are refused by name, so that all readers see the same files.
 *
 * Formats: POSIX ustar and pax, https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, and GNU,
 * https://www.gnu.org/software/tar/manual/html_node/Standard.html. The reference reader is Go's archive/tar, which
 * containerd, podman, skopeo and docker use.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { tarChecksum, tarPadding, type TarHeader } from "./tar-writer.ts";

export interface TarEntry extends Omit<TarHeader, "type"> {
  type: TarHeader["type"] | "symbolic link" | "hard link" | "special file";
  /** Target of a link. */
  link?: string;
  uid: number;
  gid: number;
  /** Seconds since 1970. */
  mtime: number;
  /** Offset of the content in the tar file. */
  offset: number;
}

const BLOCK_BYTES = 512;
/** A layer with a whole distribution has about 30,000 entries. */
const MAX_ENTRIES = 100_000;
/** Limit of a pax header or a long name. */
const MAX_EXTENSION_BYTES = 1 << 20;
/** Limit of the zeros at the end. Writers pad to a record, usually of 10 kB. */
const MAX_PADDING_BYTES = 1 << 20;

/** Type flags of a header. */
const types: Record<string, TarEntry["type"]> = {
  "\0": "file",
  0: "file",
  1: "hard link",
  2: "symbolic link",
  3: "special file",
  4: "special file",
  5: "directory",
  6: "special file",
};

/** Type bits that some writers add to the mode. Go's FileInfo() reads the type from them. */
const modes: Partial<Record<TarEntry["type"], number>> = {
  file: 0o100000,
  directory: 0o040000,
  "symbolic link": 0o120000,
};

/** Fields of the next entry that an extension header overrides. */
type Extended = Partial<Pick<TarEntry, "path" | "link" | "size" | "uid" | "gid" | "mtime">>;

/**
 * Lists a tar file.
 *
 * @param start @param end range of the file, for a tar inside another tar. Default: the whole file
 * @throws {Error} if it is not a tar file, is truncated, or has an entry that readers interpret differently
 */
export function readTar(path: string, start = 0, end?: number): TarEntry[] {
  return readFile(path, start, end, false);
}

/** Lists a tar file like readTar(), but refuses extensions (pax, GNU's long names) and a missing end marker. */
export function readPlainTar(path: string): TarEntry[] {
  return readFile(path, 0, undefined, true);
}

function readFile(path: string, start: number, end: number | undefined, plain: boolean): TarEntry[] {
  const file = openSync(path, "r");
  try {
    const read = (at: number, length: number) => {
      const bytes = Buffer.alloc(length);
      return bytes.subarray(0, readSync(file, bytes, 0, length, at));
    };
    return new Reader(path, read, start, end ?? fstatSync(file).size, plain).list();
  } finally {
    closeSync(file);
  }
}

/** Lists a tar in memory like readTar(). @param name its name in errors */
export function listTar(name: string, bytes: Uint8Array): TarEntry[] {
  const read = (at: number, length: number) => Buffer.from(bytes.subarray(at, at + length));
  return new Reader(name, read, 0, bytes.length, false).list();
}

class Reader {
  constructor(
    private readonly name: string,
    private readonly read: (at: number, length: number) => Buffer,
    private readonly start: number,
    private readonly end: number,
    private readonly plain: boolean,
  ) {}

  list(): TarEntry[] {
    const entries: TarEntry[] = [];
    let extended: Extended | undefined;
    for (let at = this.start; ;) {
      if (at === this.end && !this.plain && !extended) return entries;
      const header = this.block(at);
      if (isZero(header)) {
        if (extended) throw this.truncated();
        this.checkEnd(at);
        return entries;
      }
      this.checkHeader(header, at);
      const type = header.toString("latin1", 156, 157);
      if ("xgLK".includes(type)) {
        const size = octal(header, 124, 12);
        if (this.plain) throw this.invalid(textOf(header, 0, 100), "is an extension (pax, GNU)");
        if (!(size <= MAX_EXTENSION_BYTES)) throw this.invalid(textOf(header, 0, 100), "is an extension of over 1 MiB");
        extended = { ...extended, ...this.extension(type, this.content(at + BLOCK_BYTES, size)) };
        at += BLOCK_BYTES + size + tarPadding(size).length;
        continue;
      }
      const entry = this.entry(header, at, extended ?? {});
      extended = undefined;
      entries.push(entry);
      if (entries.length > MAX_ENTRIES) throw new Error(`${this.name} has more than ${MAX_ENTRIES} entries`);
      at = entry.offset + entry.size + tarPadding(entry.size).length;
    }
  }

  private entry(header: Buffer, at: number, extended: Extended): TarEntry {
    const ustar = header[262] === 0;
    const prefix = ustar ? textOf(header, 345, 155) : "";
    const path = extended.path ?? (prefix && `${prefix}/`) + textOf(header, 0, 100);
    const character = header.toString("latin1", 156, 157);
    // Old formats mark a directory by a trailing slash only.
    const type = character === "\0" && path.endsWith("/") ? "directory" : types[character];
    const invalid = (reason: string) => this.invalid(path, reason);
    if (!type) throw invalid(`has the unsupported type ${JSON.stringify(character)}`);
    if (path === "" || path.split("/").includes("..")) throw invalid("is not a path below the root");
    const number = (field: string, offset: number, width: number, min = 0) => {
      const value = octal(header, offset, width);
      if (!(Number.isSafeInteger(value) && value >= min)) throw invalid(`has an invalid ${field}`);
      return value;
    };
    const size = extended.size ?? number("size", 124, 12);
    const offset = at + BLOCK_BYTES;
    if (size > 0 && type !== "file") throw invalid(`has a size, but is a ${type}`);
    if (size > this.end - offset) throw invalid(`is truncated, its size is ${size} bytes`);
    const mode = number("mode", 100, 8);
    const typeInMode = mode & 0o170000;
    if (typeInMode !== 0 && modes[type] !== undefined && typeInMode !== modes[type])
      throw invalid(`is a ${type}, but has the mode of another type`);
    // Checked only because Go refuses headers with invalid device numbers.
    for (const at of [329, 337]) number("device", at, 8);
    const link = extended.link ?? textOf(header, 157, 100);
    if (type.endsWith("link") && link === "") throw invalid(`is a ${type} without a target`);
    return {
      path,
      type,
      mode: mode & 0o7777,
      uid: extended.uid ?? number("uid", 108, 8),
      gid: extended.gid ?? number("gid", 116, 8),
      size,
      mtime: extended.mtime ?? number("time", 136, 12, -Infinity),
      offset,
      ...(link && { link }),
    };
  }

  private extension(type: string, content: Buffer): Extended {
    const text = content.toString().replace(/\0+$/, "");
    if (type === "L") return { path: text };
    if (type === "K") return { link: text };
    const extended: Extended = {};
    for (const [key, value] of this.paxRecords(content)) {
      // Readers apply global headers differently, or ignore them.
      if (type === "g" && key !== "comment") throw this.invalid(key, "is set for all entries (pax)");
      if (key.startsWith("GNU.sparse.")) throw this.invalid(key, "belongs to a sparse file (pax)");
      if (value === "") continue;
      if (key === "path") extended.path = value;
      else if (key === "linkpath") extended.link = value;
      else if (key === "size" || key === "uid" || key === "gid") {
        if (!/^\d{1,15}$/.test(value)) throw this.invalid(key, "is not a number (pax)");
        extended[key] = Number(value);
      } else if (key === "mtime") {
        if (!/^-?\d{1,12}(\.\d*)?$/.test(value)) throw this.invalid(key, "is not a time (pax)");
        extended.mtime = Math.floor(Number(value));
      }
    }
    return extended;
  }

  /** Parses records of the form `<length of the record> <key>=<value>\n`. */
  private *paxRecords(content: Buffer): Generator<[string, string]> {
    for (let at = 0; at < content.length;) {
      const [, digits] = /^(\d{1,7}) /.exec(content.toString("latin1", at, at + 8)) ?? [];
      const next = at + Number(digits);
      const record = digits ? content.toString("utf8", at + digits.length + 1, next) : "";
      const middle = record.indexOf("=");
      if (next > content.length || middle < 1 || !record.endsWith("\n") || record.includes("\0"))
        throw new Error(`${this.name} is damaged: a pax header has an invalid record`);
      yield [record.slice(0, middle), record.slice(middle + 1, -1)];
      at = next;
    }
  }

  private checkHeader(header: Buffer, at: number): void {
    const magic = header.toString("latin1", 257, 265);
    if (!magic.startsWith("ustar")) throw new Error(`${this.name} is not a tar file`);
    if (octal(header, 148, 8) !== tarChecksum(header)) {
      throw new Error(`${this.name} is damaged: the checksum of the header at byte ${at - this.start} does not match`);
    }
    // The `star` format has other fields after the prefix. Image archives use short names without a prefix.
    const rest = header.subarray(this.plain ? 345 : 500);
    if (!["ustar\x0000", "ustar  \0"].includes(magic) || !isZero(rest))
      throw this.invalid(textOf(header, 0, 100), "is in a dialect of tar that image tools do not write");
  }

  /** Checks that the end consists of at least two blocks of zeros, and only of zeros. */
  private checkEnd(at: number): void {
    if (this.plain && at + 2 * BLOCK_BYTES > this.end) throw this.truncated();
    if (this.end - at > MAX_PADDING_BYTES)
      throw new Error(`${this.name} has more than ${MAX_PADDING_BYTES} bytes after its end`);
    if (!isZero(this.content(at, this.end - at)))
      throw new Error(`${this.name} is damaged: it has data after its end, byte ${at - this.start}`);
  }

  private block(at: number): Buffer {
    return this.content(at, BLOCK_BYTES);
  }

  private content(at: number, length: number): Buffer {
    const bytes = at + length <= this.end ? this.read(at, length) : Buffer.of();
    if (bytes.length < length) throw this.truncated();
    return bytes;
  }

  private truncated = () => new Error(`${this.name} is truncated`);
  private invalid = (entry: string, reason: string) => new Error(`${this.name}: entry ${entry} ${reason}`);
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

function textOf(header: Buffer, offset: number, length: number): string {
  return header.toString("utf8", offset, offset + length).replace(/\0.*$/s, "");
}

/** Parses a number of a header: octal digits, or GNU's binary format for large numbers. @returns NaN if invalid */
function octal(header: Buffer, offset: number, width: number): number {
  const field = header.subarray(offset, offset + width);
  if (field[0]! & 0x80) {
    const value = BigInt(`0x${field.toString("hex")}`);
    // The first bit marks the binary format, the second is the sign.
    return Number(BigInt.asIntN(width * 8 - 1, value));
  }
  const text = /^[ \0]*([0-7]*)[ \0]*$/.exec(field.toString("latin1"))?.[1];
  return text === undefined ? NaN : parseInt(text || "0", 8);
}
