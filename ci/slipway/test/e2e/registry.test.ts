/** Tests pushes to a real registry, with and without a password. skopeo reads the result. */
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeDockerArchive } from "../../image/docker-archive-writer.ts";
import { createLayerReader, readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { resolveDigest, pushImage } from "../../registry/push.ts";
import {
  builtProject,
  describeWith,
  must,
  sameBytes,
  service,
  startRegistry,
  stopRegistries,
  temporaryDirectory,
} from "./setup.ts";

setDefaultTimeout(120_000);

describeWith("push to a registry", ["docker-registry", "skopeo"], () => {
  const directory = temporaryDirectory();
  const archive = join(directory, "helloapp.tar");
  const authFile = join(directory, "auth.json");
  const before = process.env.REGISTRY_AUTH_FILE;
  const { signal } = new AbortController();
  const password = "pass:wörd";
  let dist: string;
  let open: string;
  let closed: string;

  beforeAll(async () => {
    const built = await builtProject();
    dist = built.dist;
    await writeDockerArchive(archive, { service, dist, platform: built.platform, names: [`helloapp:${built.id}`] });
    const hash = await Bun.password.hash(password, { algorithm: "bcrypt", cost: 4 });
    writeFileSync(join(directory, "htpasswd"), `me:${hash}\n`);
    open = await startRegistry(join(directory, "open"));
    closed = await startRegistry(
      join(directory, "closed"),
      `auth: { htpasswd: { realm: test, path: "${directory}/htpasswd" } }`,
    );
    process.env.REGISTRY_AUTH_FILE = authFile;
  });

  afterEach(() => writeFileSync(authFile, "{}"));

  afterAll(async () => {
    await stopRegistries();
    if (before === undefined) delete process.env.REGISTRY_AUTH_FILE;
    else process.env.REGISTRY_AUTH_FILE = before;
  });

  const skopeo = (command: string, ...args: string[]) => must(["skopeo", command, ...args]);

  test("pushes an image whose config and layers skopeo reads unchanged", async () => {
    const reference = `${open}/team/helloapp:one`;
    const digest = await pushImage(archive, reference, { signal });
    const { config, configEntry, layers } = (await readArchiveIndex(archive))!;
    const seen = JSON.parse(skopeo("inspect", "--tls-verify=false", `docker://${reference}`));
    expect(seen.Digest).toBe(digest);
    expect(seen.Architecture).toBe(config.architecture);
    const { offset, size } = configEntry;
    const raw = skopeo("inspect", "--tls-verify=false", "--config", "--raw", `docker://${reference}`);
    expect(raw).toBe(
      await Bun.file(archive)
        .slice(offset, offset + size)
        .text(),
    );
    expect(JSON.parse(raw).rootfs.diff_ids).toEqual(config.rootfs.diff_ids);
    const back = join(directory, "back");
    skopeo("copy", "--src-tls-verify=false", "--dest-decompress", `docker://${reference}`, `dir:${back}`);
    const unpacked = config.rootfs.diff_ids.map((diffId) => join(back, diffId.replace("sha256:", "")));
    const content = createLayerReader(archive, layers);
    for (const [index, layer] of layers.entries())
      expect(Buffer.compare(await Bun.file(unpacked[index]!).bytes(), await content.unpacked(layer))).toBe(0);
    expect(await resolveDigest(reference, { signal })).toBe(digest);
    expect(await resolveDigest(`${open}/team/helloapp:other`, { signal })).toBeUndefined();
  });

  test("sends nothing the second time, and only the manifest for a second tag", async () => {
    const sent: string[] = [];
    using counter = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch(request) {
        const url = new URL(request.url);
        if (request.method !== "GET" && request.method !== "HEAD") sent.push(`${request.method} ${url.pathname}`);
        const { method, headers, body } = request;
        return fetch(`http://${open}${url.pathname}${url.search}`, { method, headers, body, proxy: false });
      },
    });
    const reference = `127.0.0.1:${counter.port}/twice/helloapp:one`;
    const digest = await pushImage(archive, reference, { signal });
    expect(sent.filter((call) => call.startsWith("PUT"))).toHaveLength(4);
    sent.length = 0;
    expect(await pushImage(archive, reference, { signal })).toBe(digest);
    expect(sent).toEqual([]);
    expect(await pushImage(archive, reference.replace("one", "two"), { signal })).toBe(digest);
    expect(sent).toEqual(["PUT /v2/twice/helloapp/manifests/two"]);
  });

  test("attaches the SBOM, listed by tag if the registry does not support referrers", async () => {
    const reference = `${open}/attached/helloapp:one`;
    const sbom = join(dist, "sbom.cdx.json");
    const image = await pushImage(archive, reference, { signal, sbom });
    const raw = (name: string) =>
      JSON.parse(skopeo("inspect", "--tls-verify=false", "--raw", `docker://${open}/attached/helloapp${name}`));
    const { manifests } = raw(`:${image.replace(":", "-")}`);
    expect(manifests).toEqual([
      expect.objectContaining({ artifactType: "application/vnd.cyclonedx+json", size: expect.any(Number) }),
    ]);
    const [{ digest }] = manifests;
    expect(raw(`@${digest}`).subject.digest).toBe(image);
    const back = join(directory, "attached");
    skopeo("copy", "--src-tls-verify=false", `docker://${open}/attached/helloapp@${digest}`, `dir:${back}`);
    const [layer] = raw(`@${digest}`).layers;
    expect(await sameBytes(join(back, layer.digest.replace("sha256:", "")), sbom)).toBe(true);
    // The second push neither sends nor lists it again.
    expect(await pushImage(archive, reference, { signal, sbom })).toBe(image);
    expect(raw(`:${image.replace(":", "-")}`).manifests).toEqual(manifests);
  });

  test("`push` creates an index of two platforms that skopeo reads", async () => {
    const built = await builtProject();
    const other = built.platform.architecture === "amd64" ? "arm64" : "amd64";
    const elsewhere = join(directory, "other.tar");
    const names = [`helloapp:${"f".repeat(12)}`];
    // The content is that of this machine. The test checks only which config a client gets.
    await writeDockerArchive(elsewhere, { service, dist, platform: { os: "linux", architecture: other }, names });
    for (const file of ["helloapp.cdx.json", "other.cdx.json"])
      writeFileSync(join(directory, file), await Bun.file(join(dist, "sbom.cdx.json")).text());

    const to = `${open}/both/helloapp`;
    const command = ["ci/pipeline.ts", "push", archive, elsewhere, "--registry", to, "--tag", "v1"];
    const lines = must([process.execPath, ...command], { env: { GITHUB_STEP_SUMMARY: undefined } });
    const [, digest] = /^(sha256:\S+) is .*:v1, for linux\/amd64 and linux\/arm64 /m.exec(lines) ?? [];
    for (const architecture of ["amd64", "arm64"]) {
      const selection = ["--tls-verify=false", `--override-arch=${architecture}`];
      const seen = JSON.parse(skopeo("inspect", ...selection, "--config", `docker://${to}@${digest}`));
      expect(seen.architecture).toBe(architecture);
    }
    const raw = skopeo("inspect", "--tls-verify=false", "--raw", `docker://${to}:v1`);
    expect(`sha256:${new Bun.CryptoHasher("sha256").update(raw).digest("hex")}`).toBe(digest!);
    // Copies the index with all images unchanged.
    skopeo("copy", "--all", "--src-tls-verify=false", `docker://${to}:v1`, `dir:${join(directory, "both")}`);
  });

  test("finds the password that `skopeo login` stored", async () => {
    const login = ["--tls-verify=false", "--authfile", authFile, "-u", "me", "-p", password];
    skopeo("login", ...login, closed);
    const reference = `${closed}/team/helloapp:one`;
    const digest = await pushImage(archive, reference, { signal });
    expect(await resolveDigest(reference, { signal })).toBe(digest);
  });

  test("reports a wrong password without printing it", async () => {
    const auth = Buffer.from("me:wrong").toString("base64");
    writeFileSync(authFile, JSON.stringify({ auths: { [closed]: { auth } } }));
    const error = await pushImage(archive, `${closed}/team/helloapp:two`, { signal }).catch((error) => error);
    expect(error.message).toContain("401, UNAUTHORIZED: authentication required");
    expect(error.hint).toContain("The credentials found");
    expect(Bun.inspect(error)).not.toMatch(new RegExp(`wrong|${auth}`));
  });
});
