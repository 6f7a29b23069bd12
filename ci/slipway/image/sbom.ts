/**
 * The image's bill of materials (SBOM): what is in the binary and in the C library's layer, for those who look up
 * advisories and licences. A scanner finds neither in the image: it has no package manager's database, and the binary's
 * packages are no files any more.
 *
 * Format: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/. The same image has the same bill, byte for byte: sorted,
 * without the time, and with a serial number that is made from the id.
 */
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { sha256OfFile } from "../core/hash.ts";
import type { Service } from "../core/service-config.ts";
import type { RuntimeLibraries } from "./image-spec.ts";
import { identifyLibc, purl } from "./libc-version.ts";

/** Name of the SBOM in the directory of a build. */
export const SBOM = "sbom.cdx.json";

/** Not pkg:oci: that takes the image's digest, which the push decides on. */
const ownPurl = ({ name, version }: Service) => purl("generic", [name], version);

/** A package whose code the bundler has put into the binary. */
export interface BundledPackage {
  name: string;
  version: string;
  /** As its package.json has it: an SPDX identifier or expression, or other words. */
  license: string | undefined;
}

/** What the SBOM is made of; the same input gives the same text. */
export interface SbomInput {
  /** The image's id. */
  id: string;
  packages: BundledPackage[];
  runtime: RuntimeLibraries;
}

/** @returns the SBOM as JSON */
export async function createSbom(service: Service, { id, packages, runtime }: SbomInput): Promise<string> {
  // No hash of the binary: it would take as long again as the rest, and the id says which one it is.
  // Loaded only here: it takes some 30 ms, in parts. As a whole it would take three times that.
  const [{ Enums, Models, Spec, SPDX, Serialize }, tool, libc] = await Promise.all([
    loadCycloneDx(),
    import("@cyclonedx/cyclonedx-library/package.json"),
    identifyLibc(runtime),
  ]);
  const licenses = (license: string | undefined) => {
    if (!license) return new Models.LicenseRepository();
    if (SPDX.isSupportedSpdxId(license))
      return new Models.LicenseRepository([new Models.SpdxLicense(license)]);
    const isExpression = / (AND|OR|WITH) /.test(license);
    return new Models.LicenseRepository([
      isExpression ? new Models.LicenseExpression(license) : new Models.NamedLicense(license),
    ]);
  };
  const hashes = (sha256: string) => new Models.HashDictionary([[Enums.HashAlgorithm["SHA-256"], sha256]]);
  const properties = (values: Record<string, string>) =>
    new Models.PropertyRepository(
      Object.entries(values).map(([key, value]) => new Models.Property(`${service.name}:${key}`, value)),
    );
  const component = (
    type: keyof typeof Enums.ComponentType,
    name: string,
    options: ConstructorParameters<typeof Models.Component>[2] = {},
  ) => new Models.Component(Enums.ComponentType[type], name, { bomRef: options.purl ?? name, ...options });

  const { name, version, description, license } = service;
  const app = component("Application", name, {
    version,
    ...(description && { description }),
    licenses: licenses(license),
    purl: ownPurl(service),
    properties: properties({ "image-id": id, platform: Object.values(runtime.platform).join("/") }),
  });
  const bundled = packages.map(({ name, version, license }) => {
    const [group, rest] = name.startsWith("@") ? name.split("/") : [];
    return component("Library", rest ?? name, {
      ...(rest && group && { group }),
      version,
      licenses: licenses(license),
      purl: purl("npm", name.split("/"), version),
    });
  });
  const platform = component("Platform", "bun", {
    version: Bun.version,
    description:
      "The runtime that is part of the binary. The licence is of Bun's own code, LICENSE.md names those of the " +
      "libraries in it.",
    licenses: licenses("MIT"),
    purl: purl("github", ["oven-sh", "bun"], `bun-v${Bun.version}`),
    properties: properties({ "bun-revision": Bun.revision, "bun-build-id": runtime.bunBuildId }),
    externalReferences: new Models.ExternalReferenceRepository([
      new Models.ExternalReference(
        `https://github.com/oven-sh/bun/blob/${Bun.revision}/LICENSE.md`,
        Enums.ExternalReferenceType.License,
      ),
    ]),
  });
  const files = [...runtime.files].map(([path, source]) =>
    component("File", path, { hashes: hashes(sha256OfFile(source)) }),
  );
  const ofLibc = ({ name }: { name: string }) => libc?.files.has(name) ?? false;
  const library =
    libc &&
    component("Library", libc.name, {
      version: libc.version,
      description: `The C library: ${libc.origin}.`,
      purl: libc.purl,
      // Most of glibc; the package's copyright file has the rest.
      licenses: licenses("LGPL-2.1-or-later"),
      components: new Models.ComponentRepository(files.filter(ofLibc)),
    });
  const linked = [...(library ? [library] : []), ...files.filter((file) => !ofLibc(file))];
  for (const { bomRef } of [platform, ...bundled]) app.dependencies.add(bomRef);
  for (const { bomRef } of linked) platform.dependencies.add(bomRef);

  const bom = new Models.Bom({
    serialNumber: serialNumber(service, id),
    metadata: new Models.Metadata({
      component: app,
      lifecycles: new Models.LifecycleRepository([Enums.LifecyclePhase.Build]),
      tools: new Models.Tools({
        components: new Models.ComponentRepository([
          component("Library", "cyclonedx-library", { group: "@cyclonedx", version: tool.default.version }),
        ]),
      }),
    }),
    components: new Models.ComponentRepository([...bundled, platform, ...linked]),
  });
  const serializer = new Serialize.JsonSerializer(new Serialize.JSON.Normalize.Factory(Spec.Spec1dot6));
  return serializer.serialize(bom, { sortLists: true, space: 2 }) + "\n";
}

/** Loads what makeSbom() needs of the library, so that it can be done while something else goes on. */
export async function loadCycloneDx() {
  const [Enums, Models, Spec, SPDX, Serialize] = await Promise.all([
    import("@cyclonedx/cyclonedx-library/Enums"),
    import("@cyclonedx/cyclonedx-library/Models"),
    import("@cyclonedx/cyclonedx-library/Spec"),
    import("@cyclonedx/cyclonedx-library/SPDX"),
    import("@cyclonedx/cyclonedx-library/Serialize"),
  ]);
  return { Enums, Models, Spec, SPDX, Serialize };
}

/**
 * The packages of which something is in the bundle, each version once, by name. What was shaken off is not in it; what
 * is installed, or imported for its types alone, is not either.
 *
 * @param metafile the bundler's; its paths are relative to the working directory
 * @throws {Error} when a package that is in the bundle does not say its name and version
 */
export async function bundledPackages({
  outputs,
}: Pick<Bun.BuildMetafile, "outputs">): Promise<BundledPackage[]> {
  const inputs = Object.values(outputs).flatMap(({ inputs }) => Object.keys(inputs));
  // The last node_modules of a path: a package may bring packages of its own.
  const directories = new Set(
    inputs.flatMap((path) => /^.*\bnode_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0] ?? []),
  );
  return packagesIn(directories);
}

/** The packages in these directories, each version once, by name. @throws {Error} when one does not say its name and version */
export async function packagesIn(directories: Iterable<string>): Promise<BundledPackage[]> {
  const found = new Map<string, BundledPackage>();
  for (const directory of directories) {
    const { name, version, license } = await Bun.file(join(directory, "package.json"))
      .json()
      .catch(() => ({}));
    if (!name || !version) throw new Error(`${directory} is in the image, but has no name and version`);
    // Packages of before 2015 have an object.
    found.set(`${name}@${version}`, { name, version, license: license?.type ?? license });
  }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
}

/** Where the SBOM of an archive lies: beside it, `helloapp.cdx.json` of `helloapp.tar`. */
export function sbomPathFor(archive: string): string {
  return `${archive.replace(/\.tar$/, "")}.cdx.json`;
}

/**
 * Lays the SBOM of a build beside its archive.
 *
 * @param dist the directory of the build
 * @throws {PipelineError} "environment" when the disk is full or the place cannot be written
 */
export async function writeSbom(dist: string, archive: string): Promise<void> {
  await writeFileAtomically(sbomPathFor(archive), (part) => copyFile(join(dist, SBOM), part));
}

/** Whether an SBOM lies beside an archive and is the one of this id. */
export async function hasSbom(service: Service, archive: string, id: string): Promise<boolean> {
  const found = await Bun.file(sbomPathFor(archive))
    .json()
    .catch(() => undefined);
  return found?.serialNumber === serialNumber(service, id);
}

/** The serial number of an image's SBOM: a UUID of version 5, which is a hash of a name. */
function serialNumber(service: Service, id: string): string {
  return `urn:uuid:${Bun.randomUUIDv5(`${ownPurl(service)}#${id}`, "url")}`;
}
