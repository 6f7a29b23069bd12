/**
 * Reads the loader, the needed libraries and the build ID from an ELF file.
 *
 * The file is never run, so files of other architectures work too. Only 64-bit little-endian files are supported, which
 * is the format of Bun. Layout: System V ABI, chapters 4 and 5.
 */
import { closeSync, openSync, readSync } from "node:fs";
import type { Architecture } from "./architecture.ts";

export interface Elf {
  architecture: Architecture;
  /** Path of the loader (PT_INTERP). Libraries have none. */
  interpreter: string | undefined;
  /** Names of the linked libraries (DT_NEEDED). */
  needed: string[];
  /** The linker's hash of the build (NT_GNU_BUILD_ID), in hex. */
  buildId: string | undefined;
}

const machines: Record<number, Architecture> = { 62: "amd64", 183: "arm64" };
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PT_NOTE = 4;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const NT_GNU_BUILD_ID = 3;

/** @throws {Error} if the file is not a 64-bit little-endian ELF file of an architecture that Bun supports */
export function readElf(path: string): Elf {
  const file = openSync(path, "r");
  try {
    return parse(path, (offset, length) => {
      const bytes = Buffer.alloc(length);
      const got = readSync(file, bytes, 0, length, offset);
      return bytes.subarray(0, got);
    });
  } finally {
    closeSync(file);
  }
}

/** Returns the offset of the last segment that is loaded, or undefined if the bytes are no 64-bit little-endian ELF file. */
export function findLastSegment(bytes: Uint8Array): number | undefined {
  try {
    const read = (offset: number, length: number) => Buffer.from(bytes.subarray(offset, offset + length));
    const offsets = readSegments(readHeader("", read), read).flatMap(({ type, offset }) =>
      type === PT_LOAD ? offset : [],
    );
    return offsets.length > 0 ? Math.max(...offsets) : undefined;
  } catch {
    return undefined;
  }
}

type Read = (offset: number, length: number) => Buffer;

function readHeader(path: string, read: Read): Buffer {
  const header = read(0, 64);
  if (header.length < 64 || header.readUInt32BE(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1) {
    throw new Error(`${path} is not a 64-bit little-endian ELF file`);
  }
  return header;
}

function readSegments(header: Buffer, read: Read) {
  const [size, count] = [header.readUInt16LE(54), header.readUInt16LE(56)];
  const table = read(number(header, 32), size * count);
  return Array.from({ length: count }, (_, i) => {
    const at = i * size;
    return {
      type: table.readUInt32LE(at),
      offset: number(table, at + 8),
      address: number(table, at + 16),
      length: number(table, at + 32),
    };
  });
}

function parse(path: string, read: Read): Elf {
  const header = readHeader(path, read);
  const machine = header.readUInt16LE(18);
  const architecture = machines[machine];
  if (!architecture) throw new Error(`${path} is for an unknown architecture (ELF machine ${machine})`);
  const segments = readSegments(header, read);
  const bytesOf = (type: number) => segments.filter((s) => s.type === type).map((s) => read(s.offset, s.length));

  const dynamic = bytesOf(PT_DYNAMIC)[0] ?? Buffer.alloc(0);
  const tags = Array.from({ length: dynamic.length / 16 }, (_, i) => ({
    tag: number(dynamic, i * 16),
    value: number(dynamic, i * 16 + 8),
  }));
  const strings = tags.find(({ tag }) => tag === DT_STRTAB)?.value ?? 0;
  const stringSegment = segments.find(
    (s) => s.type === PT_LOAD && strings >= s.address && strings < s.address + s.length,
  );
  const string = (offset: number) =>
    cString(read(strings - (stringSegment?.address ?? 0) + (stringSegment?.offset ?? 0) + offset, 256));

  const interpreter = bytesOf(PT_INTERP)[0];
  return {
    architecture,
    interpreter: interpreter && cString(interpreter),
    needed: tags.filter(({ tag }) => tag === DT_NEEDED).map(({ value }) => string(value)),
    buildId: bytesOf(PT_NOTE).map(buildId).find(Boolean),
  };
}

function buildId(notes: Buffer): string | undefined {
  for (let at = 0; at + 12 <= notes.length;) {
    const [nameLength, length, type] = [0, 4, 8].map((offset) => notes.readUInt32LE(at + offset)) as [
      number,
      number,
      number,
    ];
    const start = at + 12 + align(nameLength);
    if (type === NT_GNU_BUILD_ID && cString(notes.subarray(at + 12)) === "GNU") {
      return notes.subarray(start, start + length).toString("hex");
    }
    at = start + align(length);
  }
}

const align = (length: number) => Math.ceil(length / 4) * 4;
const number = (bytes: Buffer, offset: number) => Number(bytes.readBigUInt64LE(offset));
const cString = (bytes: Buffer) => bytes.toString("latin1", 0, Math.max(0, bytes.indexOf(0)));
