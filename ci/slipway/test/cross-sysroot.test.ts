/** Tests that Bun for another architecture is downloaded from npm only with the pinned checksum. A local server replaces npm. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fetchBun } from "../engines/cross-sysroot.ts";
import { PipelineError } from "../core/errors.ts";
import { integrityOf } from "../core/npm-registry.ts";
import { pins } from "../core/pins.ts";

const directory = await mkdtemp(join(tmpdir(), "helloapp-foreign-"));
const target = join(directory, "bun");
const tarball = await new Bun.Archive({ "package/bin/bun": "a Bun" }, { compress: "gzip" }).bytes();
const { package: name } = pins.bunFor.arm64;
const path = `/${name}/-/bun-linux-aarch64-${pins.bun}.tgz`;
const npm = Bun.serve({
  port: 0,
  fetch: ({ url }) => (new URL(url).pathname === path ? new Response(tarball) : new Response("no", { status: 404 })),
});
const before = process.env.npm_config_registry;
process.env.npm_config_registry = npm.url.href;
afterAll(async () => {
  if (before === undefined) delete process.env.npm_config_registry;
  else process.env.npm_config_registry = before;
  await npm.stop(true);
  await rm(directory, { recursive: true });
});

const { signal } = new AbortController();
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

test("refuses a wrong integrity, names the pin and leaves no file", async () => {
  const integrity = integrityOf(tarball).replace(/.(?===$)/, (last) => (last === "A" ? "B" : "A"));
  for (const pin of [{ package: name, integrity }, undefined]) {
    const error = await failureOf(fetchBun("arm64", target, signal, pin));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain("pins.bunFor.arm64.integrity");
    expect(error.message).toContain(integrityOf(tarball));
    expect(existsSync(target)).toBe(false);
  }
});

test("extracts the pinned Bun as an executable", async () => {
  await fetchBun("arm64", target, signal, { package: name, integrity: integrityOf(tarball) });
  expect(await Bun.file(target).text()).toBe("a Bun");
  expect(statSync(target).mode & 0o777).toBe(0o755);
});

test("reports a failed download, and passes an abort's reason through", async () => {
  const error = await failureOf(fetchBun("amd64", join(directory, "other"), signal));
  expect(error.message).toMatch(/cannot fetch .*bun-linux-x64-.*status 404/);
  const reason = new Error("enough");
  const aborted = fetchBun("arm64", join(directory, "other"), AbortSignal.abort(reason));
  expect(await failureOf(aborted)).toBe(reason as PipelineError);
});
