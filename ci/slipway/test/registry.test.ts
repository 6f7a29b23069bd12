/** Tests pushes to a fake registry: the protocol, the use of credentials, and error messages. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import { readArchiveIndex } from "../image/docker-archive-reader.ts";
import { findCredentials } from "../registry/credentials.ts";
import { resolveDigest, pushImage, pushIndex } from "../registry/push.ts";
import { parseReference } from "../registry/reference.ts";
import type { RegistryOptions } from "../registry/authorized-requests.ts";
import { PipelineError } from "../core/errors.ts";
import { service } from "./helloapp-service.ts";
import { indexType, serve, sha256, startRegistry, stopServers, type Handler } from "./fake-servers.ts";
import { image, join as joinParts, layout, part, type Part } from "./edit-tar.ts";

const base64 = (text: string) => Buffer.from(text).toString("base64");
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

const variables = ["HOME", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"];
const before = Object.fromEntries([...variables, "PATH", "HTTP_PROXY"].map((name) => [name, process.env[name]]));
const directory = mkdtempSync(join(tmpdir(), "helloapp-registry-"));
const archive = join(directory, "helloapp.tar");
/** With layers that a test can change as text. */
const plain = join(directory, "plain.tar");
const sbom = join(directory, "helloapp.cdx.json");
const sbomText = '{"bomFormat":"CycloneDX"}\n';
let home: string;

beforeAll(async () => {
  for (const layer of ["runtime", "app"]) {
    mkdirSync(join(directory, "dist", layer), { recursive: true });
    writeFileSync(join(directory, "dist", layer, "file"), layer.repeat(1000));
  }
  const content = {
    service,
    platform: { os: "linux", architecture: "amd64" },
    dist: join(directory, "dist"),
  } as const;
  await writeDockerArchive(archive, { ...content, names: ["helloapp:1"] });
  await writeDockerArchive(plain, { ...content, names: ["helloapp:1"], compression: "none" });
  writeFileSync(sbom, sbomText);
});

beforeEach(() => {
  for (const name of variables) delete process.env[name];
  home = mkdtempSync(join(directory, "home-"));
  process.env.HOME = home;
  process.env.XDG_RUNTIME_DIR = join(home, "run");
});

afterEach(async () => {
  await stopServers();
  for (const [name, value] of Object.entries(before)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

afterAll(() => rmSync(directory, { recursive: true }));

const options: RegistryOptions = { signal: new AbortController().signal, pauseSeconds: 0 };

/** Writes a file of credentials into the home directory. */
function login(path: string, content: unknown): void {
  mkdirSync(dirname(join(home, path)), { recursive: true });
  writeFileSync(join(home, path), typeof content === "string" ? content : JSON.stringify(content));
}

/** Puts a credential helper on PATH that stores its input. */
function helper(name: string, script: string): void {
  const program = join(home, `docker-credential-${name}`);
  writeFileSync(program, `#!/bin/sh\ncat > ${home}/asked\n${script}\n`);
  chmodSync(program, 0o755);
  process.env.PATH = `${home}:${before.PATH}`;
}

const basic = `Basic ${base64("me:pass:word")}`;
const unauthorized = (challenge: string) =>
  Response.json(
    { errors: [{ code: "UNAUTHORIZED", message: "authentication required" }] },
    { status: 401, headers: { "WWW-Authenticate": challenge } },
  );
const wantsBasic: Handler = (request) =>
  request.headers.get("authorization") === basic ? undefined : unauthorized('Basic realm="x"');

describe("reference", () => {
  test.each([
    ["docker.io/app:1", "https://registry-1.docker.io", "docker.io", "library/app"],
    ["index.docker.io/me/app:1", "https://registry-1.docker.io", "docker.io", "me/app"],
    ["ghcr.io/me/my_app/x-y.z:1", "https://ghcr.io", "ghcr.io", "me/my_app/x-y.z"],
    ["10.0.0.1:5001/app:1", "https://10.0.0.1:5001", "10.0.0.1:5001", "app"],
    ["localhost/app:1", "http://localhost", "localhost", "app"],
    ["127.8.9.1:81/app:1", "http://127.8.9.1:81", "127.8.9.1:81", "app"],
    ["[::1]:81/app:1", "http://[::1]:81", "[::1]:81", "app"],
    ["localhost.example.com/app:1", "https://localhost.example.com", "localhost.example.com", "app"],
    ["127.0.0.1.example.com/app:1", "https://127.0.0.1.example.com", "127.0.0.1.example.com", "app"],
  ])("%s is at %s", (reference, origin, registry, path) => {
    expect(parseReference(reference)).toEqual({ origin, registry, path, tag: "1" });
  });

  test.each(["app:1", "me/app:1", "ghcr.io/app", "ghcr.io/App:1", "ghcr.io/a//b:1", "ghcr.io/../b:1", "x:99999/a:1"])(
    "%s is refused",
    (reference) => {
      expect(() => parseReference(reference)).toThrow(`"${reference}" is not of the form REGISTRY`);
    },
  );

  test("a password is not printed", () => {
    expect(() => parseReference("me:secret@ghcr.io/app:1")).toThrow('"…@ghcr.io/app:1" is not of the form');
  });
});

describe("push", () => {
  test("creates an OCI image with the same config, and layers that match their diffIDs", async () => {
    const { reference, blobs, manifests } = startRegistry();
    const digest = await pushImage(archive, reference, options);
    const { type, body } = manifests.get("1")!;
    const manifest = JSON.parse(Buffer.from(body).toString());
    expect(digest).toBe(sha256(body));
    expect(type).toBe("application/vnd.oci.image.manifest.v1+json");
    expect(manifest).toMatchObject({
      schemaVersion: 2,
      mediaType: type,
      config: { mediaType: "application/vnd.oci.image.config.v1+json" },
      layers: Array(2).fill({ mediaType: "application/vnd.oci.image.layer.v1.tar+zstd" }),
    });
    const { config, configEntry } = (await readArchiveIndex(archive))!;
    const { offset, size } = configEntry;
    const configBytes = await Bun.file(archive)
      .slice(offset, offset + size)
      .bytes();
    expect(manifest.config).toMatchObject({ digest: sha256(configBytes), size });
    expect(blobs.has(manifest.config.digest)).toBe(true);
    const layers = manifest.layers.map(({ digest }: { digest: string }) => blobs.get(digest)!);
    expect(layers.map((layer: Uint8Array) => layer.length)).toEqual(
      manifest.layers.map(({ size }: { size: number }) => size),
    );
    expect(layers.map((layer: Uint8Array) => sha256(Bun.zstdDecompressSync(layer)))).toEqual(config.rootfs.diff_ids);
  });

  test.each<[string, () => Part[]]>([
    ["with gzip", () => image([[part("lib", "libc")], [part("helloapp", "x")]], { store: (tar) => gzipSync(tar) })],
    ["with an OCI layout", () => layout(image([[part("lib", "libc")], [part("helloapp", "x")]]))],
  ])("compresses the layers of another tool's archive %s with zstd", async (_, parts) => {
    const { reference, blobs, manifests } = startRegistry();
    const path = join(directory, "another.tar");
    writeFileSync(path, joinParts(parts()));
    await pushImage(path, reference, options);
    const { layers } = JSON.parse(Buffer.from(manifests.get("1")!.body).toString());
    const { config } = (await readArchiveIndex(path))!;
    const unpacked = layers.map(({ digest }: { digest: string }) => sha256(Bun.zstdDecompressSync(blobs.get(digest)!)));
    expect(unpacked).toEqual(config.rootfs.diff_ids);
  });

  test("refuses a decompression bomb", async () => {
    const { reference, manifests } = startRegistry();
    const path = join(directory, "bomb.tar");
    const store = () => Bun.zstdCompressSync(Buffer.alloc(2 ** 26));
    writeFileSync(path, joinParts(image([[part("helloapp", "x")]], { store })));
    expect((await failureOf(pushImage(path, reference, options))).message).toContain("larger than 16777216 bytes");
    expect(manifests.size).toBe(0);
  });

  test("returns the digest that resolveDigest() finds, but not under another tag", async () => {
    const { reference } = startRegistry();
    expect(await resolveDigest(reference, options)).toBeUndefined();
    const digest = await pushImage(archive, reference, options);
    expect(await resolveDigest(reference, options)).toBe(digest);
    expect(await resolveDigest(reference.replace(/1$/, "2"), options)).toBeUndefined();
  });

  test("resolveDigest() computes the digest if the registry does not return it", async () => {
    const { reference } = startRegistry(({ method }) => new Response(method === "GET" ? "{}" : null));
    expect(await resolveDigest(reference, options)).toBe(sha256("{}"));
  });

  test.each(["sha256:abc", `sha512:${"0".repeat(128)}`, "latest", `sha256:${"A".repeat(64)}`])(
    "resolveDigest() refuses %s, which is not a digest",
    async (given) => {
      const { reference } = startRegistry(() => new Response(null, { headers: { "Docker-Content-Digest": given } }));
      const error = await failureOf(resolveDigest(reference, options));
      expect(error.kind).toBe("environment");
      expect(error.message).toContain(`"${given}", which is not a digest`);
    },
  );

  test.each(["../../x", 5, undefined])("overwrites a manifest with the config %p", async (digest) => {
    const { reference, manifests, requests } = startRegistry();
    const odd = { config: { digest }, layers: [{ digest: "../../other" }] };
    manifests.set("1", { type: "x", body: Buffer.from(JSON.stringify(odd)) });
    await pushImage(archive, reference, options);
    expect(requests.filter(({ url }) => url.pathname.includes("other") || url.pathname === "/v2/x")).toEqual([]);
    expect(JSON.parse(Buffer.from(manifests.get("1")!.body).toString())).toMatchObject({
      schemaVersion: 2,
    });
  });

  test("sends nothing the second time, and only the manifest for another tag", async () => {
    const { reference, calls } = startRegistry();
    const digest = await pushImage(archive, reference, options);
    expect(calls(/^(POST|PUT)/)).toHaveLength(3 + 3 + 1);
    expect(await pushImage(archive, reference, options)).toBe(digest);
    expect(calls(/^(POST|PUT)/)).toHaveLength(7);
    expect(await pushImage(archive, reference.replace(/1$/, "2"), options)).toBe(digest);
    expect(
      calls(/^(POST|PUT)/)
        .slice(7)
        .map(({ call }) => call),
    ).toEqual(["PUT /v2/team/app/manifests/2"]);
  });

  test("sends a blob that the registry has lost, even if the manifest exists", async () => {
    const { reference, blobs } = startRegistry();
    await pushImage(archive, reference, options);
    const [lost] = blobs.keys();
    blobs.delete(lost!);
    await pushImage(archive, reference, options);
    expect([...blobs.keys()]).toContain(lost!);
  });

  test("overwrites another image under the tag", async () => {
    const { reference, blobs, manifests } = startRegistry();
    const other = { config: { digest: sha256("other") }, layers: [{ digest: sha256("other") }] };
    blobs.set(sha256("other"), Buffer.from("other"));
    manifests.set("1", { type: "x", body: Buffer.from(JSON.stringify(other)) });
    const digest = await pushImage(archive, reference, options);
    expect(sha256(manifests.get("1")!.body)).toBe(digest);
    expect(blobs.size).toBe(1 + 3);
  });

  test("aborts the other uploads if an upload is refused", async () => {
    const ended = Promise.withResolvers<void>();
    let started = false;
    const { reference } = startRegistry(({ method, signal }) => {
      if (method !== "POST") return undefined;
      if (started) return new Response(null, { status: 403 });
      started = true;
      signal.addEventListener("abort", () => ended.resolve());
      return new Promise<never>(() => {});
    });
    expect((await failureOf(pushImage(archive, reference, options))).message).toContain("(403)");
    await ended.promise;
  });

  test("keeps the query of an upload's URL", async () => {
    const { reference, calls } = startRegistry();
    await pushImage(archive, reference, options);
    const [first] = calls(/^PUT .*uploads/);
    expect(first!.url.search).toMatch(/^\?_state=a%20b~c&digest=sha256%3A[\da-f]{64}$/);
  });

  test.each([
    ["an uploaded blob", /^PUT .*blobs/],
    ["an existing blob", /^HEAD .*blobs/],
    ["an uploaded manifest", /^PUT .*manifests/],
    ["an existing manifest", /^GET .*manifests/],
  ])("stops if the registry returns another digest for %s", async (_, pattern) => {
    const { reference } = startRegistry(({ method }, { pathname }) =>
      pattern.test(`${method} ${pathname}`)
        ? new Response("{}", { headers: { "Docker-Content-Digest": sha256("other") } })
        : undefined,
    );
    const error = await failureOf(pushImage(archive, reference, options));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain(`returned the digest ${sha256("other")}, expected sha256:`);
  });

  test.each([
    ["is missing", () => "/nonexistent.tar", "file not found"],
    ["is not a tar", () => join(import.meta.dir, "registry.test.ts"), "not a tar file"],
    ["has a changed layer", () => changed("appapp", "Appapp"), "does not match its diffID in the config"],
    [
      "has a changed config",
      () => changed('"WorkingDir":"/srv"', '"WorkingDir":"/sry"'),
      "does not match the digest in its name",
    ],
    [
      "has the wrong number of diffIDs",
      () => changed('"diff_ids":["', '"Diff_ids":["'),
      "the config lists 0 layers, but the archive has 2",
    ],
  ])("reports an archive that %s", async (_, path, reason) => {
    const { reference, manifests } = startRegistry();
    const error = await failureOf(pushImage(path(), reference, options));
    expect(error).toBeInstanceOf(PipelineError);
    expect(error.kind).toBe("environment");
    expect(error.message).toStartWith(path());
    expect(error.message).toContain(reason);
    expect(manifests.size).toBe(0);
  });

  /** Creates an archive with replaced text of the same size. */
  function changed(from: string, to: string): string {
    const bytes = readFileSync(plain);
    bytes.write(to, bytes.indexOf(from));
    const path = join(directory, "changed.tar");
    writeFileSync(path, bytes);
    return path;
  }
});

describe("push of several platforms", () => {
  const ids = { amd64: "a".repeat(12), arm64: "b".repeat(12) };
  const archives: string[] = [];

  /** Writes an archive with content for an architecture. */
  async function archiveFor(architecture: "amd64" | "arm64", names: string[], file: string): Promise<string> {
    const dist = join(directory, `dist-${architecture}`);
    for (const layer of ["runtime", "app"]) {
      mkdirSync(join(dist, layer), { recursive: true });
      writeFileSync(join(dist, layer, "file"), `${layer} ${architecture}`);
    }
    const path = join(directory, file);
    await writeDockerArchive(path, { service, platform: { os: "linux", architecture }, dist, names });
    return path;
  }

  beforeAll(async () => {
    archives.push(
      await archiveFor("amd64", [`helloapp:${ids.amd64}`], "amd64.tar"),
      await archiveFor("arm64", [`helloapp:${ids.arm64}`, "helloapp:more"], "arm64.tar"),
    );
  });

  const repositoryOf = ({ reference }: { reference: string }) => reference.replace(/:1$/, "");

  test("pushes each image under its ID, and an index with the platforms under each tag", async () => {
    const registry = startRegistry();
    const pushed = await pushIndex(service.name, archives, repositoryOf(registry), ["v1", "latest"], options);
    const { type, body } = registry.manifests.get("v1")!;
    expect(type).toBe(indexType);
    expect(pushed).toEqual({ digest: sha256(body), platforms: ["linux/amd64", "linux/arm64"] });
    expect(registry.manifests.get("latest")!.body).toEqual(body);
    const described = (architecture: "amd64" | "arm64") => {
      const { body, type } = registry.manifests.get(ids[architecture])!;
      const platform = { architecture, os: "linux" };
      return { mediaType: type, digest: sha256(body), size: body.length, platform };
    };
    expect(registry.manifest("v1")).toEqual({
      schemaVersion: 2,
      mediaType: indexType,
      manifests: [described("amd64"), described("arm64")],
    });
    expect([...registry.manifests.keys()].sort()).toEqual([ids.amd64, ids.arm64, "latest", "v1"].sort());
  });

  test("does not depend on the order, and sends nothing the second time", async () => {
    const registry = startRegistry();
    const first = await pushIndex(service.name, archives, repositoryOf(registry), ["v1"], options);
    const sent = registry.calls(/^(POST|PUT)/).length;
    expect(await pushIndex(service.name, archives.toReversed(), repositoryOf(registry), ["v1"], options)).toEqual(
      first,
    );
    expect(registry.calls(/^(POST|PUT)/)).toHaveLength(sent);
  });

  test("attaches the right SBOM to each image before it pushes the index", async () => {
    const registry = startRegistry(undefined, { keepsAccount: true });
    const sbomOf = (archive: string) => {
      const path = `${archive}.sbom`;
      writeFileSync(path, JSON.stringify({ of: archive }));
      return path;
    };
    await pushIndex(service.name, archives, repositoryOf(registry), ["v1"], { ...options, sbomOf });
    const { manifests } = registry.manifest("v1") as { manifests: { digest: string }[] };
    for (const [index, { digest }] of manifests.entries()) {
      const [referrer] = [...registry.manifests.values()]
        .map(({ body }) => JSON.parse(Buffer.from(body).toString()))
        .filter(({ subject }) => subject?.digest === digest);
      const content = registry.blobs.get(referrer.layers[0].digest)!;
      expect(JSON.parse(Buffer.from(content).toString())).toEqual({ of: archives[index]! });
    }
    expect(registry.calls(/^PUT .*manifests/).at(-1)!.call).toEndWith("/manifests/v1");
  });

  test("pushes a single archive without tags as an image without an index", async () => {
    const registry = startRegistry();
    const { digest } = await pushIndex(service.name, archives.slice(0, 1), repositoryOf(registry), [], options);
    expect([...registry.manifests.keys()]).toEqual([ids.amd64]);
    expect(digest).toBe(sha256(registry.manifests.get(ids.amd64)!.body));
  });

  test.each([
    ["two archives for one platform", () => [archives[0]!, archives[0]!], "usage", "both for linux/amd64"],
    ["an archive without an ID", () => [archive], "environment", "helloapp:<id>"],
    ["a missing archive", () => [archives[0]!, "/nowhere.tar"], "environment", "file not found"],
  ])("sends nothing with %s", async (_, given, fault, message) => {
    const registry = startRegistry();
    const error = await failureOf(pushIndex(service.name, given(), repositoryOf(registry), ["v1"], options));
    expect(error.kind).toBe(fault as PipelineError["kind"]);
    expect(error.message).toContain(message);
    expect(registry.requests).toEqual([]);
  });
});

describe("the SBOM of a push", () => {
  const withSbom = { ...options, sbom };
  const sbomType = "application/vnd.cyclonedx+json";
  const fallbackTag = (digest: string) => digest.replace(":", "-");
  /** Lists the manifests in a registry that have a subject. */
  const referrersOf = ({ manifests }: ReturnType<typeof startRegistry>) =>
    [...manifests].flatMap(([name, { type, body }]) => {
      const content = JSON.parse(Buffer.from(body).toString());
      return content.subject ? [{ name, type, content, size: body.length }] : [];
    });

  test("is a manifest with the image as subject, without a list if the registry supports referrers", async () => {
    const registry = startRegistry(undefined, { keepsAccount: true });
    const image = await pushImage(archive, registry.reference, withSbom);
    const [referrer, ...others] = referrersOf(registry);
    expect(others).toEqual([]);
    const { content, name, type } = referrer!;
    expect(name).toBe(sha256(registry.manifests.get(name)!.body));
    expect(type).toBe("application/vnd.oci.image.manifest.v1+json");
    expect(content).toEqual({
      schemaVersion: 2,
      mediaType: type,
      artifactType: sbomType,
      config: { mediaType: "application/vnd.oci.empty.v1+json", digest: sha256("{}"), size: 2 },
      layers: [
        {
          mediaType: sbomType,
          digest: sha256(sbomText),
          size: sbomText.length,
          annotations: { "org.opencontainers.image.title": "sbom.cdx.json" },
        },
      ],
      subject: { mediaType: type, digest: image, size: registry.manifests.get("1")!.body.length },
    });
    expect(Buffer.from(registry.blobs.get(sha256("{}"))!).toString()).toBe("{}");
    expect(Buffer.from(registry.blobs.get(sha256(sbomText))!).toString()).toBe(sbomText);
    expect([...registry.manifests.keys()].sort()).toEqual(["1", image, name].sort());
  });

  test("is listed under a tag with the image's digest if the registry does not support referrers", async () => {
    const registry = startRegistry();
    const image = await pushImage(archive, registry.reference, withSbom);
    const [{ name, size } = expect.unreachable()] = referrersOf(registry);
    expect(registry.manifests.get(fallbackTag(image))!.type).toBe(indexType);
    expect(registry.manifest(fallbackTag(image))).toEqual({
      schemaVersion: 2,
      mediaType: indexType,
      manifests: [
        {
          mediaType: "application/vnd.oci.image.manifest.v1+json",
          digest: name,
          size,
          artifactType: sbomType,
        },
      ],
    });
  });

  test.each([
    ["with a page", () => new Response("<html>", { headers: { "Content-Type": "text/html" } })],
    ["with an unsupported method", () => new Response(null, { status: 405 })],
  ])("is listed under the tag if the registry replies %s", async (_, answer) => {
    const registry = startRegistry((__, { pathname }) => (pathname.includes("/referrers/") ? answer() : undefined));
    const image = await pushImage(archive, registry.reference, withSbom);
    expect(registry.manifest(fallbackTag(image)).manifests).toHaveLength(1);
  });

  test.each([true, false])("is not sent twice (registry supports referrers: %p)", async (keepsAccount) => {
    const registry = startRegistry(undefined, { keepsAccount });
    const { reference, calls } = registry;
    const image = await pushImage(archive, reference, withSbom);
    const sent = calls(/^(POST|PUT)/).length;
    expect(await pushImage(archive, reference, withSbom)).toBe(image);
    expect(calls(/^(POST|PUT)/)).toHaveLength(sent);
    expect(calls(/^GET .*referrers/).map(({ url }) => url.searchParams.get("artifactType"))).toEqual([
      sbomType,
      sbomType,
    ]);
  });

  test("is attached to an image that was pushed without it", async () => {
    const registry = startRegistry();
    const image = await pushImage(archive, registry.reference, options);
    expect(referrersOf(registry)).toEqual([]);
    await pushImage(archive, registry.reference, withSbom);
    expect(referrersOf(registry)[0]!.content.subject.digest).toBe(image);
  });

  test("is added to an existing list", async () => {
    const registry = startRegistry();
    const image = await pushImage(archive, registry.reference, options);
    const signature = { mediaType: "x", digest: sha256("signature"), size: 1, annotations: { by: "me" } };
    const list = { schemaVersion: 2, manifests: [signature], annotations: { a: "b" } };
    const body = Buffer.from(JSON.stringify(list));
    registry.manifests.set(fallbackTag(image), { type: indexType, body });
    await pushImage(archive, registry.reference, withSbom);
    const index = registry.manifest(fallbackTag(image));
    expect(index.manifests).toEqual([signature, expect.objectContaining({ artifactType: sbomType })]);
    expect(index).toMatchObject({ mediaType: indexType, annotations: { a: "b" } });
  });

  test("does not overwrite the list's tag if it is not a list", async () => {
    const registry = startRegistry();
    const image = await pushImage(archive, registry.reference, options);
    const body = Buffer.from("{}");
    registry.manifests.set(fallbackTag(image), { type: "x", body });
    const error = await failureOf(pushImage(archive, registry.reference, withSbom));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain(`${fallbackTag(image)} is not a list`);
    expect(registry.manifests.get(fallbackTag(image))!.body).toBe(body);
  });

  test.each([
    ["is refused", "403", { answer: 403, path: sbom }],
    ["is missing", "SBOM /nonexistent not found", { answer: undefined, path: "/nonexistent" }],
  ])(
    "is pushed before the tag, so that the image is not found if the SBOM %s",
    async (_, message, { answer, path }) => {
      const { reference, manifests } = startRegistry(async (request) => {
        if (!answer || request.method !== "PUT") return undefined;
        const refers = (await request.clone().text()).includes('"subject"');
        return refers ? new Response(null, { status: answer }) : undefined;
      });
      const error = await failureOf(pushImage(archive, reference, { ...options, sbom: path }));
      expect(error.kind).toBe("environment");
      expect(error.message).toContain(message);
      expect(manifests.has("1")).toBe(false);
      expect(await resolveDigest(reference, options)).toBeUndefined();
    },
  );
});

describe("transient failures", () => {
  const busy = () => new Response(null, { status: 503, headers: { "Retry-After": "0" } });

  test.each([429, 500, 502, 503, 504])("status %d is retried, with three attempts in total", async (status) => {
    const { reference, requests } = serveReference(() => new Response(null, { status }));
    const lines: string[] = [];
    const error = await failureOf(resolveDigest(reference, { ...options, log: (line) => lines.push(line) }));
    expect(error.message).toContain(`(${status})`);
    expect(requests).toHaveLength(3);
    expect(lines).toHaveLength(2);
  });

  test("an upload is restarted from the beginning", async () => {
    let failures = 2;
    const { reference, blobs, calls } = startRegistry(({ method }, { pathname }) =>
      method === "PUT" && pathname.includes("/uploads/") && failures-- > 0 ? busy() : undefined,
    );
    // The registry requests a pause of 0 s, which takes precedence.
    await pushImage(archive, reference, { ...options, pauseSeconds: 1000 });
    expect(blobs.size).toBe(3);
    expect(calls(/^POST/)).toHaveLength(5);
  });

  test("a closed connection and a closed port are retried", async () => {
    let connections = 0;
    const listener = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        data(socket) {
          connections += 1;
          socket.terminate();
        },
      },
    });
    const reference = `127.0.0.1:${listener.port}/team/app:1`;
    expect((await failureOf(resolveDigest(reference, options))).message).toContain("closed the connection");
    expect(connections).toBe(3);
    listener.stop(true);
    const lines: string[] = [];
    const error = await failureOf(resolveDigest(reference, { ...options, log: (line) => lines.push(line) }));
    expect(error.message).toBe(`cannot reach 127.0.0.1:${listener.port} (ECONNREFUSED)`);
    expect(lines).toHaveLength(2);
  });

  test("a registry that starts meanwhile is found", async () => {
    const { host, url } = serve(() => undefined);
    await stopServers();
    const starting = () => void serve(() => undefined, undefined, Number(new URL(url).port));
    expect(await resolveDigest(`${host}/team/app:1`, { ...options, log: starting })).toBeUndefined();
  });

  test("a timeout is retried", async () => {
    let asked = 0;
    const { reference } = serveReference(() => {
      asked += 1;
      return asked === 1 ? new Promise<never>(() => {}) : new Response(null, { status: 404 });
    });
    // Long enough for a reply to the second request on a busy machine.
    expect(await resolveDigest(reference, { ...options, requestTimeoutSeconds: 3 })).toBeUndefined();
    expect(asked).toBe(2);
  });

  test.each([
    ["seconds", () => "1", 1],
    ["a date by the registry's clock", () => "Thu, 01 Jan 2032 00:00:01 GMT", 1],
    ["negative seconds, which count as 0", () => "-5", 0],
    ["text", () => "soon", 0],
  ])("Retry-After may be %s", async (_, after, seconds) => {
    const lines: string[] = [];
    let failures = 1;
    const { reference } = serveReference(() =>
      failures-- > 0
        ? new Response(null, {
            status: 503,
            headers: { "Retry-After": after(), Date: "Thu, 01 Jan 2032 00:00:00 GMT" },
          })
        : new Response(null, { status: 404 }),
    );
    await resolveDigest(reference, { ...options, log: (line) => lines.push(line) });
    expect(lines).toEqual([expect.stringContaining(`; retrying in ${seconds} s`)]);
  });

  test.each(["3600", "Thu, 01 Jan 2032 01:00:00 GMT"])(
    "a requested pause of an hour (%s) is reported as an error",
    async (after) => {
      const { reference, requests } = serveReference(
        () =>
          new Response(null, {
            status: 429,
            headers: { "Retry-After": after, Date: "Thu, 01 Jan 2032 00:00:00 GMT" },
          }),
      );
      const error = await failureOf(resolveDigest(reference, options));
      expect(error.message).toContain("requests a pause of 3600 s");
      expect(requests).toHaveLength(1);
    },
  );

  test("an interruption ends the pause", async () => {
    const interrupted = new AbortController();
    const { reference } = serveReference(() => new Response(null, { status: 503 }));
    const reason = new PipelineError("interrupted", "interrupted");
    const log = () => interrupted.abort(reason);
    const error = await failureOf(
      resolveDigest(reference, {
        signal: interrupted.signal,
        requestTimeoutSeconds: 1000,
        pauseSeconds: 1000,
        log,
      }),
    );
    expect(error).toBe(reason);
  });
});

const serveReference = (handler: Handler) => {
  const server = serve(handler);
  return { ...server, reference: `${server.host}/team/app:1` };
};

describe("errors", () => {
  const errors = (status: number, code: string, message: string, detail?: unknown) => () =>
    Response.json({ errors: [{ code, message, detail }] }, { status });
  test.each([
    ["401", errors(401, "UNAUTHORIZED", "log in"), "(401, UNAUTHORIZED: log in)", "No credentials for 127.0.0.1"],
    ["403", errors(403, "DENIED", "not\nyours"), "(403, DENIED: not yours)", "`podman login 127.0.0.1"],
    ["404", errors(404, "NAME_UNKNOWN", "no repository"), "NAME_UNKNOWN: no repository", "Check the name team/app."],
    [
      "413",
      () => new Response("<html>", { status: 413 }),
      "refuses the push of team/app:1 (413)",
      "request size limit",
    ],
    ["507", errors(507, "X", "y"), "(507, X: y)", "Free space"],
    [
      "a full disk",
      errors(500, "UNKNOWN", "unknown error", "write /data: no space left on device"),
      "UNKNOWN",
      "Free space",
    ],
    [
      "500",
      errors(500, "UNKNOWN", "unknown error", "write /data: input/output error"),
      "UNKNOWN",
      "the registry's log",
    ],
  ])("%s: reports the registry's errors with a hint", async (_, answer, message, hint) => {
    const { reference, host } = startRegistry(({ method }) => (method === "POST" ? answer() : undefined));
    const error = await failureOf(pushImage(archive, reference, options));
    expect(error.kind).toBe("environment");
    expect(error.message).toStartWith(`${host} refuses the push of team/app:1`);
    expect(error.message).toContain(message);
    expect(error.hint).toContain(hint);
  });

  test("reports missing TLS, and sends nothing to the registry", async () => {
    // A name of this machine that is none of those for which plain HTTP will do.
    const { host, requests } = serve(() => new Response());
    const error = await failureOf(resolveDigest(`${host.replace("127.0.0.1", "0.0.0.0")}/team/app:1`, options));
    expect(error.message).toContain("no TLS that this machine trusts");
    expect(error.hint).toContain("NODE_EXTRA_CA_CERTS");
    expect(requests).toEqual([]);
  });

  test("reports a timeout for a missing or incomplete reply", async () => {
    const silent = serveReference(() => new Promise<never>(() => {}));
    const half = serveReference(
      () =>
        new Response(new ReadableStream({ pull: () => new Promise<never>(() => {}), start: (c) => c.enqueue("{") })),
    );
    const patient = { ...options, requestTimeoutSeconds: 0.05 };
    const given = [resolveDigest(silent.reference, patient), pushImage(archive, half.reference, patient)];
    for (const { message } of await Promise.all(given.map(failureOf)))
      expect(message).toContain("did not reply within 0.05 s");
  });

  test("an interruption ends a request with its own reason", async () => {
    const interrupted = new AbortController();
    const reason = new PipelineError("interrupted", "interrupted");
    const { reference } = serveReference(() => {
      interrupted.abort(reason);
      return new Promise<never>(() => {});
    });
    expect(await failureOf(pushImage(archive, reference, { signal: interrupted.signal }))).toBe(reason);
  });

  test("reports an upload without a Location header", async () => {
    const { reference } = startRegistry(({ method }) =>
      method === "POST" ? new Response(null, { status: 202 }) : undefined,
    );
    expect((await failureOf(pushImage(archive, reference, options))).message).toContain("without a Location header");
  });
});

describe("authentication", () => {
  /**
   * Starts a registry with a token endpoint.
   *
   * @param uses how often the first token is valid. Later tokens are always valid
   */
  function startWithTokens(grant: (request: Request, url: URL) => Response | undefined, uses = Infinity) {
    const left = new Map<string, number>();
    let granted = 0;
    const tokens = serve(async (request, url) => {
      const refused = grant(request, url);
      if (refused) return refused;
      const token = `t${++granted}`;
      left.set(token, granted === 1 ? uses : Infinity);
      return Response.json({ token });
    });
    const registry = startRegistry((request) => {
      const token = request.headers.get("authorization")?.replace("Bearer ", "") ?? "";
      const remaining = left.get(token) ?? 0;
      left.set(token, remaining - 1);
      if (remaining > 0) return undefined;
      return unauthorized(`Bearer realm="${tokens.url}/token?x=y",service="s 1",scope="repository:team/app:pull"`);
    });
    return { ...registry, tokens };
  }

  test("sends Basic credentials only after a challenge", async () => {
    const { reference, requests, host, manifests } = startRegistry(wantsBasic);
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:pass:word") } } });
    await pushImage(archive, reference, options);
    expect(requests.map(({ authorization }) => authorization)).toEqual([
      null,
      ...Array(requests.length - 1).fill(basic),
    ]);
    expect(manifests.size).toBe(1);
  });

  test("requests one token for the push, and sends credentials only to the token endpoint", async () => {
    const { reference, requests, host, tokens } = startWithTokens(() => undefined);
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:pass:word") } } });
    await pushImage(archive, reference, options);
    expect(tokens.requests).toHaveLength(1);
    const [{ authorization, url }] = tokens.requests as [(typeof tokens.requests)[0]];
    expect(authorization).toBe(basic);
    expect(Object.fromEntries(url.searchParams)).toEqual({
      x: "y",
      service: "s 1",
      scope: "repository:team/app:pull,push",
    });
    expect(new Set(requests.map(({ authorization }) => authorization))).toEqual(new Set([null, "Bearer t1"]));
  });

  test("requests a token without credentials, with read-only scope for a lookup", async () => {
    const { reference, tokens } = startWithTokens(() => undefined);
    expect(await resolveDigest(reference, options)).toBeUndefined();
    expect(tokens.requests.map(({ authorization }) => authorization)).toEqual([null]);
    expect(tokens.requests[0]!.url.searchParams.get("scope")).toBe("repository:team/app:pull");
  });

  test("replaces an expired token", async () => {
    const { reference, manifests, tokens } = startWithTokens(() => undefined, 4);
    await pushImage(archive, reference, options);
    expect(manifests.size).toBe(1);
    expect(tokens.requests.length).toBeGreaterThan(1);
  });

  test.each<[string, (realm: string) => string | string[]]>([
    ["with spaces around", (realm) => `Bearer realm = "${realm}" , service = "s 1"`],
    ["without quotes", (realm) => `Bearer realm=${realm}, service="s 1"`],
    ["with the service unquoted", (realm) => `Bearer service=s, realm="${realm}"`],
    ["with escapes", (realm) => `Bearer realm="${realm.replace("t", "\\t")}"`],
    ["with others in one header", (realm) => `Negotiate YII=, Basic realm="x, y", bearer realm="${realm}"`],
    ["before another", (realm) => `Bearer realm="${realm}", Basic realm="http://nowhere.invalid"`],
    ["in a separate header", (realm) => ['Basic realm="x"', `Bearer realm="${realm}"`]],
  ])("handles a challenge %s", async (_, challenge) => {
    const tokens = serve(() => Response.json({ token: "t" }));
    const headers = new Headers();
    for (const one of [challenge(`${tokens.url}/token`)].flat()) headers.append("WWW-Authenticate", one);
    const { reference, requests } = startRegistry((request) =>
      request.headers.get("authorization") === "Bearer t" ? undefined : new Response(null, { status: 401, headers }),
    );
    expect(await resolveDigest(reference, options)).toBeUndefined();
    expect(requests.map(({ authorization }) => authorization)).toEqual([null, "Bearer t"]);
  });

  test.each([
    { token: "t", access_token: "" },
    { token: "", access_token: "t" },
    { token: "t", access_token: null },
  ])("accepts an empty second token: %p", async (answer) => {
    const tokens = serve(() => Response.json(answer));
    const { reference, requests } = startRegistry((request) =>
      request.headers.has("authorization") ? undefined : unauthorized(`Bearer realm="${tokens.url}"`),
    );
    expect(await resolveDigest(reference, options)).toBeUndefined();
    expect(requests.at(-1)!.authorization).toBe("Bearer t");
  });

  test("ignores the challenge of a redirect's target", async () => {
    const thief = serve(() => Response.json({ token: "t" }));
    const store = serve(() => unauthorized(`Bearer realm="${thief.url}"`));
    const { reference, host } = startRegistry((request) =>
      request.method === "HEAD" ? Response.redirect(`${store.url}/head`, 307) : undefined,
    );
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:secret") } } });
    expect((await failureOf(resolveDigest(reference, options))).message).toContain("(401)");
    expect(thief.requests).toEqual([]);
  });

  test("follows five redirects, with credentials for the same origin", async () => {
    let hops = 5;
    const { reference, host, requests } = startRegistry((request, { pathname }) => {
      const refused = wantsBasic(request, new URL(request.url));
      if (refused || hops-- <= 0) return refused;
      return Response.redirect(`${pathname}?again`, 307);
    });
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:pass:word") } } });
    expect(await resolveDigest(reference, options)).toBeUndefined();
    expect(requests.map(({ authorization }) => authorization)).toEqual([null, ...Array(6).fill(basic)]);
    hops = 6;
    expect((await failureOf(resolveDigest(reference, options))).message).toContain("more than 5 times");
  });

  test("sends an identity token in a form, not in a URL", async () => {
    const { reference, host, tokens } = startWithTokens(() => undefined);
    login(".docker/config.json", { auths: { [host]: { identitytoken: "refresh" } } });
    await pushImage(archive, reference, options);
    const [{ call, url, body, authorization }] = tokens.requests as [(typeof tokens.requests)[0]];
    expect(call).toBe("POST /token");
    expect(url.href).not.toContain("refresh");
    expect(authorization).toBeNull();
    expect(Object.fromEntries(new URLSearchParams(body))).toEqual({
      grant_type: "refresh_token",
      client_id: "slipway",
      refresh_token: "refresh",
      service: "s 1",
      scope: "repository:team/app:pull,push",
    });
  });

  test("retries a busy token endpoint", async () => {
    let failures = 2;
    const { reference, tokens } = startWithTokens(() =>
      failures-- > 0 ? new Response(null, { status: 503 }) : undefined,
    );
    expect(await resolveDigest(reference, options)).toBeUndefined();
    expect(tokens.requests).toHaveLength(3);
  });

  test.each([
    ["refuses", () => new Response(null, { status: 401 }), "(401)"],
    ["redirects", (other: string) => Response.redirect(other, 307), "(307)"],
    ["returns something else", () => new Response("secret"), "not JSON"],
    ["returns no token", () => Response.json({}), "returned none"],
  ])("stops if the token endpoint %s, and prints no secret", async (_, answer, message) => {
    const other = serve(() => Response.json({ token: "t" }));
    const { reference, host } = startWithTokens(() => answer(other.url));
    login(".docker/config.json", { auths: { [host]: { identitytoken: "secret" } } });
    const error = await failureOf(pushImage(archive, reference, options));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain(message);
    expect(Bun.inspect(error)).not.toContain("secret");
    expect(other.requests).toEqual([]);
  });

  test("reports refused credentials without printing them", async () => {
    const { reference, host, requests } = startRegistry(() => unauthorized('Basic realm="x"'));
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:secret") } } });
    const error = await failureOf(pushImage(archive, reference, options));
    expect(error.hint).toStartWith(`The credentials found for ${host} do not allow this`);
    expect(Bun.inspect(error)).not.toMatch(new RegExp(`secret|${base64("me:secret")}`));
    expect(requests).toHaveLength(2);
  });

  test("sends nothing to a remote token endpoint without TLS", async () => {
    const elsewhere = serve(() => Response.json({ token: "t" }));
    const realm = elsewhere.url.replace("127.0.0.1", "0.0.0.0");
    const { reference, host } = startRegistry(() => unauthorized(`Bearer realm="${realm}"`));
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:secret") } } });
    const error = await failureOf(pushImage(archive, reference, options));
    expect(error.message).toContain(`redirects to ${realm}, which is not encrypted`);
    expect(elsewhere.requests).toEqual([]);
  });

  test("sends blobs to another host without credentials, after a Location or a redirect", async () => {
    const taken = { status: 201 };
    const store = serve(({ method }) => new Response(null, method === "HEAD" ? { status: 404 } : taken));
    const { reference, host, calls } = startRegistry((request, { pathname }) => {
      const refused = wantsBasic(request, new URL(request.url));
      if (refused || !pathname.includes("/blobs/")) return refused;
      if (request.method === "HEAD") return Response.redirect(`${store.url}/head`, 307);
      return new Response(null, { status: 202, headers: { Location: `${store.url}/put` } });
    });
    login(".docker/config.json", { auths: { [host]: { auth: base64("me:pass:word") } } });
    await pushImage(archive, reference, options);
    expect(calls(/^PUT/)).toHaveLength(1);
    expect(store.calls(/^HEAD \/head$/)).toHaveLength(3);
    expect(store.calls(/^PUT \/put$/)).toHaveLength(3);
    expect(store.requests.filter(({ authorization }) => authorization !== null)).toEqual([]);
  });

  test("does not use a proxy for this machine", async () => {
    const proxy = serve(() => new Response());
    const { reference } = startRegistry();
    process.env.HTTP_PROXY = proxy.url;
    expect(await resolveDigest(reference, options)).toBeUndefined();
    expect(proxy.requests).toEqual([]);
  });
});

describe("credentials", () => {
  const { signal } = options;
  const find = (registry: string, path = "team/app") => findCredentials(registry, path, signal);
  const auth = (user: string) => ({ auth: base64(`${user}:p`) });
  const is = (user: string) => ({ user, password: "p" });

  test("are undefined without a file", async () => {
    expect(await find("ghcr.io")).toBeUndefined();
  });

  test("are read from $REGISTRY_AUTH_FILE, podman's files and Docker's file, in this order", async () => {
    process.env.REGISTRY_AUTH_FILE = join(home, "own.json");
    const files = ["own.json", "run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json"];
    for (const file of files) login(file, { auths: { "ghcr.io": auth(file) } });
    for (const file of files) {
      expect(await find("ghcr.io")).toEqual(is(file));
      login(file, { auths: {} });
    }
    process.env.DOCKER_CONFIG = join(home, "docker");
    process.env.XDG_CONFIG_HOME = join(home, "config");
    login("docker/config.json", { auths: { "ghcr.io": auth("docker") } });
    expect(await find("ghcr.io")).toEqual(is("docker"));
    login("config/containers/auth.json", { auths: { "ghcr.io": auth("config") } });
    expect(await find("ghcr.io")).toEqual(is("config"));
  });

  test("are those of the longest matching path", async () => {
    login(".config/containers/auth.json", {
      auths: { "r.example": auth("all"), "r.example/team": auth("team"), "r.example/team/app": auth("app") },
    });
    expect(await find("r.example", "team/app")).toEqual(is("app"));
    expect(await find("r.example", "team/app/sub")).toEqual(is("app"));
    expect(await find("r.example", "team/other")).toEqual(is("team"));
    expect(await find("r.example", "teams/app")).toEqual(is("all"));
    expect(await find("r.example:81", "team/app")).toBeUndefined();
  });

  test.each([
    ["Docker Hub", "https://index.docker.io/v1/", "docker.io"],
    ["Docker Hub (podman)", "docker.io", "docker.io"],
    ["a URL", "https://r.example/v2/", "r.example"],
    ["a URL with a port", "http://r.example:81", "r.example:81"],
  ])("of %s are under %s", async (_, key, registry) => {
    login(".docker/config.json", {
      auths: { "https://index.docker.io/v1/access-token": auth("other"), [key]: auth("me") },
    });
    expect(await find(registry)).toEqual(is("me"));
  });

  test.each([
    ["a name and a password", { username: "me", password: "p" }, is("me")],
    ["a password with colons", { auth: base64("me:a:b") }, { user: "me", password: "a:b" }],
    ["an identity token", { auth: base64("me:"), identitytoken: "t" }, { identityToken: "t" }],
    ["nothing", {}, undefined],
  ])("may be %s", async (_, entry, expected) => {
    login(".docker/config.json", { auths: { "ghcr.io": entry } });
    expect(await find("ghcr.io")).toEqual(expected as Awaited<ReturnType<typeof find>>);
  });

  test.each([
    [
      "its credential helper",
      { credHelpers: { "ghcr.io": "it" }, credsStore: "other", auths: { "ghcr.io": auth("file") } },
    ],
    ["the store", { credsStore: "it", auths: { "ghcr.io": {} } }],
  ])("of a registry come from %s", async (_, content) => {
    helper("it", `echo '{"Username":"me","Secret":"p"}'`);
    login(".docker/config.json", content);
    expect(await find("ghcr.io")).toEqual(is("me"));
    expect(readFileSync(join(home, "asked"), "utf8")).toBe("ghcr.io");
  });

  test("can be an identity token of a helper, which gets Docker Hub's legacy name", async () => {
    helper("it", `echo '{"Username":"<token>","Secret":"t"}'`);
    login(".docker/config.json", { credsStore: "it" });
    expect(await find("docker.io")).toEqual({ identityToken: "t" });
    expect(readFileSync(join(home, "asked"), "utf8")).toBe("https://index.docker.io/v1/");
  });

  test("are read from the next file if a helper has none", async () => {
    helper("it", `echo "credentials not found in native keychain"; exit 1`);
    login(".config/containers/auth.json", { credHelpers: { "ghcr.io": "it" } });
    login(".docker/config.json", { auths: { "ghcr.io": auth("me") } });
    expect(await find("ghcr.io")).toEqual(is("me"));
  });

  test.each([
    ["fails", `echo '{"Secret":"secret"}'; exit 3`, "(exit code 3)"],
    ["prints invalid JSON", "echo secret", "(exit code 0)"],
    ["names no user", `echo '{"Secret":"secret"}'`, "(exit code 0)"],
    ["names an empty user", `echo '{"Username":"","Secret":"secret"}'`, "(exit code 0)"],
    ["gives no password", `echo '{"Username":"secret"}'`, "(exit code 0)"],
  ])("reports a helper that %s without its output", async (_, script, message) => {
    helper("it", script);
    login(".docker/config.json", { credsStore: "it" });
    const error = await failureOf(find("ghcr.io"));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("docker-credential-it");
    expect(error.message).toContain(message);
    expect(Bun.inspect(error)).not.toContain("secret");
  });

  test("reports a missing helper", async () => {
    login(".docker/config.json", { credsStore: "nowhere" });
    expect((await failureOf(find("ghcr.io"))).message).toContain("cannot run docker-credential-nowhere");
  });

  test("reports a file that is not JSON without its content", async () => {
    login(".docker/config.json", "secret");
    const error = await failureOf(find("ghcr.io"));
    expect(error.message).toContain(".docker/config.json (not JSON)");
    expect(Bun.inspect(error)).not.toContain("secret");
  });
});
