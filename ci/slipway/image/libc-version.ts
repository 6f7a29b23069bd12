/**
 * Which release of the C library the image carries: what an advisory is looked up by. On Debian and its kin dpkg knows,
 * to the revision that a fix came with; elsewhere the library itself names its release, and no more than that.
 */
import { basename, join, relative } from "node:path";
import type { RuntimeLibraries } from "./image-spec.ts";

export interface CLibrary {
  /** The package, `libc6`; where that is not known, `glibc`. */
  name: string;
  version: string;
  /** A sentence on where name and version are from, and what they do not say. */
  origin: string;
  purl: string;
  /** The files of the image that are known to be of it, by their paths there. */
  files: Set<string>;
}

/** dpkg's name for glibc, on amd64 and arm64 alike. */
const PACKAGE = "libc6";

/** @returns undefined when neither a package manager nor the files tell, as with musl */
export async function identifyLibc(runtime: RuntimeLibraries): Promise<CLibrary | undefined> {
  const distribution = await readDistribution(runtime.root);
  return (await fromDpkg(runtime, distribution)) ?? (await fromItself(runtime, distribution));
}

interface Distribution {
  /** `debian`, `ubuntu`, `fedora`. */
  id: string;
  /** With its version, where it has one: `debian-12`. */
  release: string;
}

/** https://www.freedesktop.org/software/systemd/man/latest/os-release.html */
async function readDistribution(system: string): Promise<Distribution> {
  const text = await readText(join(system, "etc/os-release"));
  const value = (key: string) => new RegExp(`^${key}=["']?([^"'\n]*)`, "m").exec(text)?.[1];
  const id = value("ID") ?? "linux";
  return { id, release: [id, value("VERSION_ID") ?? []].flat().join("-") };
}

/**
 * The installed package, when at least one file is what dpkg unpacked: its path and its MD5 are on dpkg's list. A library
 * that was put there by other means is not passed off as the package.
 */
async function fromDpkg(
  { platform: { architecture }, files, root: system }: RuntimeLibraries,
  { id, release }: Distribution,
): Promise<CLibrary | undefined> {
  const dpkg = join(system, "var/lib/dpkg");
  const stanza = (await readText(join(dpkg, "status"))).split("\n\n").find((text) => {
    const has = (field: string, value: string) => new RegExp(`^${field}: ${value}$`, "m").test(text);
    return (
      has("Package", PACKAGE) && has("Architecture", architecture) && has("Status", "\\S+ \\S+ installed")
    );
  });
  const field = (name: string) => new RegExp(`^${name}: (\\S+)`, "m").exec(stanza ?? "")?.[1];
  const version = field("Version");
  if (!version) return undefined;
  // A line is an MD5, two spaces, a path without the leading slash.
  const list = (await readText(join(dpkg, `info/${PACKAGE}:${architecture}.md5sums`))).split("\n");
  const unpacked = new Set(list);
  const own = new Set<string>();
  for (const [path, source] of files) {
    const hash = new Bun.CryptoHasher("md5").update(await Bun.file(source).bytes()).digest("hex");
    const place = relative(system, source);
    // Where /lib has become a link to /usr/lib, the list may still have the path from before.
    const places = [place, place.replace(/^usr\//, "")];
    if (places.some((place) => unpacked.has(`${hash}  ${place}`))) own.add(path);
  }
  if (own.size === 0) return undefined;
  const qualifiers = {
    arch: architecture,
    distro: release,
    // The source package: what Debian's advisories are about, and where scanners look for its name.
    // https://github.com/anchore/syft/blob/main/syft/pkg/cataloger/debian/package.go
    upstream: field("Source") ?? PACKAGE,
  };
  return {
    name: PACKAGE,
    version,
    origin: `dpkg's package on ${release}; its files are those that dpkg unpacked`,
    purl: purl("deb", [id, PACKAGE], version, qualifiers),
    files: own,
  };
}

/** glibc's libc.so.6 holds the line that it prints when it is run, `GNU C Library (…) stable release version 2.36.` */
async function fromItself(
  { files }: RuntimeLibraries,
  { release }: Distribution,
): Promise<CLibrary | undefined> {
  const [path, source] = [...files].find(([path]) => basename(path) === "libc.so.6") ?? [];
  if (!path || !source) return undefined;
  const text = Buffer.from(await Bun.file(source).bytes()).toString("latin1");
  const version = /GNU C Library \([^)\0]*\) (?:stable|development) release version ([\d.]*\d)/.exec(
    text,
  )?.[1];
  if (!version) return undefined;
  return {
    name: "glibc",
    version,
    origin: `the release that ${path} names; which package of ${release} it is from, and what was fixed in that, is not known`,
    purl: purl("generic", ["glibc"], version),
    files: new Set([path]),
  };
}

/**
 * A package URL. https://github.com/package-url/purl-spec/blob/main/PURL-SPECIFICATION.rst
 *
 * @param path namespace, if there is one, and name
 * @param qualifiers in the order of their names
 */
export function purl(
  type: string,
  path: string[],
  version: string,
  qualifiers: Record<string, string> = {},
): string {
  // The one character that encodeURIComponent() encodes and the specification does not.
  const encode = (text: string) => encodeURIComponent(text).replaceAll("%3A", ":");
  const query = Object.entries(qualifiers).map(([name, value]) => `${name}=${encode(value)}`);
  return `pkg:${[type, ...path.map(encode)].join("/")}@${encode(version)}${query.length > 0 ? `?${query.join("&")}` : ""}`;
}

/** A file's text; of a file that is not there, the empty one. */
function readText(path: string): Promise<string> {
  return Bun.file(path)
    .text()
    .catch(() => "");
}
