/**
 * Creates the image's software bill of materials (SBOM), for lookups of advisories and licences.
 *
 * It lists the packages in the binary and the files of the C library. A scanner cannot find them, because the image has
 * no package database and the packages are bundled.
 *
 * Format: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/. The SBOM is reproducible: it is sorted, has no timestamp,
 * and its serial number is derived from the image ID.
 */
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomically } from "../core/atomic-write.ts";
import { sha256OfFile } from "../core/hash.ts";
import type { Service } from "../core/resolve-service.ts";
import type { RuntimeLibraries } from "./image-spec.ts";
import { identifyLibcPackage, purl } from "./identify-libc.ts";

/** File name of the SBOM in the build directory. */
export const SBOM_FILE = "sbom.cdx.json";

/** Returns the service's package URL. It is not pkg:oci, which needs the image digest that only a push creates. */
const servicePurl = ({ name, version }: Service) => purl("generic", [name], version);

/** A package whose code is in the image. */
export interface BundledPackage {
  name: string;
  version: string;
  /** `license` of its package.json: an SPDX identifier or expression, or other text. */
  license: string | undefined;
}

/** Content of the SBOM. Equal input gives identical text. */
export interface SbomContent {
  /** Image ID. */
  id: string;
  packages: BundledPackage[];
  runtime: RuntimeLibraries;
}

/** Creates the SBOM. @returns JSON text */
export async function createSbom(service: Service, { id, packages, runtime }: SbomContent): Promise<string> {
  // The binary is not hashed: that would double the time, and the ID identifies the binary.
  // The library is loaded lazily and in parts, in about 30 ms. The whole library takes three times as long.
  const [{ Enums, Models, Spec, SPDX, Serialize }, tool, libc] = await Promise.all([
    loadCycloneDx(),
    import("@cyclonedx/cyclonedx-library/package.json"),
    identifyLibcPackage(runtime),
  ]);
  const licenses = (license: string | undefined) => {
    if (!license) return new Models.LicenseRepository();
    if (SPDX.isSupportedSpdxId(license)) return new Models.LicenseRepository([new Models.SpdxLicense(license)]);
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
    purl: servicePurl(service),
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
      "The runtime embedded in the binary. The licence applies to Bun's own code. LICENSE.md lists the licences of its " +
      "libraries.",
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
  const isLibc = ({ name }: { name: string }) => libc?.files.has(name) ?? false;
  const library =
    libc &&
    component("Library", libc.name, {
      version: libc.version,
      description: `The C library: ${libc.origin}.`,
      purl: libc.purl,
      // The licence of most of glibc. The package's copyright file lists the others.
      licenses: licenses("LGPL-2.1-or-later"),
      components: new Models.ComponentRepository(files.filter(isLibc)),
    });
  const linked = [...(library ? [library] : []), ...files.filter((file) => !isLibc(file))];
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

/** Loads the parts of the library that createSbom() needs. Exported, so that it can run during the compilation. */
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
 * Lists the packages with code in the bundle, each version once, sorted by name.
 *
 * Packages that are tree-shaken, unused, or imported only for types are not included.
 *
 * @param metafile the bundler's metafile. Its paths are relative to the working directory
 * @throws {Error} if a package in the bundle has no name or version
 */
export async function listBundledPackages({ outputs }: Pick<Bun.BuildMetafile, "outputs">): Promise<BundledPackage[]> {
  const inputs = Object.values(outputs).flatMap(({ inputs }) => Object.keys(inputs));
  // The last node_modules of a path counts, because packages can be nested.
  const directories = new Set(
    inputs.flatMap((path) => /^.*\bnode_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0] ?? []),
  );
  return readPackages(directories);
}

/** Reads packages from their directories, each version once, sorted by name. @throws {Error} without name or version */
export async function readPackages(directories: Iterable<string>): Promise<BundledPackage[]> {
  const found = new Map<string, BundledPackage>();
  for (const directory of directories) {
    const { name, version, license } = await Bun.file(join(directory, "package.json"))
      .json()
      .catch(() => ({}));
    if (!name || !version) throw new Error(`${directory} is in the image, but has no name and version`);
    // Packages from before 2015 have an object.
    found.set(`${name}@${version}`, { name, version, license: license?.type ?? license });
  }
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
}

/** Returns the SBOM path of an archive, for example `helloapp.cdx.json` for `helloapp.tar`. */
export function sbomPathFor(archive: string): string {
  return `${archive.replace(/\.tar$/, "")}.cdx.json`;
}

/**
 * Copies the SBOM of a build next to its archive.
 *
 * @param dist the build directory
 * @throws {PipelineError} "environment" if the disk is full or the directory is not writable
 */
export async function writeSbom(dist: string, archive: string): Promise<void> {
  await writeFileAtomically(sbomPathFor(archive), (part) => copyFile(join(dist, SBOM_FILE), part));
}

/** Whether the SBOM next to an archive exists and has this image ID. */
export async function hasSbom(service: Service, archive: string, id: string): Promise<boolean> {
  const found = await Bun.file(sbomPathFor(archive))
    .json()
    .catch(() => undefined);
  return found?.serialNumber === serialNumber(service, id);
}

/** Returns the serial number, a UUID version 5, which is a hash of the service and the image ID. */
function serialNumber(service: Service, id: string): string {
  return `urn:uuid:${Bun.randomUUIDv5(`${servicePurl(service)}#${id}`, "url")}`;
}
