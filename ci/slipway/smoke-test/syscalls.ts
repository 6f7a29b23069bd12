/** The few system calls for which there is no program that every machine has. */
import { dlopen, read } from "bun:ffi";
import { readFileSync } from "node:fs";
import { getSystemErrorName } from "node:util";

/** Of linux/mount.h. */
export const flags = {
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

/** Of linux/if.h, linux/sockios.h, linux/socket.h. */
const IFF_UP_LOOPBACK_RUNNING = 0x1 | 0x8 | 0x40;
const [SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK] = [0x8914, 0x8916, 0x891c];
const [AF_INET, SOCK_DGRAM] = [2, 2];
/** sizeof(struct ifreq), and where its union begins. */
const [IFREQ_BYTES, IFREQ_UNION] = [40, 16];

const c = dlopen("libc.so.6", {
  mount: { args: ["ptr", "ptr", "ptr", "u64", "ptr"], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  sethostname: { args: ["ptr", "u64"], returns: "i32" },
  close: { args: ["i32"], returns: "i32" },
  __errno_location: { args: [], returns: "ptr" },
}).symbols;

function must(result: number, what: string): number {
  if (result >= 0) return result;
  const code = read.i32(c.__errno_location()!, 0);
  throw new Error(`${what}: ${getSystemErrorName(-code)}`);
}

const text = (value: string) => Buffer.from(`${value}\0`);

/** mount(2). @throws {Error} naming target and errno */
export function mount(source: string, target: string, type: string, how = 0, data = ""): void {
  must(c.mount(text(source), text(target), text(type), how, text(data)), `mounting ${target}`);
}

/** Makes a bind mount read-only. What it has of other restrictions it keeps: another user's cannot be taken off. */
export function makeReadOnly(target: string): void {
  // mountinfo of proc(5): the fifth field is the place, the sixth its options; the last line for a place is the top one.
  const lines = readFileSync("/proc/self/mountinfo", "utf8").split("\n");
  const line = lines.findLast((line) => line.split(" ")[4] === target);
  const kept = (line?.split(" ")[5] ?? "")
    .split(",")
    .reduce((sum, name) => sum | (flags[name as keyof typeof flags] ?? 0), 0);
  mount("none", target, "", flags.remount | flags.bind | flags.rdonly | kept);
}

/** Brings the loopback interface up, with a further address that is not a loopback's. */
export function configureLoopback(address: string): void {
  const socket = must(c.socket(AF_INET, SOCK_DGRAM, 0), "a socket");
  const request = (code: number, name: string, fill: (request: Buffer) => void) => {
    const bytes = Buffer.alloc(IFREQ_BYTES);
    bytes.write(name);
    fill(bytes);
    must(c.ioctl(socket, code, bytes), `setting up ${name}`);
  };
  const inet = (address: string) => (bytes: Buffer) => {
    bytes.writeUInt16LE(AF_INET, IFREQ_UNION);
    bytes.set(address.split(".").map(Number), IFREQ_UNION + 4);
  };
  request(SIOCSIFFLAGS, "lo", (bytes) => bytes.writeUInt16LE(IFF_UP_LOOPBACK_RUNNING, IFREQ_UNION));
  request(SIOCSIFADDR, "lo:1", inet(address));
  request(SIOCSIFNETMASK, "lo:1", inet("255.255.255.255"));
  c.close(socket);
}

/** Names this UTS namespace. */
export function setHostname(name: string): void {
  must(c.sethostname(text(name), Buffer.byteLength(name)), "naming the host");
}

/** TCP ports of this network namespace that somebody listens on, `0.0.0.0:8080`. */
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

/** Four bytes in the machine's order each, little-endian here. proc(5) */
function describeAddress(hex: string): string {
  if (/^0+$/.test(hex)) return hex.length === 8 ? "0.0.0.0" : "[::]";
  const bytes = [...Buffer.from(hex, "hex")];
  if (bytes.length === 4) return bytes.reverse().join(".");
  const [, mapped] = /^0{16}FFFF0000(.{8})$/.exec(hex) ?? [];
  return mapped ? describeAddress(mapped) : hex === `${"0".repeat(24)}01000000` ? "[::1]" : `[${hex}]`;
}
