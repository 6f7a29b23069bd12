/**
 * Identifies the package and version of the image's C library, for advisory lookups.
 *
 * On Debian and its derivatives, dpkg knows the exact package revision. Elsewhere only the library's release is known.
 */
import { basename, join, relative } from "node:path";
import type { RuntimeLibraries } from "./image-spec.ts";

export interface LibcPackage {
  /** Name of the package, `libc6`, or `glibc` if the package is unknown. */
  name: string;
  version: string;
  /** Source of name and version, and their limits, as text for the SBOM. */
  origin: string;
  purl: string;
  /** Paths in the image of the files that are known to be part of it. */
  files: Set<string>;
}

/** dpkg's name for glibc, on both amd64 and arm64. */
const PACKAGE = "libc6";

/** @returns undefined if neither dpkg nor the library names a version, for example with musl */
export async function identifyLibcPackage(runtime: RuntimeLibraries): Promise<LibcPackage | undefined> {
  const distribution = await readDistribution(runtime.root);
  return (await identifyByDpkg(runtime, distribution)) ?? (await identifyByContent(runtime, distribution));
}

interface Distribution {
  /** For example `debian`, `ubuntu` or `fedora`. */
  id: string;
  /** ID with the version, if there is one: `debian-12`. */
  release: string;
}

/** Reads etc/os-release. https://www.freedesktop.org/software/systemd/man/latest/os-release.html */
async function readDistribution(root: string): Promise<Distribution> {
  const text = await readText(join(root, "etc/os-release"));
  const value = (key: string) => new RegExp(`^${key}=["']?([^"'\n]*)`, "m").exec(text)?.[1];
  const id = value("ID") ?? "linux";
  return { id, release: [id, value("VERSION_ID") ?? []].flat().join("-") };
}

/**
 * Identifies the installed package if the path and MD5 of at least one file are on dpkg's list.
 *
 * A library that was installed by other means is therefore not reported as the package.
 */
async function identifyByDpkg(
  { platform: { architecture }, files, root }: RuntimeLibraries,
  { id, release }: Distribution,
): Promise<LibcPackage | undefined> {
  const dpkg = join(root, "var/lib/dpkg");
  const stanza = (await readText(join(dpkg, "status"))).split("\n\n").find((text) => {
    const has = (field: string, value: string) => new RegExp(`^${field}: ${value}$`, "m").test(text);
    return has("Package", PACKAGE) && has("Architecture", architecture) && has("Status", "\\S+ \\S+ installed");
  });
  const field = (name: string) => new RegExp(`^${name}: (\\S+)`, "m").exec(stanza ?? "")?.[1];
  const version = field("Version");
  if (!version) return undefined;
  // Each line is an MD5, two spaces, and a path without the leading slash.
  const list = (await readText(join(dpkg, `info/${PACKAGE}:${architecture}.md5sums`))).split("\n");
  const listed = new Set(list);
  const packageFiles = new Set<string>();
  for (const [path, source] of files) {
    const hash = new Bun.CryptoHasher("md5").update(await Bun.file(source).bytes()).digest("hex");
    const relativePath = relative(root, source);
    // If /lib is a link to /usr/lib, the list can still have the old path.
    const candidates = [relativePath, relativePath.replace(/^usr\//, "")];
    if (candidates.some((candidate) => listed.has(`${hash}  ${candidate}`))) packageFiles.add(path);
  }
  if (packageFiles.size === 0) return undefined;
  const qualifiers = {
    arch: architecture,
    distro: release,
    // The source package, because Debian's advisories name it. Scanners read it from this qualifier.
    // https://github.com/anchore/syft/blob/main/syft/pkg/cataloger/debian/package.go
    upstream: field("Source") ?? PACKAGE,
  };
  return {
    name: PACKAGE,
    version,
    origin: `dpkg's package on ${release}, its files match dpkg's checksums`,
    purl: purl("deb", [id, PACKAGE], version, qualifiers),
    files: packageFiles,
  };
}

/** Reads the version from the banner in libc.so.6, `GNU C Library (…) stable release version 2.36.` */
async function identifyByContent(
  { files }: RuntimeLibraries,
  { release }: Distribution,
): Promise<LibcPackage | undefined> {
  const [path, source] = [...files].find(([path]) => basename(path) === "libc.so.6") ?? [];
  if (!path || !source) return undefined;
  const text = Buffer.from(await Bun.file(source).bytes()).toString("latin1");
  const version = /GNU C Library \([^)\0]*\) (?:stable|development) release version ([\d.]*\d)/.exec(text)?.[1];
  if (!version) return undefined;
  return {
    name: "glibc",
    version,
    origin: `the release that ${path} names, the package of ${release} and its fixes are unknown`,
    purl: purl("generic", ["glibc"], version),
    files: new Set([path]),
  };
}

/**
 * Formats a package URL. https://github.com/package-url/purl-spec/blob/main/PURL-SPECIFICATION.rst
 *
 * @param path optional namespace, and name
 * @param qualifiers sorted by name
 */
export function purl(type: string, path: string[], version: string, qualifiers: Record<string, string> = {}): string {
  // encodeURIComponent() encodes colons, but the specification does not.
  const encode = (text: string) => encodeURIComponent(text).replaceAll("%3A", ":");
  const query = Object.entries(qualifiers).map(([name, value]) => `${name}=${encode(value)}`);
  return `pkg:${[type, ...path.map(encode)].join("/")}@${encode(version)}${query.length > 0 ? `?${query.join("&")}` : ""}`;
}

/** Reads a file as text. Returns an empty string if it cannot be read. */
function readText(path: string): Promise<string> {
  return Bun.file(path)
    .text()
    .catch(() => "");
}
