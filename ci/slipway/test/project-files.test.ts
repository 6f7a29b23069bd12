/** Tests ELF, tar, archives and the digest of a project's files. inputs.test.ts tests the image ID. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { cp, mkdir, mkdtemp, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import { readArchiveIndex } from "../image/docker-archive-reader.ts";
import { readElf } from "../image/elf.ts";
import { PipelineError } from "../core/errors.ts";
import { projectFilesDigest } from "../core/project-files.ts";
import { findSharedLibraries } from "../image/image-spec.ts";
import { TAR_END, tarHeader, tarPadding } from "../image/tar-writer.ts";
import { readTar } from "../image/tar-reader.ts";
import { root, service } from "./helloapp-service.ts";

let directory: string;
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "helloapp-test-"))));
afterAll(() => rm(directory, { recursive: true }));

describe("ELF", () => {
  test("reads Bun's own header", () => {
    const elf = readElf(process.execPath);
    expect(elf.architecture).toBe(process.arch === "x64" ? "amd64" : "arm64");
    expect(elf.interpreter).toStartWith("/");
    expect(elf.needed).toContain("libc.so.6");
    expect(elf.buildId).toMatch(/^[0-9a-f]{16,}$/);
  });

  test("finds no loader in a library", () => {
    const [, libc] = [...findSharedLibraries().files].find(([path]) => path.endsWith("/libc.so.6"))!;
    expect(readElf(libc)).toMatchObject({ architecture: expect.any(String), needed: expect.any(Array) });
  });

  test.each([
    ["a text", Buffer.from("#!/bin/sh\n")],
    ["an empty file", Buffer.alloc(0)],
    ["a 32-bit file", Buffer.from("7f454c4601010100".padEnd(128, "0"), "hex")],
    ["an unknown machine", Buffer.from("7f454c4602010100".padEnd(128, "0"), "hex")],
  ])("refuses %s", async (_, content) => {
    const path = join(directory, "no.elf");
    await writeFile(path, content);
    expect(() => readElf(path)).toThrow(path);
  });
});

test("the shared libraries are the loader and every linked library, each once", () => {
  const { files } = findSharedLibraries();
  const { interpreter, needed } = readElf(process.execPath);
  expect(files.has(interpreter!)).toBe(true);
  for (const library of needed)
    expect([...files.keys()].filter((path) => path.endsWith(`/${library}`))).toHaveLength(1);
  expect(new Set(files.values()).size).toBe(files.size);
});

describe("tar", () => {
  const header = { path: "a/b", type: "file", mode: 0o755, size: 3 } as const;

  test("reads written entries, also inside another file", async () => {
    const path = join(directory, "x.tar");
    const content = Buffer.from("abc");
    const directoryHeader = tarHeader({ path: "a/", type: "directory", mode: 0o700, size: 0 });
    const tar = Buffer.concat([directoryHeader, tarHeader(header), content, tarPadding(3), TAR_END]);
    await writeFile(path, Buffer.concat([Buffer.alloc(1024, 7), tar]));
    const entries = readTar(path, 1024, 1024 + tar.length);
    expect(entries).toEqual([
      { path: "a/", type: "directory", mode: 0o700, size: 0, uid: 0, gid: 0, mtime: 0, offset: 1536 },
      { ...header, uid: 0, gid: 0, mtime: 0, offset: 2048 },
    ]);
  });

  test.skipIf(!Bun.which("tar"))("writes archives that tar(1) reads", async () => {
    const path = join(directory, "y.tar");
    await writeFile(path, Buffer.concat([tarHeader(header), Buffer.from("abc"), tarPadding(3), TAR_END]));
    const { stdout } = Bun.spawnSync(["tar", "-tvf", path, "--numeric-owner", "--full-time"], {
      env: { TZ: "UTC" },
    });
    expect(stdout.toString()).toMatch(/^-rwxr-xr-x 0\/0\s+3 1970-01-01 00:00:00 a\/b\n$/);
  });

  test.each([0, 1, 511, 512, 513])("pads %i bytes to whole blocks", (size) => {
    expect((size + tarPadding(size).length) % 512).toBe(0);
    expect(tarPadding(size).length).toBeLessThan(512);
  });

  test("refuses a path that is too long, and a file that is not a tar", async () => {
    expect(() => tarHeader({ ...header, path: "x".repeat(101) })).toThrow(RangeError);
    const path = join(directory, "no.tar");
    await writeFile(path, "x".repeat(2000));
    expect(() => readTar(path)).toThrow("not a tar file");
    await writeFile(path, "x");
    expect(() => readTar(path)).toThrow("is truncated");
  });
});

const partsIn = (directory: string) =>
  readdirSync(directory)
    .filter((name) => name.endsWith(".part"))
    .sort();

describe("archive", () => {
  const options = {
    service,
    names: ["helloapp:abc", "helloapp:latest"],
    revision: "c0ffee",
    platform: findSharedLibraries().platform,
  };
  let dist: string;
  beforeAll(async () => {
    dist = join(directory, "dist");
    await mkdir(join(dist, "runtime/lib"), { recursive: true });
    await mkdir(join(dist, "app"), { recursive: true });
    await writeFile(join(dist, "runtime/lib/libc"), "libc");
    // More than one read, and not a multiple of the block size.
    await writeFile(join(dist, "app/helloapp"), Buffer.alloc(2_500_001, 1));
  });

  test("has the right names, config and layers", async () => {
    const path = join(directory, "image.tar");
    await writeDockerArchive(path, { ...options, dist, compression: "none" });
    const archive = (await readArchiveIndex(path))!;
    expect(archive.names).toEqual(options.names);
    expect(archive.config).toMatchObject({
      os: "linux",
      created: "1970-01-01T00:00:00Z",
      config: { User: "65532:65532", Entrypoint: ["/helloapp"], Env: ["NODE_ENV=production", "PORT=8080"] },
    });
    const { offset, size } = archive.configEntry;
    const { history } = await Bun.file(path)
      .slice(offset, offset + size)
      .json();
    const made = ["runtime", "app"].map((layer) => `slipway build: dist/${layer}`);
    expect(history.map((one: { created_by: string }) => one.created_by)).toEqual(made);
    const trees = archive.layers.map(({ offset, size }) => readTar(path, offset, offset + size));
    expect(trees.map((tree) => tree.map(({ path }) => path))).toEqual([["lib/", "lib/libc"], ["helloapp"]]);
    for (const { uid, gid, mtime, mode } of trees.flat()) {
      expect({ uid, gid, mtime, mode }).toEqual({ uid: 0, gid: 0, mtime: 0, mode: 0o755 });
    }
    // The diffID is the digest of the uncompressed layer.
    for (const [i, { offset, size }] of archive.layers.entries()) {
      const digest = new Bun.CryptoHasher("sha256").update(
        await Bun.file(path)
          .slice(offset, offset + size)
          .bytes(),
      );
      expect(archive.config.rootfs.diff_ids[i]).toBe(`sha256:${digest.digest("hex")}`);
    }
  });

  test("is identical from a copy with other modes and times", async () => {
    const copy = join(directory, "copy");
    await cp(dist, copy, { recursive: true });
    const [one, other] = [join(directory, "1.tar"), join(directory, "2.tar")];
    await writeDockerArchive(one, { ...options, dist });
    await writeDockerArchive(other, { ...options, dist: copy });
    expect(await Bun.file(one).bytes()).toEqual(await Bun.file(other).bytes());
  });

  test("keeps the previous archive and leaves no temporary file if it fails", async () => {
    const path = join(directory, "kept.tar");
    await writeFile(path, "before");
    const broken = { ...options, dist: join(directory, "nowhere") };
    const error = await writeDockerArchive(path, broken).catch((error: Error) => error);
    expect(error).toBeInstanceOf(PipelineError);
    // The error must name the missing tree, not the output.
    expect((error as Error).message).toContain("nowhere/runtime is missing");
    expect(await Bun.file(path).text()).toBe("before");
    expect(partsIn(directory)).toEqual([]);
    await expect(writeDockerArchive(join(directory, "no/such/place.tar"), { ...options, dist })).rejects.toThrow(
      "cannot write",
    );
  });

  test("is complete if several processes write to the same output", async () => {
    const path = join(directory, "raced.tar");
    const names = ["one", "two", "three"].map((tag) => `helloapp:${tag}`);
    const program = `const { writeDockerArchive } = await import(${JSON.stringify(join(root, "ci/slipway/image/docker-archive-writer.ts"))});
      const { service, ...options } = JSON.parse(process.argv[1]);
      for (let i = 0; i < 5; i += 1) await writeDockerArchive(process.argv[2], { service, ...options });`;
    const runs = names.map((name) => {
      const given = JSON.stringify({ ...options, dist, names: [name] });
      return Bun.spawn([process.execPath, "-e", program, given, path], { stderr: "inherit" });
    });
    expect(await Promise.all(runs.map(({ exited }) => exited))).toEqual([0, 0, 0]);
    const [name] = (await readArchiveIndex(path))!.names;
    const alone = join(directory, "alone.tar");
    await writeDockerArchive(alone, { ...options, dist, names: [name!] });
    expect(await Bun.file(path).bytes()).toEqual(await Bun.file(alone).bytes());
    expect(partsIn(directory)).toEqual([]);
  });

  test("removes temporary files of killed processes, but not of running ones", async () => {
    const path = join(directory, "after.tar");
    const gone = Bun.spawn(["true"]);
    await gone.exited;
    const [left, fresh, live] = [`${gone.pid}-1`, `${gone.pid}-2`, `${process.ppid}-1`].map((run) =>
      join(directory, `${run}.after.tar.part`),
    ) as [string, string, string];
    for (const file of [left, fresh, live]) await writeFile(file, "half");
    const hourAgo = Date.now() / 1000 - 3600;
    for (const file of [left, live]) await utimes(file, hourAgo, hourAgo);
    await writeDockerArchive(path, { ...options, dist });
    expect(partsIn(directory)).toEqual([basename(fresh), basename(live)].sort());
    for (const file of [fresh, live]) await rm(file);
  });

  test("reads a missing file as undefined, and refuses another format", async () => {
    expect(await readArchiveIndex(join(directory, "none.tar"))).toBeUndefined();
    const path = join(directory, "other.tar");
    await writeFile(path, Buffer.concat([tarHeader({ path: "x", type: "file", mode: 0, size: 0 }), TAR_END]));
    expect(readArchiveIndex(path)).rejects.toThrow("not a docker-archive");
  });
});

describe("the digest of the project's files", () => {
  const { signal } = new AbortController();
  const read = [
    "src/a/b.ts",
    "test/x.test.ts",
    "ci/pipeline.ts",
    "k8s/base/x.yaml",
    ".github/workflows/ci.yml",
    ".ci/run",
    "package.json",
    "bun.lock",
    "bunfig.toml",
    "tsconfig.json",
    "README.md",
    "Dockerfile",
    ".dockerignore",
    "fixtures/a file, wherever it is.bin",
  ];
  const built = [
    "x.tar",
    "x.tar.part",
    "x.cdx.json",
    "x.cdx.json.part",
    ".1.bun-build",
    "dist/app",
    "node_modules/a/b.ts",
    "services/one/dist/app",
    "services/one/node_modules/a/b.ts",
  ];

  /** Creates a project with these files, optionally in a git repository. */
  async function project(git: boolean) {
    const at = await mkdtemp(join(directory, "digest-"));
    const write = async (path: string, content: string) => {
      await mkdir(dirname(join(at, path)), { recursive: true });
      await writeFile(join(at, path), content);
    };
    for (const path of read) await write(path, "before");
    const run = (...args: string[]) =>
      expect(Bun.spawnSync(["git", ...args], { cwd: at }).exitCode, args.join(" ")).toBe(0);
    if (git) {
      run("init", "--quiet");
      run("add", "src");
    }
    return { at, write, run, digest: () => projectFilesDigest(at, signal) };
  }

  const ways = [["without git", false] as const, ...(Bun.which("git") ? [["with git", true] as const] : [])];

  test.each(ways)("%s: changes with each file, but not with build output", async (_, git) => {
    const { write, digest } = await project(git);
    let before = await digest();
    for (const path of [...read, "new"]) {
      await write(path, "after");
      const after = await digest();
      expect(after, path).not.toBe(before);
      before = after;
    }
    for (const path of built) await write(path, "built");
    expect(await digest()).toBe(before);
  });

  test.each(ways)("%s: changes if a file is removed or moved, or if a byte moves to the next file", async (_, git) => {
    const { at, write, digest } = await project(git);
    const digests = [await digest()];
    await rename(join(at, "src/a/b.ts"), join(at, "src/a/c.ts"));
    digests.push(await digest());
    await rm(join(at, "src/a/c.ts"));
    digests.push(await digest());
    await write("src/a/b.ts", "befor");
    await write("test/x.test.ts", "ebefore");
    digests.push(await digest());
    expect(new Set(digests).size).toBe(digests.length);
  });

  test.each(ways)("%s: includes the target of a link, and dangling links", async (_, git) => {
    const { at, write, digest } = await project(git);
    await write("dist/target", "1");
    await symlink("dist/target", join(at, "link"));
    await symlink("nothing", join(at, "src/dangling"));
    const before = await digest();
    await write("dist/target", "2");
    const after = await digest();
    expect(after).not.toBe(before);
    await rm(join(at, "src/dangling"));
    expect(await digest()).not.toBe(after);
  });

  test("without git: tolerates directories that appear and disappear meanwhile", async () => {
    const { at, digest } = await project(false);
    // Simulates a build and tests that run meanwhile.
    const code = `const { mkdirSync, rmSync, writeFileSync } = require("node:fs");
process.chdir(process.env.AT);
for (;;) for (const made of ["dist", "tmp"]) {
  const inner = made + "/a/b/c";
  mkdirSync(inner, { recursive: true });
  for (let i = 0; i < 20; i += 1) writeFileSync(inner + "/" + i, "");
  rmSync(made, { recursive: true });
}`;
    const busy = Bun.spawn([process.execPath, "-e", code], {
      cwd: directory,
      env: { ...process.env, AT: at },
      stdio: ["ignore", "ignore", "inherit"],
    });
    try {
      while (!existsSync(join(at, "dist")) && busy.exitCode === null) await Bun.sleep(1);
      for (let i = 0; i < 300; i += 1) await digest();
      expect(busy.exitCode).toBeNull();
    } finally {
      busy.kill();
      await busy.exited;
    }
  });

  test.skipIf(!Bun.which("git"))("ignores files that git ignores, except for added ones", async () => {
    const { write, run, digest } = await project(true);
    await write(".gitignore", "*.log\nsecret/\n");
    await write("kept.log", "1");
    run("add", "--force", "kept.log");
    const before = await digest();
    await write("x.log", "1");
    await write("secret/x", "1");
    expect(await digest()).toBe(before);
    await write("kept.log", "2");
    expect(await digest()).not.toBe(before);
  });

  test.skipIf(!Bun.which("git"))("does not change with a commit", async () => {
    const { run, digest } = await project(true);
    const before = await digest();
    run("add", "--all");
    run("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "-m", "x");
    expect(await digest()).toBe(before);
  });
});
