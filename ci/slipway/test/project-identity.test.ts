/** Projects of one name on one cluster: each has an identity, and changes only its own objects. */
import { afterEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findIdentity, normalizeOrigin } from "../core/project-identity.ts";
import { assertOwnProject } from "../deploy/checks-project.ts";
import { listVersions, saveVersion } from "../deploy/release-history.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { prepareForApply, PROJECT } from "../kubernetes/prepare-for-apply.ts";
import { FakeCluster } from "./fake-cluster.ts";
import { service } from "./helloapp-service.ts";

test.each([
  "git@github.com:me/shop.git",
  "ssh://git@github.com:22/me/shop",
  "https://github.com/me/shop.git",
  "https://x-access-token:secret@GitHub.com/me/shop/",
  "github.com:me/shop",
])("%s", (origin) => {
  expect(normalizeOrigin(origin)).toBe("github.com/me/shop");
});

test("a directory as origin is kept", () => {
  expect(normalizeOrigin("/srv/git/shop.git")).toBe("/srv/git/shop");
});

test("the identity is the origin with the path and the name, or the setting, or none", async () => {
  const top = mkdtempSync(join(tmpdir(), "identity-"));
  const project = join(top, "apps/api");
  mkdirSync(project, { recursive: true });
  writeFileSync(join(project, "package.json"), '{ "name": "@blog/api" }');
  const { signal } = new AbortController();
  const find = (identity?: string) => findIdentity({ identity, project }, signal);
  const git = (...args: string[]) => Bun.spawnSync(["git", ...args], { cwd: top });
  try {
    expect(await find()).toBeUndefined();
    git("init", "-q");
    expect(await find()).toBeUndefined();
    git("remote", "add", "origin", "git@github.com:me/shop.git");
    expect(await find()).toBe("github.com/me/shop apps/api @blog/api");
    expect(await find("own")).toBe("own");
  } finally {
    rmSync(top, { recursive: true });
  }
});

const metadata = { name: "helloapp", namespace: service.namespace };
const manifests: KubeObject[] = [
  { apiVersion: "v1", kind: "Namespace", metadata: { name: service.namespace } },
  { apiVersion: "v1", kind: "Service", metadata },
  { apiVersion: "apps/v1", kind: "Deployment", metadata },
];
const servicePath = `/api/v1/namespaces/${service.namespace}/services/helloapp`;

afterEach(() => void (service.identity = undefined));

function clusterWith(owner: string | undefined): FakeCluster {
  const cluster = new FakeCluster();
  const annotations = owner === undefined ? {} : { [PROJECT]: owner };
  cluster.objects.set(servicePath, { ...manifests[1]!, metadata: { ...metadata, annotations } });
  return cluster;
}

test.each<[string | undefined, string | undefined, boolean]>([
  ["shop", "shop", true],
  [undefined, "shop", true],
  [undefined, undefined, true],
  ["blog", "shop", false],
  ["blog", undefined, false],
])("an object of %p, changed by %p: permitted %p", async (owner, own, isPermitted) => {
  service.identity = own;
  const check = assertOwnProject(clusterWith(owner).api(), manifests, []);
  if (isPermitted) return expect(await check).toBeUndefined();
  const error = await check.catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ kind: "project", code: "project-differs" });
  expect((error as Error).message).toContain(
    `Service/helloapp in the namespace helloapp belongs to the project "blog"`,
  );
});

test("a stored version of another project is refused, also if nothing runs", async () => {
  const cluster = new FakeCluster();
  cluster.objects.set(`/api/v1/namespaces/${service.namespace}`, manifests[0]!);
  const api = cluster.api();
  service.identity = "blog";
  const version = { id: "a", image: "helloapp:a", commit: undefined, verified: undefined, manifests: [] };
  await saveVersion(api, { name: "helloapp-version-a-1", ...version });
  service.identity = "shop";
  const versions = await listVersions(api);
  expect(versions[0]!.project).toBe("blog");
  await expect(assertOwnProject(api, manifests, versions)).rejects.toThrow("belongs to the project");
});

test("only the objects that serve bear the project: others may be shared", async () => {
  service.identity = "shop";
  const prepared = await prepareForApply(new FakeCluster().api(), manifests);
  const bearers = prepared.filter(({ object }) => object.metadata.annotations?.[PROJECT] === "shop");
  expect(bearers.map(({ object }) => object.kind)).toEqual(["Service", "Deployment"]);
});
