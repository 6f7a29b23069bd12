/** Tests the content of images for another architecture, and compressed layers. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { createLayerReader, readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { readElf } from "../../image/elf.ts";
import { ownArchitecture } from "../../image/architecture.ts";
import { runSmokeTest } from "../../smoke-test/smoke-test.ts";
import { readTar } from "../../image/tar-reader.ts";
import { image } from "../helloapp-service.ts";
import { builtProject, daggerEngine, describeWith, must, root, service, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

const other = ownArchitecture === "amd64" ? "arm64" : "amd64";
const triplet = other === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";

/** Unpacks an archive. @returns the paths of its files */
async function unpack(archive: string, directory: string): Promise<string[]> {
  const { layers } = (await readArchiveIndex(archive))!;
  const { unpacked } = createLayerReader(archive, layers);
  const paths: string[] = [];
  for (const layer of layers) {
    const tar = join(directory, `${basename(layer.path)}.unpacked`);
    await Bun.write(tar, await unpacked(layer));
    for (const { path, type, offset, size } of readTar(tar)) {
      if (type !== "file") continue;
      mkdirSync(dirname(join(directory, path)), { recursive: true });
      // Bytes, because Bun.write() copies a file slice from the file's beginning.
      const content = await Bun.file(tar)
        .slice(offset, offset + size)
        .bytes();
      await Bun.write(join(directory, path), content);
      paths.push(`/${path}`);
    }
  }
  return paths;
}

/** Asserts that binary, loader and libraries have one architecture, and that all needed libraries are included. */
async function expectComplete(archive: string, architecture: string, directory: string): Promise<void> {
  mkdirSync(directory);
  expect((await readArchiveIndex(archive))!.config.architecture).toBe(architecture);
  const paths = await unpack(archive, directory);
  const { interpreter, needed } = readElf(join(directory, image.binary));
  expect(paths).toContain(interpreter!);
  const libraries = new Set([...needed, basename(interpreter!)]);
  for (const path of paths) {
    const elf = readElf(join(directory, path));
    expect(elf.architecture).toBe(architecture as "amd64");
    for (const library of elf.needed) libraries.add(library);
  }
  expect(paths.map((path) => basename(path)).sort()).toEqual([...libraries, basename(image.binary)].sort());
}

describeWith(
  "another architecture, host engine",
  [],
  () => {
    test("each platform has an archive without files of the other", async () => {
      const directory = temporaryDirectory();
      const output = join(directory, "x.tar");
      const platforms = "linux/amd64,linux/arm64";
      must([process.execPath, "ci/pipeline.ts", "image", "--platform", platforms, "--output", output]);
      const ids = [];
      for (const architecture of ["amd64", "arm64"]) {
        const archive = join(directory, `x-${architecture}.tar`);
        await expectComplete(archive, architecture, join(directory, architecture));
        ids.push(...(await readArchiveIndex(archive))!.names);
      }
      expect(new Set(ids).size).toBe(2);
      expect(ids).toContain(`${image.name}:${(await builtProject()).id}`);
    });
  },
  {
    name: `libc6-${other}-cross and npm's registry`,
    isMet: existsSync(`/usr/${triplet}/lib`) && sh([process.execPath, "pm", "view", "bun", "version"]).code === 0,
  },
);

describeWith(
  "another architecture, Dagger engine",
  [],
  () => {
    test("comes from the base image, without running it", async () => {
      const directory = temporaryDirectory();
      const archive = join(directory, "x.tar");
      const args = ["image", "--platform", `linux/${other}`, "--output", archive];
      must(["dagger", "--progress=plain", "run", process.execPath, "ci/pipeline.ts", ...args]);
      await expectComplete(archive, other, join(directory, other));
    });
  },
  daggerEngine(),
);

describeWith("no C library for the other architecture", [], () => {
  test("is an environment error that names the package to install", () => {
    if (existsSync(`/usr/${triplet}/lib`)) {
      const hide = `mount -t tmpfs none /usr/${triplet} && exec "$@"`;
      const command = [process.execPath, "ci/pipeline.ts", "image", "--platform", `linux/${other}`];
      const { code, output } = sh(["unshare", "--mount", "sh", "-c", hide, "sh", ...command]);
      // Skipped without permission to mount.
      if (/unshare|mount/.test(output)) return;
      expect(code, output).toBe(3);
      expect(output).toMatch(/^error: the host engine has no C library.*libc6-.*-cross.*Dagger/m);
    }
  });
});

describeWith("compressed layers", [], () => {
  const directory = temporaryDirectory();
  const plain = join(directory, "plain.tar");
  const packed = join(directory, "packed.tar");

  test("are half the size, have the same diffIDs, and run", async () => {
    const { id } = await builtProject();
    for (const [path, level] of [
      [plain, "none"],
      [packed, "zstd"],
    ] as const) {
      must([process.execPath, "ci/pipeline.ts", "image", "--compress", level, "--output", path], {
        cwd: root,
      });
    }
    const [one, other] = await Promise.all([plain, packed].map(async (path) => (await readArchiveIndex(path))!));
    expect(other!.config).toEqual(one!.config);
    expect(other!.packed).toBe(true);
    expect(Bun.file(packed).size).toBeLessThan(Bun.file(plain).size * 0.45);
    await runSmokeTest(service, { archive: packed, id });
  });

  test("are created again if the archive has another compression", async () => {
    must([process.execPath, "ci/pipeline.ts", "image", "--compress", "none", "--output", packed]);
    expect((await readArchiveIndex(packed))!.packed).toBe(false);
  });
});

describeWith("compressed layers, read by others", ["skopeo", "podman"], () => {
  test("skopeo and podman unpack them", async () => {
    const directory = temporaryDirectory();
    const archive = join(directory, "x.tar");
    must([process.execPath, "ci/pipeline.ts", "image", "--output", archive]);
    const { config, names } = (await readArchiveIndex(archive))!;
    must(["skopeo", "copy", "--dest-decompress", `docker-archive:${archive}`, `dir:${directory}/dir`]);
    const manifest = await Bun.file(join(directory, "dir/manifest.json")).json();
    const digests = manifest.layers.map(({ digest }: { digest: string }) => digest);
    expect(digests).toEqual(config.rootfs.diff_ids);
    const storage = ["--root", `${directory}/root`, "--runroot", `${directory}/run`, "--storage-driver", "vfs"];
    const loaded = must(["podman", ...storage, "load", "-i", archive]);
    expect(loaded).toContain(names[0]!);
    sh(["podman", ...storage, "system", "reset", "--force"]);
  });
});
