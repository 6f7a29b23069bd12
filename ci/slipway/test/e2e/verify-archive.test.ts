/** Tests `verify-archive`: equal, damaged and different archives. */
import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { TAR_END, tarHeader, tarPadding } from "../../image/tar-writer.ts";
import { readTar } from "../../image/tar-reader.ts";
import { image as described } from "../helloapp-service.ts";
import { image, join as joinParts, layout, nameOf, part, split, withFields, type Part } from "../edit-tar.ts";
import { copyProject, describeWith, must, rewrite, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(300_000);

describeWith("verify-archive", ["git"], () => {
  const directory = temporaryDirectory();
  const project = copyProject(join(directory, "project"));
  const good = join(directory, "good.tar");
  /** With layers whose bytes a test can change in place. */
  const plain = join(directory, "plain.tar");
  const git = (...args: string[]) =>
    must(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", ...args], { cwd: project });
  const head = () => git("rev-parse", "HEAD").trim();
  const pipeline = (...args: string[]) =>
    sh([process.execPath, "ci/pipeline.ts", ...args, "--engine", "host"], { cwd: project });
  const verify = (file: string) => pipeline("verify-archive", file);
  let id: string;

  beforeAll(async () => {
    git("init", "--quiet");
    git("add", "--all");
    git("commit", "--quiet", "--message", "first");
    expect(pipeline("image", "--output", good, "--tag", "other").code).toBe(0);
    expect(pipeline("image", "--output", plain, "--tag", "other", "--compress", "none").code).toBe(0);
    id = (await readArchiveIndex(good))!.names[0]!;
  });

  /** A copy of the archive with one bit changed, at `offset` of a file in it, or of the archive itself. */
  async function altered(path: string | undefined, offset: number): Promise<string> {
    const copy = join(directory, "altered.tar");
    const bytes = readFileSync(path === undefined ? good : plain);
    const { layers } = (await readArchiveIndex(plain))!;
    const entries = layers.flatMap(({ offset, size }) => readTar(plain, offset, offset + size));
    const start = path === undefined ? 0 : entries.find((entry) => `/${entry.path}` === path)!.offset;
    bytes[start + offset]! ^= 1;
    writeFileSync(copy, bytes);
    return copy;
  }

  test("what it has just made: exit 0, bit for bit", () => {
    const { code, output } = verify(good);
    expect(output).toContain(`good.tar is ${id} and matches the working tree bit for bit`);
    expect(code).toBe(0);
    expect(verify(plain).output).toContain(`plain.tar is ${id} and matches the working tree bit for bit`);
  });

  test("with layers compressed, and written by another tool: exit 0, layer by layer", async () => {
    const { layers, configEntry, names } = (await readArchiveIndex(plain))!;
    const file = await Bun.file(plain).bytes();
    const parts: Uint8Array[] = [];
    const add = (path: string, bytes: Uint8Array) => {
      parts.push(tarHeader({ path, type: "file", mode: 0o644, size: bytes.length }), bytes);
      parts.push(tarPadding(bytes.length));
    };
    const Layers = layers.map(({ offset, size }, i) => {
      add(`${i}`, Bun.zstdCompressSync(file.subarray(offset, offset + size), { level: 1 }));
      return `${i}`;
    });
    add("config", file.subarray(configEntry.offset, configEntry.offset + configEntry.size));
    add("manifest.json", Buffer.from(JSON.stringify([{ Config: "config", RepoTags: names, Layers }])));
    const path = join(directory, "compressed.tar");
    writeFileSync(path, Buffer.concat([...parts, TAR_END]));
    const { code, output } = verify(path);
    expect(output).toContain(`compressed.tar is ${id} and matches the working tree layer by layer`);
    expect(code).toBe(0);
  });

  test.each([
    ["app", described.binary, 50_000_000],
    ["runtime", undefined, 1_000_000],
  ])("one bit of a file in the layer %s: exit 1 with layer, file and place", async (layer, path, offset) => {
    const { layers } = (await readArchiveIndex(plain))!;
    const libraries = readTar(plain, layers[0]!.offset, layers[0]!.offset + layers[0]!.size);
    const file = path ?? `/${libraries.find((entry) => entry.path.endsWith("/libc.so.6"))!.path}`;
    const { code, output } = verify(await altered(file, offset));
    expect(code).toBe(1);
    expect(output).toMatch(new RegExp(`^${layer} is damaged: its diffID is .*, the config declares `, "m"));
    expect(output).toContain(`\n${layer}: ${file}: bytes differ, the first at offset ${offset}\n`);
    expect(output).toMatch(/^error: altered.tar is damaged\. Remove it/m);
    const other = layer === "app" ? "runtime" : "app";
    expect(output).not.toMatch(new RegExp(`^${other}`, "m"));
  });

  test("one bit of the header of a file: exit 1", async () => {
    const { code, output } = verify(await altered(described.binary, -512 + 130));
    expect(code).toBe(1);
    expect(output).toContain("app: differs from byte 130 on, in the header of /helloapp");
  });

  test("one bit of a compressed layer: exit 1", async () => {
    const { offset, size } = (await readArchiveIndex(good))!.layers[1]!;
    // In a frame, and in the table of the frames, which has no influence on the content.
    for (const at of [offset + 30_000_000, offset + size - 10]) {
      const { code, output } = verify(await altered(undefined, at));
      expect(output).toMatch(/^error: altered.tar is damaged/m);
      expect(code).toBe(1);
    }
  });

  test("one bit of what is around the image: exit 1", async () => {
    // The name of a user, whom nobody asks for; its header needs the checksum for it.
    const bytes = readFileSync(good);
    const [first, ...rest] = split(bytes);
    const path = join(directory, "around.tar");
    writeFileSync(path, joinParts([withFields(first!, { 265: "x" }), ...rest]));
    const { code, output } = verify(path);
    expect(output).toContain("the image is intact, but the archive around it is altered");
    expect(code).toBe(1);
  });

  test("one bit of the end: exit 3", async () => {
    const { code, output } = verify(await altered(undefined, Bun.file(good).size - 1));
    expect(output).toContain("data after its end");
    expect(code).toBe(3);
  });

  // Found with skopeo and containerd, which imported the other image.
  test("the same with another image in it: exit 3, and as --output it is built anew", () => {
    const parts = split(readFileSync(good));
    const other = image([[part("helloapp", "other")], [part("lib", "other")]], { name: id });
    const added = layout(other).filter((one) => nameOf(one) !== "manifest.json");
    const second = other.find((one) => nameOf(one) === "manifest.json")!;
    const path = join(directory, "two.tar");
    const make = ["image", "--output", path, "--tag", "other"];
    // Its SBOM stays beside it, without which it would be built anew in any case.
    expect(pipeline(...make).code).toBe(0);
    expect(pipeline(...make).output).toContain(" exists: ");
    for (const [name, all] of [
      ["index.json", [...parts, ...added]],
      ["manifest.json", [second, ...parts, ...other.filter((one) => one !== second)]],
    ] as [string, Part[]][]) {
      writeFileSync(path, joinParts(all));
      const { code, output } = verify(path);
      expect(output).toMatch(/^error: cannot read the image: .*two\.tar/m);
      expect(output).toContain(name);
      expect(code).toBe(3);
      const made = pipeline(...make);
      expect(made.code, made.output).toBe(0);
      expect(made.output).not.toContain(" exists: ");
      expect(verify(path).output).toContain("bit for bit");
    }
  });

  test.skipIf(!Bun.which("skopeo"))("what skopeo has copied: exit 0, layer by layer", () => {
    const copy = join(directory, "skopeo.tar");
    must([
      "skopeo",
      "copy",
      "--quiet",
      "--insecure-policy",
      `docker-archive:${good}:${id}`,
      `docker-archive:${copy}:${id}`,
    ]);
    const { code, output } = verify(copy);
    expect(output).toContain("layer by layer");
    expect(code, output).toBe(0);
  });

  test("one bit of the config: exit 1", async () => {
    const { configEntry } = (await readArchiveIndex(good))!;
    const at = readFileSync(good).indexOf(Buffer.from("65532:65532"), configEntry.offset);
    const { code, output } = verify(await altered(undefined, at));
    expect(output).toContain('config: config.User is "75532:65532", not "65532:65532"');
    expect(output).toContain("the config is damaged");
    expect(code).toBe(1);
  });

  test.each<[string, (path: string) => void]>([
    ["truncated", (path) => truncateSync(path, 30_000_000)],
    ["no archive", (path) => writeFileSync(path, "something else")],
    ["a directory", (path) => void must(["sh", "-c", `rm ${path} && mkdir ${path}`])],
  ])("%s: exit 3 with its name", (name, change) => {
    const path = join(directory, `${name}.tar`.replace(" ", "-"));
    cpSync(good, path);
    change(path);
    const { code, output } = verify(path);
    expect(output).toContain(`error: cannot read the image: `);
    expect(output).toContain(path);
    expect(code).toBe(3);
  });

  test("from other source: exit 1, with the commit to check out", () => {
    const first = head();
    rewrite(join(project, "src/build-info.ts"), /$/, "// edited\n");
    const dirty = verify(good);
    expect(dirty.output).toMatch(/^name: helloapp:[0-9a-f]{12}, helloapp:other, not helloapp:[0-9a-f]{12}$/m);
    expect(dirty.output).toContain(`error: good.tar does not match the working tree. It was built from commit`);
    expect(dirty.output).toContain(`\`git stash\` and \`git checkout ${first}\``);
    expect(dirty.code).toBe(1);
    git("commit", "--quiet", "--all", "--message", "second");
    const { code, output } = verify(good);
    expect(output).toContain(`It was built from commit ${first}. Run \`git checkout ${first}\``);
    expect(output).not.toMatch(/stash|C library/);
    expect(code).toBe(1);
    git("checkout", "--quiet", first);
    expect(verify(good).code).toBe(0);
  });

  test("leaves nothing in the tree, and nothing of its builds", () => {
    expect(git("status", "--porcelain")).toBe("");
    const cache = join(project, "node_modules/.cache/slipway");
    expect(must(["sh", "-c", `ls -d ${cache}/verify-* 2>/dev/null || true`])).toBe("");
  });
});
