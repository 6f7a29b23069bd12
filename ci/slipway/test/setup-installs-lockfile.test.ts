/** Tests that `bun run setup` installs exactly what bun.lock lists. A local server is the npm registry. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { integrityOf } from "../core/npm-registry.ts";
import { scripts } from "../../../package.json";

const manifest = { name: "tiny", version: "1.0.0" };
const tarball = await new Bun.Archive(
  { "package/package.json": JSON.stringify(manifest), "package/index.js": "" },
  { compress: "gzip" },
).bytes();
const registry = Bun.serve({
  port: 0,
  routes: {
    "/tiny": ({ url }) => {
      const dist = { integrity: integrityOf(tarball), tarball: new URL("/tiny.tgz", url).href };
      return Response.json({
        name: "tiny",
        "dist-tags": { latest: "1.0.0" },
        versions: { "1.0.0": { ...manifest, dist } },
      });
    },
    "/tiny.tgz": () => new Response(tarball),
  },
  fetch: () => new Response("no", { status: 404 }),
});

let directory: string;
let lock: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "helloapp-lockfile-"));
  const content = { name: "project", scripts: { setup: scripts.setup }, devDependencies: { tiny: "1.0.0" } };
  await writeFile(join(directory, "package.json"), JSON.stringify(content));
  await bun(["install"]);
  lock = await readFile(join(directory, "bun.lock"), "utf8");
});
afterAll(async () => {
  await registry.stop(true);
  await rm(directory, { recursive: true });
});

/** Uses an empty cache each time, because cached packages are not verified again. */
async function bun(args: string[]) {
  for (const name of ["node_modules", "cache"]) await rm(join(directory, name), { recursive: true, force: true });
  const env = {
    PATH: process.env.PATH,
    HOME: directory,
    BUN_INSTALL_CACHE_DIR: join(directory, "cache"),
    npm_config_registry: registry.url.href,
  };
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: directory,
    env,
    stdout: "pipe",
    stderr: "pipe",
  });
  const output = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: await child.exited, output: output.join("") };
}
/** Runs `bun run setup` with a changed lockfile. */
async function setup(text: string) {
  await writeFile(join(directory, "bun.lock"), text);
  return { ...(await bun(["run", "setup"])), installed: existsSync(join(directory, "node_modules/tiny")) };
}

test("installs the package in the lockfile", async () => {
  expect(await setup(lock)).toMatchObject({ code: 0, installed: true });
});

test("fails with a wrong integrity and names the package", async () => {
  const altered = lock.replace(/(sha512-)(.)/, (_, name, first) => name + (first === "A" ? "B" : "A"));
  expect(altered).not.toBe(lock);
  const { code, output, installed } = await setup(altered);
  expect({ code, installed }).toEqual({ code: 1, installed: false });
  expect(output).toContain("Integrity check failed for tarball: tiny");
});

test("fails with a wrong version and keeps the lockfile", async () => {
  const altered = lock.replace("tiny@1.0.0", "tiny@1.0.1");
  expect(altered).not.toBe(lock);
  const { code, output } = await setup(altered);
  expect(code).toBe(1);
  expect(output).toContain("lockfile had changes, but lockfile is frozen");
  expect(await readFile(join(directory, "bun.lock"), "utf8")).toBe(altered);
});
