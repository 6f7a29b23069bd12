/** `bun run setup` installs what bun.lock says or nothing; a server in this file is the npm registry, with one package. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { integrityOf } from "../core/npm.ts";
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

/** Each time with an empty cache: what was checked when it came in is not checked again. */
async function bun(args: string[]) {
  for (const name of ["node_modules", "cache"])
    await rm(join(directory, name), { recursive: true, force: true });
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
/** `bun run setup` with another lockfile. */
async function setup(text: string) {
  await writeFile(join(directory, "bun.lock"), text);
  return { ...(await bun(["run", "setup"])), installed: existsSync(join(directory, "node_modules/tiny")) };
}

test("the package that the lockfile names is installed", async () => {
  expect(await setup(lock)).toMatchObject({ code: 0, installed: true });
});

test("one character of an integrity is another: setup fails, naming the package", async () => {
  const altered = lock.replace(/(sha512-)(.)/, (_, name, first) => name + (first === "A" ? "B" : "A"));
  expect(altered).not.toBe(lock);
  const { code, output, installed } = await setup(altered);
  expect({ code, installed }).toEqual({ code: 1, installed: false });
  expect(output).toContain("Integrity check failed for tarball: tiny");
});

test("one character of a version is another: setup fails and does not write another lockfile", async () => {
  const altered = lock.replace("tiny@1.0.0", "tiny@1.0.1");
  expect(altered).not.toBe(lock);
  const { code, output } = await setup(altered);
  expect(code).toBe(1);
  expect(output).toContain("lockfile had changes, but lockfile is frozen");
  expect(await readFile(join(directory, "bun.lock"), "utf8")).toBe(altered);
});
