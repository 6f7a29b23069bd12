/** System calls that have no program on every machine. */
import { dlopen, read } from "bun:ffi";
import { readFileSync } from "node:fs";
import { getSystemErrorName } from "node:util";

/** Constants of linux/mount.h. */
export const mountFlags = {
  rdonly: 1,
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  remount: 32,
  noatime: 1024,
  nodiratime: 2048,
  bind: 4096,
  rec: 16384,
  relatime: 1 << 21,
} as const;

/** Constants of linux/if.h, linux/sockios.h and linux/socket.h. */
const IFF_UP_LOOPBACK_RUNNING = 0x1 | 0x8 | 0x40;
const [SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK] = [0x8914, 0x8916, 0x891c];
const [AF_INET, SOCK_DGRAM] = [2, 2];
/** Size of struct ifreq, and offset of its union. */
const [IFREQ_BYTES, IFREQ_UNION_OFFSET] = [40, 16];

const c = dlopen("libc.so.6", {
  mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  sethostname: { args: ["ptr", "u64"], returns: "i32" },
  close: { args: ["i32"], returns: "i32" },
  __errno_location: { args: [], returns: "ptr" },
}).symbols;

function assertSuccess(result: number, action: string): number {
  if (result >= 0) return result;
  const code = read.i32(c.__errno_location()!, 0);
  throw new Error(`${action}: ${getSystemErrorName(-code)}`);
}

const cString = (value: string) => Buffer.from(`${value}\0`);

/** Calls mount(2). @throws {Error} with target and errno if it fails */
export function mount(source: string, target: string, type: string, mountFlags = 0, data = ""): void {
  assertSuccess(
    c.mount(cString(source), cString(target), cString(type), mountFlags, cString(data)),
    `mounting ${target}`,
  );
}

/**
 * Makes a bind mount read-only. Keeps its other restrictions, because a user cannot remove another user's.
 */
export function makeReadOnly(target: string): void {
  // proc(5), mountinfo: the fifth field is the mount point, the sixth its options. The last line is the
  // topmost mount.
  const lines = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  const line = lines.findLast((line) => line.split(" ")[4] === target);
  const currentFlags = (line?.split(" ")[5] ?? "")
    .split(",")
    .reduce((sum, name) => sum | (mountFlags[name as keyof typeof mountFlags] ?? 0), 0);
  mount("none", target, "", mountFlags.remount | mountFlags.bind | mountFlags.rdonly | currentFlags);
}

/** Enables the loopback interface and adds an address outside 127.0.0.0/8. */
export function configureLoopback(address: string): void {
  const socket = assertSuccess(c.socket(AF_INET, SOCK_DGRAM, 0), "opening a socket");
  const request = (code: number, name: string, fill: (request: Buffer) => void) => {
    const bytes = Buffer.alloc(IFREQ_BYTES);
    bytes.write(name);
    fill(bytes);
    assertSuccess(c.ioctl(socket, code, bytes), `setting up ${name}`);
  };
  const inet = (address: string) => (bytes: Buffer) => {
    bytes.writeUInt16LE(AF_INET, IFREQ_UNION_OFFSET);
    bytes.set(address.split(".").map(Number), IFREQ_UNION_OFFSET + 4);
  };
  request(SIOCSIFFLAGS, "lo", (bytes) => bytes.writeUInt16LE(IFF_UP_LOOPBACK_RUNNING, IFREQ_UNION_OFFSET));
  request(SIOCSIFADDR, "lo:1", inet(address));
  request(SIOCSIFNETMASK, "lo:1", inet("255.255.255.255"));
  c.close(socket);
}

/** Sets the host name of this UTS namespace. */
export function setHostname(name: string): void {
  assertSuccess(c.sethostname(cString(name), Buffer.byteLength(name)), "setting the host name");
}

/** Lists the listening TCP sockets of this network namespace, such as `0.0.0.0:8080`. */
export function listeningPorts(): string[] {
  const LISTEN = "0A";
  return ["tcp", "tcp6"].flatMap((table) =>
    readFileSync(`/proc/self/net/${table}`, "utf8")
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === LISTEN)
      .map(([, local = ""]) => {
        const [address = "", port = ""] = local.split(":");
        return `${describeAddress(address)}:${parseInt(port, 16)}`;
      }),
  );
}

/** Formats an address of proc(5), which has groups of four bytes in little-endian order. */
function describeAddress(hex: string): string {
  if (/^0+$/.test(hex)) return hex.length === 8 ? "0.0.0.0" : "[::]";
  const bytes = [...Buffer.from(hex, "hex")];
  if (bytes.length === 4) return bytes.reverse().join(".");
  const [, mapped] = /^0{16}FFFF0000(.{8})$/.exec(hex) ?? [];
  return mapped ? describeAddress(mapped) : hex === `${"0".repeat(24)}01000000` ? "[::1]" : `[${hex}]`;
}
