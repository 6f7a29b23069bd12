/** Tests the SBOM: packages, Bun, the C library, and reproducibility. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import type { RuntimeLibraries } from "../image/image-spec.ts";
import { identifyLibcPackage, purl } from "../image/identify-libc.ts";
import { listBundledPackages, hasSbom, createSbom, writeSbom, sbomPathFor } from "../image/sbom.ts";
import { sha256OfFile } from "../core/hash.ts";
import { service } from "./helloapp-service.ts";
import packageJson from "../../../package.json";

const directory = mkdtempSync(join(tmpdir(), "helloapp-sbom-"));
afterAll(() => rmSync(directory, { recursive: true }));

const hash = (algorithm: "md5" | "sha256", text: string) => new Bun.CryptoHasher(algorithm).update(text).digest("hex");

/** Writes files. Values other than strings are written as JSON. @returns the directory */
function layOut(name: string, files: Record<string, unknown>): string {
  const root = join(directory, name);
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), typeof content === "string" ? content : JSON.stringify(content));
  }
  return root;
}

const libc = "…GNU C Library (Some Vendor 2.99-1) stable release version 2.99.\nCopyright…";
const libraries = {
  "usr/lib/x/ld.so": "loader",
  "usr/lib/x/libc.so.6": libc,
  "usr/lib/x/libother.so.1": "other",
};
const osRelease = 'PRETTY_NAME="Debian"\nVERSION_ID="12"\nID=debian\n';
const stanza = (name: string, architecture: string, version: string, status = "install ok installed") =>
  `Package: ${name}\nStatus: ${status}\nArchitecture: ${architecture}\nSource: glibc (1)\nVersion: ${version}\n`;
const status = [
  stanza("libc6-dev", "amd64", "0"),
  stanza("libc6", "i386", "1"),
  stanza("libc6", "amd64", "1:2.99-1+deb12u1~x"),
].join("\n");
// dpkg's list has the old path of a file, from before /lib became a link, and no matching libother.
const md5sums =
  `${hash("md5", "loader")}  lib/x/ld.so\n${hash("md5", libc)}  usr/lib/x/libc.so.6\n` +
  `${hash("md5", "another build")}  usr/lib/x/libother.so.1\n`;
const debian = {
  ...libraries,
  "etc/os-release": osRelease,
  "var/lib/dpkg/status": status,
  "var/lib/dpkg/info/libc6:amd64.md5sums": md5sums,
};

function runtimeOf(system: string): RuntimeLibraries {
  return {
    platform: { os: "linux", architecture: "amd64" },
    // The loader's path in the image differs from its file.
    files: new Map([
      ["/lib64/ld.so", join(system, "usr/lib/x/ld.so")],
      ["/usr/lib/x/libother.so.1", join(system, "usr/lib/x/libother.so.1")],
      ["/usr/lib/x/libc.so.6", join(system, "usr/lib/x/libc.so.6")],
    ]),
    bun: "bun",
    bunBuildId: "b1d",
    root: system,
  };
}

describe("the C library", () => {
  const identify = (name: string, files: Record<string, unknown>) => {
    return identifyLibcPackage(runtimeOf(layOut(name, files)));
  };

  test("is dpkg's package, with the files on dpkg's list", async () => {
    expect(await identify("debian", debian)).toMatchObject({
      name: "libc6",
      version: "1:2.99-1+deb12u1~x",
      purl: "pkg:deb/debian/libc6@1:2.99-1%2Bdeb12u1~x?arch=amd64&distro=debian-12&upstream=glibc",
      files: new Set(["/lib64/ld.so", "/usr/lib/x/libc.so.6"]),
    });
  });

  test.each([
    ["there is no dpkg", { ...libraries, "etc/os-release": "ID=fedora\nVERSION_ID=44\n" }, "fedora-44"],
    [
      "dpkg has removed it",
      {
        ...debian,
        "var/lib/dpkg/status": stanza("libc6", "amd64", "1", "deinstall ok config-files"),
      },
      "debian-12",
    ],
    [
      "dpkg has it for another architecture",
      { ...debian, "var/lib/dpkg/status": stanza("libc6", "i386", "1") },
      "debian-12",
    ],
    [
      "no file is dpkg's",
      { ...debian, "var/lib/dpkg/info/libc6:amd64.md5sums": `${hash("md5", "x")}  usr/lib/x/libc.so.6\n` },
      "debian-12",
    ],
  ])("is identified by its banner if %s", async (name, files, release) => {
    expect(await identify(name, files)).toEqual({
      name: "glibc",
      version: "2.99",
      origin: expect.stringContaining(`the package of ${release} and its fixes are unknown`),
      purl: "pkg:generic/glibc@2.99",
      files: new Set(["/usr/lib/x/libc.so.6"]),
    });
  });

  test("is undefined if it cannot be identified", async () => {
    expect(await identify("unknown", { ...libraries, "usr/lib/x/libc.so.6": "musl" })).toBeUndefined();
  });
});

describe("the bundled packages", () => {
  const fixture = (entry: string) =>
    layOut("bundle", {
      "package.json": { name: "fixture", version: "1.0.0" },
      "main.ts": entry,
      "node_modules/@acme/tiny/package.json": { name: "@acme/tiny", version: "1.2.3+x", license: "ISC" },
      "node_modules/@acme/tiny/index.js": 'import deep from "deep/lib/a.js";\nexport const tiny = [deep];',
      "node_modules/@acme/tiny/node_modules/deep/package.json": {
        name: "deep",
        version: "0.1.0",
        license: { type: "(MIT OR Apache-2.0)" },
      },
      "node_modules/@acme/tiny/node_modules/deep/lib/a.js": "export default Math.random();",
      "node_modules/deep/package.json": { name: "deep", version: "9.9.9" },
      "node_modules/deep/index.js": "export default Math.random();",
      "node_modules/shaken/package.json": { name: "shaken", version: "1.0.0", sideEffects: false },
      "node_modules/shaken/index.js": "export const shaken = 1;",
      "node_modules/nameless/index.js": "export default Math.random();",
    });
  const bundle = async (entry: string) => {
    const { metafile } = await Bun.build({
      entrypoints: [join(fixture(entry), "main.ts")],
      target: "bun",
      minify: true,
      metafile: true,
    });
    return listBundledPackages(metafile!);
  };

  test("have code in the bundle, including nested packages, but not unused or tree-shaken ones", async () => {
    const main = 'import { tiny } from "@acme/tiny";\nimport { shaken } from "shaken";\nconsole.log(tiny);';
    expect(await bundle(main)).toEqual([
      { name: "@acme/tiny", version: "1.2.3+x", license: "ISC" },
      { name: "deep", version: "0.1.0", license: "(MIT OR Apache-2.0)" },
    ]);
  });

  test("include each version of a package", async () => {
    const packages = await bundle('import "@acme/tiny";\nimport deep from "deep";\nconsole.log(deep);');
    expect(packages.map(({ name, version }) => `${name}@${version}`)).toEqual([
      "@acme/tiny@1.2.3+x",
      "deep@0.1.0",
      "deep@9.9.9",
    ]);
  });

  test("must have a name and a version", async () => {
    const nameless = bundle('import nameless from "nameless";\nconsole.log(nameless);');
    await expect(nameless).rejects.toThrow("node_modules/nameless is in the image, but has no name and version");
  });

  test("do not include the service", async () => {
    const { metafile } = await Bun.build({
      entrypoints: [join(import.meta.dir, "../../../src/main.ts")],
      target: "bun",
      metafile: true,
    });
    expect(await listBundledPackages(metafile!)).toEqual([]);
  });
});

describe("the SBOM", async () => {
  const system = layOut("system", debian);
  const materials = {
    id: "0123456789ab",
    packages: [
      { name: "zebra", version: "1.0.0", license: "(MIT OR Apache-2.0)" },
      { name: "@acme/tiny", version: "1.2.3+x", license: "ISC" },
      { name: "odd", version: "1.0.0", license: "do as you like" },
      { name: "silent", version: "1.0.0", license: undefined },
    ],
    runtime: runtimeOf(system),
  };
  /** The keys that the tests check. */
  interface Component {
    type: string;
    name: string;
    group?: string;
    version?: string;
    "bom-ref": string;
    licenses?: unknown;
    purl?: string;
    hashes?: { alg: string; content: string }[];
    components?: Component[];
  }
  const parse = async (changes: Partial<typeof materials> = {}) =>
    JSON.parse(await createSbom(service, { ...materials, ...changes }));
  const sbom = await parse();
  const components: Component[] = sbom.components;
  const find = (name: string) => components.find((component) => component.name === name)!;

  test("describes the image by name, version, licence and ID", () => {
    expect(sbom).toMatchObject({ bomFormat: "CycloneDX", specVersion: "1.6", version: 1 });
    expect(sbom.metadata.component).toMatchObject({
      type: "application",
      name: packageJson.name,
      version: packageJson.version,
      licenses: [{ license: { id: packageJson.license } }],
      purl: `pkg:generic/${packageJson.name}@${packageJson.version}`,
    });
    expect(sbom.metadata.component.properties).toContainEqual({
      name: `${packageJson.name}:image-id`,
      value: materials.id,
    });
  });

  test("lists the packages with their licences", () => {
    expect(find("tiny")).toMatchObject({
      group: "@acme",
      version: "1.2.3+x",
      purl: "pkg:npm/%40acme/tiny@1.2.3%2Bx",
      licenses: [{ license: { id: "ISC" } }],
    });
    expect(find("zebra").licenses).toEqual([{ expression: "(MIT OR Apache-2.0)" }]);
    expect(find("odd").licenses).toEqual([{ license: { name: "do as you like" } }]);
    expect(find("silent").licenses).toBeUndefined();
  });

  test("lists Bun", () => {
    expect(find("bun")).toMatchObject({
      type: "platform",
      version: Bun.version,
      purl: `pkg:github/oven-sh/bun@bun-v${Bun.version}`,
      licenses: [{ license: { id: "MIT" } }],
    });
    expect(JSON.stringify(find("bun"))).toContain(Bun.revision);
  });

  test("lists every shared library with its hash, under the C library if it belongs to it", () => {
    const files = (list: Component[] | undefined) =>
      list?.filter(({ type }) => type === "file").map(({ name, hashes }) => [name, hashes![0]!.content]);
    expect(files(find("libc6").components)).toEqual([
      ["/lib64/ld.so", hash("sha256", "loader")],
      ["/usr/lib/x/libc.so.6", hash("sha256", libc)],
    ]);
    expect(files(components)).toEqual([["/usr/lib/x/libother.so.1", hash("sha256", "other")]]);
  });

  test("conforms to the specification", () => {
    const all = components.flatMap((component) => [component, ...(component.components ?? [])]);
    for (const { type, name } of all) {
      expect(type).toMatch(/^(application|platform|library|file)$/);
      expect(name).toBeString();
    }
    expect(sbom.serialNumber).toMatch(/^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    const references = [sbom.metadata.component, ...all].map((component) => component["bom-ref"]);
    expect(new Set(references).size).toBe(references.length);
    const dependencies: { ref: string; dependsOn?: string[] }[] = sbom.dependencies;
    expect(dependencies.map(({ ref }) => ref).sort()).toEqual(references.sort());
    for (const { dependsOn = [] } of dependencies) expect(references).toContainValues(dependsOn);
    const needs = (reference: string) => dependencies.find(({ ref }) => ref === reference)!.dependsOn;
    expect(needs(sbom.metadata.component["bom-ref"])).toHaveLength(1 + materials.packages.length);
    expect(needs(find("bun")["bom-ref"])).toEqual(["/usr/lib/x/libother.so.1", find("libc6")["bom-ref"]]);
  });

  test("is reproducible in any input order, with a serial number per image", async () => {
    const { packages, runtime } = materials;
    const files = new Map([...runtime.files].reverse());
    const other = { packages: packages.toReversed(), runtime: { ...runtime, files } };
    expect(await createSbom(service, { ...materials, ...other })).toBe(await createSbom(service, materials));
    expect(await parse()).toEqual(sbom);
    expect((await parse({ id: "ba9876543210" })).serialNumber).not.toBe(sbom.serialNumber);
  });

  test("is written next to its archive, and recognised by its image ID", async () => {
    const dist = layOut("dist", { "sbom.cdx.json": await createSbom(service, materials) });
    const archive = join(directory, "x.tar/app.tar");
    mkdirSync(dirname(archive));
    expect(relative(directory, sbomPathFor(archive))).toBe("x.tar/app.cdx.json");
    expect(sbomPathFor("/x/image")).toBe("/x/image.cdx.json");
    expect(await hasSbom(service, archive, materials.id)).toBe(false);
    await writeSbom(dist, archive);
    expect(readFileSync(sbomPathFor(archive), "utf8")).toBe(await createSbom(service, materials));
    expect(await hasSbom(service, archive, materials.id)).toBe(true);
    expect(await hasSbom(service, archive, "ba9876543210")).toBe(false);
    writeFileSync(sbomPathFor(archive), "{");
    expect(await hasSbom(service, archive, materials.id)).toBe(false);
    await expect(writeSbom(dist, join(directory, "no/such/app.tar"))).rejects.toThrow("cannot write");
  });
});

test("a package URL encodes exactly the required characters", () => {
  expect(purl("npm", ["@a", "b c"], "1:2~3-4_5.6+7")).toBe("pkg:npm/%40a/b%20c@1:2~3-4_5.6%2B7");
  expect(purl("deb", ["d", "n"], "1", { arch: "amd64", distro: "d-1/2" })).toBe(
    "pkg:deb/d/n@1?arch=amd64&distro=d-1%2F2",
  );
});

test("a file's hash covers all of its chunks", () => {
  const bytes = Buffer.alloc(3_000_001, "helloapp");
  writeFileSync(join(directory, "large"), bytes);
  expect(sha256OfFile(join(directory, "large"))).toBe(new Bun.CryptoHasher("sha256").update(bytes).digest("hex"));
});
