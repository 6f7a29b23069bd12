/**
 * Tests deploys through a registry in which others can push images under the same ID.
 * The registry and the Service run on this machine, and the cluster is in memory.
 */
import { afterAll, afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Deployment, KubeObject } from "../kubernetes/objects.ts";
import planCommand from "../commands/plan.ts";
import { rollback } from "./run-prepared-flow.ts";
import type { Engine } from "../engines/engine.ts";
import { Report } from "../core/step-report.ts";
import { writeDockerArchive } from "../image/docker-archive-writer.ts";
import { pushImage } from "../registry/push.ts";
import { readOptions, type OptionValues } from "../cli/options.ts";
import { createDeployContext } from "../cli/connect-target.ts";
import { deployWorkingTree } from "../cli/run-deploy.ts";
import { CommandContext } from "../cli/context.ts";
import { connectRegistryTarget } from "../targets/registry.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service as own } from "./helloapp-service.ts";
import { sha256, startRegistry, stopServers } from "./fake-servers.ts";

// The tests write and read archives, and the machine can be busy.
setDefaultTimeout(60_000);

const directory = mkdtempSync(join(tmpdir(), "helloapp-target-"));
const path = process.env.PATH;
const id = "0123456789ab";
const platform = { os: "linux", architecture: "amd64" } as const;
const service = { ...own, scripts: { check: undefined, test: undefined } };
const { signal } = new AbortController();
const context = "prod";
const namespaced = { name: "helloapp", namespace: service.namespace };
const manifests: KubeObject[] = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } },
  { apiVersion: "v1", kind: "Service", metadata: namespaced },
  {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: namespaced,
    spec: {
      replicas: 1,
      template: {
        metadata: { labels: { "app.kubernetes.io/name": "helloapp" } },
        spec: { containers: [{ name: "helloapp", image: "helloapp" }] },
      },
    },
  } as unknown as Deployment,
];
const deployment = `/apis/apps/v1/namespaces/${service.namespace}/deployments/helloapp`;

let cluster: FakeCluster;
let registry: ReturnType<typeof startRegistry>;
let repository: string;
let output: string;
let lines: string[];
let server: Bun.Server<undefined>;
let built: number;

beforeEach(() => {
  cluster = new FakeCluster();
  registry = startRegistry();
  repository = `${registry.host}/team/app`;
  const place = mkdtempSync(join(directory, "run-"));
  output = join(place, "image.tar");
  [lines, built] = [[], 0];
  server = Bun.serve({ port: 0, fetch: () => Response.json({ id: cluster.served() }) });
  // Replaces `kubectl kustomize`, which the e2e tests cover.
  writeFileSync(
    join(place, "kubectl"),
    `#!/bin/sh\ncat <<'END'\n${manifests.map((one) => JSON.stringify(one)).join("\n---\n")}\nEND\n`,
  );
  chmodSync(join(place, "kubectl"), 0o755);
  process.env.PATH = `${place}:${path}`;
});
afterEach(async () => {
  process.env.PATH = path;
  await Promise.all([stopServers(), server.stop(true)]);
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Writes build output. Another word gives another image. */
function lay(dist: string, word = "helloapp"): void {
  for (const layer of ["runtime", "app"]) {
    mkdirSync(join(dist, layer), { recursive: true });
    writeFileSync(join(dist, layer, "file"), `${layer} ${word}`);
  }
  writeFileSync(join(dist, "sbom.cdx.json"), "{}");
}

/** Pushes an image under the ID, like another user. @returns its digest */
async function somebodyPushes({ word = "helloapp", revision = "c0ffee", port = service.port } = {}): Promise<string> {
  const place = mkdtempSync(join(directory, "other-"));
  const [dist, archive] = [join(place, "dist"), join(place, "other.tar")];
  lay(dist, word);
  const names = [`helloapp:${id}`];
  await writeDockerArchive(archive, { service: { ...service, port }, dist, platform, names, revision });
  return pushImage(archive, `${repository}:${id}`, { signal });
}

async function start(values: OptionValues = {}) {
  const engine: Engine = {
    name: "host",
    runPrebuild: async () => ({ unchanged: true }),
    runScript: async () => ({ unchanged: true }),
    computeId: async () => id,
    async build(dist) {
      built += 1;
      lay(dist);
      return { id, platform, warnings: [], reused: false };
    },
  };
  const given = { target: "registry", registry: repository, context, output, ...values };
  const options = readOptions(given, [], service, {});
  const report = new Report((line) => lines.push(line));
  const run = new CommandContext({ service, options, signal, report, engine });
  const url = server.url.href;
  const connect = async () => {
    const api = cluster.api(signal);
    const open = api.open;
    const answer: typeof open = async (path, init) => (path === "/version" ? Response.json({}) : open(path, init));
    return Object.assign(api, { open: answer });
  };
  const target = await connectRegistryTarget({ service, context, repository, url, signal, connect });
  return { run, to: createDeployContext(run, target) };
}

async function deploy(values?: OptionValues): Promise<string> {
  const { run, to } = await start(values);
  return (await deployWorkingTree(run, { given: { connect: to } })).conclusion;
}

const deployed = () => cluster.get<Deployment>(deployment).spec.template.spec.containers[0]!.image;
const sent = () => registry.calls(/^(POST|PUT)/).length;
const under = () => sha256(registry.manifests.get(id)!.body);
const warning = () => lines.filter((line) => line.includes("is another image than the one built here"));

test("pushes a new image and deploys it by digest, and a second deploy does nothing", async () => {
  expect(await deploy()).toContain("serves at");
  expect(deployed()).toBe(`${repository}@${under()}`);
  const before = sent();
  expect(await deploy()).toContain("nothing to deploy");
  expect([sent(), warning()]).toEqual([before, []]);
});

test("uses the same image of another commit without a push", async () => {
  const digest = await somebodyPushes({ revision: "another" });
  const before = sent();
  expect(await deploy()).toContain("serves at");
  expect(deployed()).toBe(`${repository}@${digest}`);
  expect([sent(), warning(), built]).toEqual([before, [], 1]);
});

test.each([
  ["other layers", { word: "malware" }],
  ["another config", { port: 6666 }],
])("overwrites an image with %s and logs it", async (_, other) => {
  const digest = await somebodyPushes(other);
  expect(await deploy()).toContain("serves at");
  expect(warning()).toHaveLength(1);
  expect(under()).not.toBe(digest);
  expect(deployed()).toBe(`${repository}@${under()}`);
});

test("stops if the content of the config does not match its digest", async () => {
  await somebodyPushes();
  const { config } = registry.manifest(id);
  registry.blobs.set(config.digest, Buffer.from("{}"));
  expect(await deploy().catch((error: Error) => error.message)).toContain(`for ${config.digest}`);
  expect(cluster.get(deployment)).toBeUndefined();
});

test.each<[string, () => object]>([
  ["an index", () => ({ manifests: [] })],
  ["a manifest without layers", () => ({ config: registry.manifest(id).config })],
  ["a manifest with invalid layer digests", () => ({ ...registry.manifest(id), layers: [{ digest: "../x" }] })],
  ["a manifest with missing layers", () => ({ ...registry.manifest(id), layers: [{ digest: sha256("gone") }] })],
])("overwrites %s under the ID", async (_, content) => {
  await somebodyPushes();
  const body = Buffer.from(JSON.stringify(content()));
  registry.manifests.set(id, { type: "application/vnd.oci.image.manifest.v1+json", body });
  expect(await deploy()).toContain("serves at");
  expect(warning()).toHaveLength(1);
  expect(deployed()).toBe(`${repository}@${under()}`);
  expect(under()).not.toBe(sha256(body));
});

test("does not run an image that another user pushed after the last deploy", async () => {
  await deploy();
  const image = deployed();
  await somebodyPushes({ word: "malware" });
  expect(under()).not.toBe(image.split("@")[1]!);
  await deploy();
  expect(warning()).toHaveLength(1);
  expect(deployed()).toBe(image);
  expect(under()).toBe(image.split("@")[1]!);
});

test("compares the image even if it already runs", async () => {
  // The state after a deploy without a comparison.
  const { run, to } = await start();
  const { compare: _, ...trusting } = to.target as typeof to.target & { compare: unknown };
  const digest = await somebodyPushes({ word: "malware" });
  await deployWorkingTree(run, { given: { connect: { ...to, target: trusting } } });
  expect(deployed()).toBe(`${repository}@${digest}`);
  expect(await deploy()).toContain("serves at");
  expect(deployed()).toBe(`${repository}@${under()}`);
  expect(under()).not.toBe(digest);
});

test("does not deliver an image that is pushed between comparison and delivery", async () => {
  await somebodyPushes();
  const { run, to } = await start();
  const target = to.target as typeof to.target & { compare(archive: string, id: string): Promise<boolean> };
  const compare = async (archive: string, id: string) => {
    const same = await target.compare(archive, id);
    await somebodyPushes({ word: "malware" });
    return same;
  };
  await deployWorkingTree(run, { given: { connect: { ...to, target: { ...target, compare } as typeof target } } });
  expect(deployed()).toBe(`${repository}@${under()}`);
  const { layers } = registry.manifest(id) as { layers: { digest: string }[] };
  const texts = layers.map(({ digest }) => Buffer.from(Bun.zstdDecompressSync(registry.blobs.get(digest)!)).toString());
  expect(texts.join()).not.toContain("malware");
});

test("rollback finds the stored image without a comparison", async () => {
  await deploy();
  const { to } = await start();
  expect(await to.target.find(id)).toBe(deployed());
  // The error is that there is no earlier version.
  expect(await rollback(to).catch((error: Error) => error.message)).toContain("no earlier version");
});

test("plan reports that the image is not compared yet", async () => {
  const api = cluster.api(signal);
  using behind = Bun.serve({
    port: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      if (pathname === "/version") return Response.json({});
      const body = await request.text();
      return api.open(pathname + search, { method: request.method, ...(body && { body }) });
    },
  });
  const place = join(output, "..");
  const proxy = `const unix = process.argv.at(-1).replace("--unix-socket=", "");
Bun.serve({ unix, async fetch(request) {
  const { pathname, search } = new URL(request.url);
  const { method, headers } = request;
  const body = await request.text();
  return fetch("${behind.url.origin}" + pathname + search, { method, headers, proxy: false, ...(body && { body }) });
} });
console.log("Starting to serve");`;
  writeFileSync(join(place, "proxy.ts"), proxy);
  const kustomize = await Bun.file(join(place, "kubectl")).text();
  const started = `case "$*" in *proxy*) exec ${process.execPath} ${place}/proxy.ts "$@" ;; esac`;
  writeFileSync(join(place, "kubectl"), kustomize.replace("#!/bin/sh\n", `#!/bin/sh\n${started}\n`));
  const { run } = await start();
  expect(await planCommand.execute(run)).toContain("whose image is not there yet, would");
  await somebodyPushes();
  expect(await planCommand.execute(run)).toContain("whose image is there, but not compared yet, would");
});
