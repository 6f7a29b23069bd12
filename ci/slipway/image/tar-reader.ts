/**
 * Reads tar archives: headers only, so that a large archive is no slower than a small one, and strictly. What two readers
 * would read differently is refused, with the entry's name: then nobody is shown another file than this one saw.
 *
 * Format: POSIX ustar and pax, https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html; GNU,
 * https://www.gnu.org/software/tar/manual/html_node/Standard.html. What readers do with it: Go's archive/tar, which
 * containerd, podman, skopeo and docker use.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { tarChecksum, tarPadding, type TarHeader } from "./tar-writer.ts";

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

const BLOCK = 512;
/** Entries of one tar; a layer with a whole distribution has some 30,000. */
const MOST_ENTRIES = 100_000;
/** Bytes of a pax header or a long name, and of zeros after the end: writers fill up to a record, mostly of 10 kB. */
const MOST_EXTRA = 1 << 20;

/** What stands in a header for the type of an entry. */
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

/** The type as some writers put it in front of the permissions, where Go's FileInfo() takes it from. */
const modes: Partial<Record<TarEntry["type"], number>> = {
  file: 0o100000,
  directory: 0o040000,
  "symbolic link": 0o120000,
};

/** What extensions say of the entry after them. */
type Extended = Partial<Pick<TarEntry, "path" | "link" | "size" | "uid" | "gid" | "mtime">>;

/**
 * Lists a tar file.
 *
 * @param start @param end the part of the file that holds the tar, for one inside another; default: all of it
 * @throws {Error} when it is not a tar file, a cut one, or has an entry that readers would not agree on
 */
export function readTar(path: string, start = 0, end?: number): TarEntry[] {
  return readFile(path, start, end, false);
}

/** As readTar(), without what no image archive has: extensions (pax, GNU's long names), or a missing end. */
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

/** As readTar(), of one in memory. @param name what an error calls it */
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
        if (extended) throw this.cut();
        this.checkEnd(at);
        return entries;
      }
      this.checkHeader(header, at);
      const type = header.toString("latin1", 156, 157);
      if ("xgLK".includes(type)) {
        const size = octal(header, 124, 12);
        if (this.plain) throw this.wrong(textOf(header, 0, 100), "is an extension (pax, GNU)");
        if (!(size <= MOST_EXTRA)) throw this.wrong(textOf(header, 0, 100), "is an extension of over 1 MiB");
        extended = { ...extended, ...this.extension(type, this.content(at + BLOCK, size)) };
        at += BLOCK + size + tarPadding(size).length;
        continue;
      }
      const entry = this.entry(header, at, extended ?? {});
      extended = undefined;
      entries.push(entry);
      if (entries.length > MOST_ENTRIES)
        throw new Error(`${this.name} has more than ${MOST_ENTRIES} entries`);
      at = entry.offset + entry.size + tarPadding(entry.size).length;
    }
  }

  private entry(header: Buffer, at: number, extended: Extended): TarEntry {
    const ustar = header[262] === 0;
    const prefix = ustar ? textOf(header, 345, 155) : "";
    const path = extended.path ?? (prefix && `${prefix}/`) + textOf(header, 0, 100);
    const character = header.toString("latin1", 156, 157);
    // What is old has no type for a directory, but a slash.
    const type = character === "\0" && path.endsWith("/") ? "directory" : types[character];
    const wrong = (what: string) => this.wrong(path, what);
    if (!type)
      throw wrong(`has the type ${JSON.stringify(character)}, which layers and archives do not have`);
    if (path === "" || path.split("/").includes("..")) throw wrong("is no path below the root");
    const number = (what: string, offset: number, width: number, least = 0) => {
      const value = octal(header, offset, width);
      if (!(Number.isSafeInteger(value) && value >= least)) throw wrong(`has a ${what} that is no number`);
      return value;
    };
    const size = extended.size ?? number("size", 124, 12);
    const offset = at + BLOCK;
    if (size > 0 && type !== "file") throw wrong(`has a size, but is a ${type}`);
    if (size > this.end - offset) throw wrong(`has ${size} bytes, more than are left: it is cut`);
    const mode = number("mode", 100, 8);
    const typeInMode = mode & 0o170000;
    if (typeInMode !== 0 && modes[type] !== undefined && typeInMode !== modes[type])
      throw wrong(`is a ${type}, and something else by its mode`);
    // Nobody needs them, but Go takes no header without them.
    for (const at of [329, 337]) number("device", at, 8);
    const link = extended.link ?? textOf(header, 157, 100);
    if (type.endsWith("link") && link === "") throw wrong(`is a ${type} to nothing`);
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
      // Readers do not agree on what holds for all entries after it, or drop it.
      if (type === "g" && key !== "comment") throw this.wrong(key, "is set for all entries (pax)");
      if (key.startsWith("GNU.sparse.")) throw this.wrong(key, "is a sparse file's (pax)");
      if (value === "") continue;
      if (key === "path") extended.path = value;
      else if (key === "linkpath") extended.link = value;
      else if (key === "size" || key === "uid" || key === "gid") {
        if (!/^\d{1,15}$/.test(value)) throw this.wrong(key, "is no number (pax)");
        extended[key] = Number(value);
      } else if (key === "mtime") {
        if (!/^-?\d{1,12}(\.\d*)?$/.test(value)) throw this.wrong(key, "is no time (pax)");
        extended.mtime = Math.floor(Number(value));
      }
    }
    return extended;
  }

  /** Records are `<bytes of all of it> <key>=<value>\n`. */
  private *paxRecords(content: Buffer): Generator<[string, string]> {
    for (let at = 0; at < content.length;) {
      const [, digits] = /^(\d{1,7}) /.exec(content.toString("latin1", at, at + 8)) ?? [];
      const next = at + Number(digits);
      const record = digits ? content.toString("utf8", at + digits.length + 1, next) : "";
      const middle = record.indexOf("=");
      if (next > content.length || middle < 1 || !record.endsWith("\n") || record.includes("\0"))
        throw new Error(`${this.name} is damaged: a pax header has a record that is none`);
      yield [record.slice(0, middle), record.slice(middle + 1, -1)];
      at = next;
    }
  }

  private checkHeader(header: Buffer, at: number): void {
    const magic = header.toString("latin1", 257, 265);
    if (!magic.startsWith("ustar")) throw new Error(`${this.name} is not a tar file`);
    if (octal(header, 148, 8) !== tarChecksum(header)) {
      throw new Error(
        `${this.name} is damaged: the header at byte ${at - this.start} does not have its own checksum`,
      );
    }
    // A file of star's has other fields behind the name's prefix; the names of an image archive need none.
    const rest = header.subarray(this.plain ? 345 : 500);
    if (!["ustar\x0000", "ustar  \0"].includes(magic) || !isZero(rest))
      throw this.wrong(textOf(header, 0, 100), "is in a dialect of tar that image tools do not write");
  }

  /** Two blocks of zeros, and then nothing but zeros. */
  private checkEnd(at: number): void {
    if (this.plain && at + 2 * BLOCK > this.end) throw this.cut();
    if (this.end - at > MOST_EXTRA)
      throw new Error(`${this.name} has more than ${MOST_EXTRA} bytes after its end`);
    if (!isZero(this.content(at, this.end - at)))
      throw new Error(`${this.name} is damaged: there is something after its end, byte ${at - this.start}`);
  }

  private block(at: number): Buffer {
    return this.content(at, BLOCK);
  }

  private content(at: number, length: number): Buffer {
    const bytes = at + length <= this.end ? this.read(at, length) : Buffer.of();
    if (bytes.length < length) throw this.cut();
    return bytes;
  }

  private cut = () => new Error(`${this.name} is not a whole tar file`);
  private wrong = (entry: string, what: string) => new Error(`${this.name}: its entry ${entry} ${what}`);
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

function textOf(header: Buffer, offset: number, length: number): string {
  return header.toString("utf8", offset, offset + length).replace(/\0.*$/s, "");
}

/** A number of a header: octal digits; or, as GNU writes what is too large for them, binary. @returns NaN: none */
function octal(header: Buffer, offset: number, width: number): number {
  const field = header.subarray(offset, offset + width);
  if (field[0]! & 0x80) {
    const value = BigInt(`0x${field.toString("hex")}`);
    // The first bit only says that it is binary, the second is the sign.
    return Number(BigInt.asIntN(width * 8 - 1, value));
  }
  const text = /^[ \0]*([0-7]*)[ \0]*$/.exec(field.toString("latin1"))?.[1];
  return text === undefined ? NaN : parseInt(text || "0", 8);
}
