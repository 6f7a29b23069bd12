/** Tests the content of the host engine's archive, and its reproducibility. */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readArchiveIndex, type ArchiveIndex } from "../../image/docker-archive-reader.ts";
import { buildImage } from "../../image/build-image-files.ts";
import { findSharedLibraries } from "../../image/image-spec.ts";
import { sbomPathFor } from "../../image/sbom.ts";
import { readTar } from "../../image/tar-reader.ts";
import { resolveService } from "../../core/resolve-service.ts";
import { image, settings } from "../helloapp-service.ts";
import { builtProject, copyProject, describeWith, must, root, sameBytes, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(120_000);

describeWith("archive of the host engine", [], () => {
  const directory = temporaryDirectory();
  const path = join(directory, "helloapp.tar");
  let archive: ArchiveIndex;
  let id: string;

  beforeAll(async () => {
    // Plain layers, whose entries are read in place.
    const plain = ["--compress", "none", "--output", path, "--tag", "other"];
    must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", ...plain]);
    archive = (await readArchiveIndex(path))!;
    ({ id } = await builtProject());
  });

  const entries = () => archive.layers.map(({ offset, size }) => readTar(path, offset, offset + size));

  test("is named by its ID and the requested names", () => {
    expect(archive.names).toEqual([`helloapp:${id}`, "helloapp:other"]);
  });

  test("contains exactly the C library and the binary, unchanged", async () => {
    const { dist } = await builtProject();
    const { files } = findSharedLibraries();
    const expected = [new Map(files), new Map([[image.binary, join(dist, "app", image.binary)]])];
    for (const [i, layer] of entries().entries()) {
      const found = layer.filter(({ type }) => type === "file");
      expect(found.map(({ path }) => `/${path}`).sort()).toEqual([...expected[i]!.keys()].sort());
      for (const { path: name, offset, size } of found) {
        const inArchive = await Bun.file(path)
          .slice(offset, offset + size)
          .bytes();
        const source = await Bun.file(expected[i]!.get(`/${name}`)!).bytes();
        expect(Buffer.compare(inArchive, source), name).toBe(0);
      }
    }
  });

  test("has fixed modes, owners and times", () => {
    for (const { path, mode, uid, gid, mtime } of entries().flat()) {
      expect({ path, mode, uid, gid, mtime }).toEqual({ path, mode: 0o755, uid: 0, gid: 0, mtime: 0 });
    }
  });

  test("has two layers, no duplicate file, and at most 3 % over the binary", async () => {
    expect(archive.layers).toHaveLength(2);
    const digests = await Promise.all(
      entries()
        .flat()
        .filter(({ type }) => type === "file")
        .map(async ({ offset, size }) =>
          Bun.hash(
            await Bun.file(path)
              .slice(offset, offset + size)
              .bytes(),
          ),
        ),
    );
    expect(new Set(digests).size).toBe(digests.length);
    const { dist } = await builtProject();
    const binary = statSync(join(dist, "app", image.binary)).size;
    expect(statSync(path).size / binary).toBeLessThan(1.03);
  });

  test("has the config that image/image-spec.ts defines", () => {
    expect(archive.config.config).toMatchObject({
      User: image.user,
      Entrypoint: [image.binary],
      Env: ["NODE_ENV=production", "PORT=8080"],
      ExposedPorts: { [image.port]: {} },
      Labels: image.labels,
    });
  });

  test("is identical from another directory, with another umask and time zone", async () => {
    const project = copyProject(join(directory, "elsewhere"));
    const other = join(directory, "other.tar");
    const command = `umask 077 && exec bun ci/pipeline.ts image --engine host --tag other --output ${other}`;
    const PATH = `${dirname(process.execPath)}:${process.env.PATH}`;
    // Outside the repository, there is no commit for the label, so both omit it.
    must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--tag", "other", "--output", `${path}.2`], {
      env: { GIT_DIR: "/nonexistent" },
    });
    must(["sh", "-c", command], { cwd: project, env: { TZ: "Pacific/Kiritimati", PATH } });
    expect(await sameBytes(`${path}.2`, other)).toBe(true);
    expect(await sameBytes(sbomPathFor(`${path}.2`), sbomPathFor(other))).toBe(true);
  });

  test("leaves no files for the formatter or git in the working tree", () => {
    const left = must(["sh", "-c", "ls -d dist.* *.part 2>/dev/null || true"], { cwd: root });
    expect(left).toBe("");
  });
});

describeWith("SBOM", [], () => {
  const directory = temporaryDirectory();
  const path = join(directory, "helloapp.tar");
  const pipeline = () =>
    must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--compress", "none", "--output", path]);
  // A CycloneDX document of any content. The assertions check it.
  const read = (): Promise<any> => Bun.file(sbomPathFor(path)).json();

  beforeAll(() => void pipeline());

  test("has the hashes of the archive's libraries, and this Bun", async () => {
    const { metadata, components } = await read();
    const archive = (await readArchiveIndex(path))!;
    const inLayers = archive.layers.flatMap(({ offset, size }) => readTar(path, offset, offset + size));
    const expected = await Promise.all(
      inLayers
        .filter(({ type, path }) => type === "file" && `/${path}` !== image.binary)
        .map(async ({ path: name, offset, size }) => {
          const bytes = await Bun.file(path)
            .slice(offset, offset + size)
            .bytes();
          return [`/${name}`, new Bun.CryptoHasher("sha256").update(bytes).digest("hex")];
        }),
    );
    const files = components
      .flatMap((component: any) => [component, ...(component.components ?? [])])
      .filter(({ type }: any) => type === "file");
    expect(Object.fromEntries(files.map(({ name, hashes }: any) => [name, hashes[0].content]))).toEqual(
      Object.fromEntries(expected),
    );
    const bun = components.find(({ name }: any) => name === "bun");
    expect(bun.version).toBe(Bun.version);
    expect(metadata.component.properties).toContainEqual({
      name: "helloapp:image-id",
      value: (await builtProject()).id,
    });
  });

  test.skipIf(!Bun.which("dpkg-query"))("identifies the C library like dpkg-query", async () => {
    const format = "${Version} ${Architecture}";
    const { architecture } = findSharedLibraries().platform;
    const [version, arch] = must(["dpkg-query", "-W", `-f=${format}`, `libc6:${architecture}`]).split(" ");
    const found = (await read()).components.find(({ name }: any) => name === "libc6");
    expect(found.version).toBe(version);
    const { pathname, searchParams } = new URL(found.purl);
    expect(decodeURIComponent(pathname)).toEndWith(`/libc6@${version}`);
    expect(searchParams.get("arch")).toBe(arch!);
    expect(found.components).toHaveLength(findSharedLibraries().files.size);
  });

  test.each([
    ["is missing", (sbom: string) => rmSync(sbom)],
    ["is of another image", (sbom: string) => writeFileSync(sbom, '{"serialNumber":"urn:uuid:0"}')],
  ])("is created again if it %s, even if the archive exists", async (_, change) => {
    const before = await read();
    expect(pipeline()).toContain(" exists: ");
    change(sbomPathFor(path));
    expect(pipeline()).not.toContain(" exists: ");
    expect(await read()).toEqual(before);
  });

  test("lists a bundled package", async () => {
    const project = join(directory, "bundling");
    mkdirSync(join(project, "src"), { recursive: true });
    for (const file of ["package.json", "bun.lock"]) cpSync(join(root, file), join(project, file));
    const modules = join(project, "node_modules/@acme/tiny");
    mkdirSync(modules, { recursive: true });
    writeFileSync(join(modules, "package.json"), '{"name":"@acme/tiny","version":"1.2.3","license":"ISC"}');
    writeFileSync(join(modules, "index.js"), "export const tiny = Math.random();\n");
    writeFileSync(join(project, "src/main.ts"), 'import { tiny } from "@acme/tiny";\nconsole.log(tiny);\n');
    const dist = join(directory, "bundling-dist");
    await buildImage(resolveService(project, settings), dist);
    const { components } = await Bun.file(join(dist, "sbom.cdx.json")).json();
    const packages = components.filter(({ purl = "" }) => purl.startsWith("pkg:npm/"));
    expect(packages).toEqual([
      expect.objectContaining({ purl: "pkg:npm/%40acme/tiny@1.2.3", licenses: [{ license: { id: "ISC" } }] }),
    ]);
  });
});

describeWith("archive, read by skopeo", ["skopeo"], () => {
  const directory = temporaryDirectory();

  test("has the right name and platform", async () => {
    const path = join(directory, "helloapp.tar");
    must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", path]);
    const { id, platform } = await builtProject();
    const inspected = JSON.parse(must(["skopeo", "inspect", `docker-archive:${path}:helloapp:${id}`]));
    expect(inspected).toMatchObject({ Architecture: platform.architecture, Os: "linux" });
    const { config } = (await readArchiveIndex(path))!;
    expect(inspected.Layers).toEqual(config.rootfs.diff_ids);
  });
});
