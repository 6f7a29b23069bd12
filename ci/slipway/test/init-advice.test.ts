/** What `init` says that only the service's people can do. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-advice-"))));
afterAll(() => rmSync(directory, { recursive: true }));

/** What init prints for a service that has the package installed, so that nothing is. */
function init(manifest: object, bun?: string): string {
  const at = mkdtempSync(join(directory, "service-"));
  const scripts = { dev: "bun index.ts", build: "bun ci/pipeline.ts build", up: "bun ci/pipeline.ts up" };
  const own = { name: "advised", devDependencies: { slipway: "*" }, scripts, ...manifest };
  mkdirSync(join(at, "node_modules/slipway"), { recursive: true });
  if (bun !== undefined) {
    mkdirSync(join(at, "node_modules/.bin"));
    writeFileSync(join(at, "node_modules/.bin/bun"), `#!/bin/sh\necho ${bun}\n`, { mode: 0o755 });
  }
  writeFileSync(join(at, "package.json"), JSON.stringify(own));
  writeFileSync(join(at, "bun.lock"), "");
  writeFileSync(join(at, "index.ts"), 'Bun.serve({ fetch: () => new Response("x") });\n');
  const { stdout, stderr, exitCode } = Bun.spawnSync(
    [process.execPath, join(import.meta.dir, "../cli/bin.ts"), "init"],
    { cwd: at },
  );
  expect(exitCode, stderr.toString()).toBe(0);
  return stdout.toString() + stderr.toString();
}

test("a service that has its scripts from here: nothing of them, and `up` is what comes next", () => {
  const said = init({});
  expect(said).toContain("next: bun run up");
  expect(said).not.toContain("stays as it is");
});

test("a service with an `up` and a `build` of its own: they stay, and the commands are named", () => {
  const said = init({
    scripts: { dev: "bun index.ts", up: "bun update --interactive", build: "vite build" },
  });
  expect(said).toContain("next: bun ci/pipeline.ts up");
  expect(said).toContain("the script `up` (bun update --interactive) stays as it is");
  expect(said).toContain("the script `build` (vite build) stays as it is");
});

test("a service that pins a Bun too old for this: before anything is run", () => {
  const said = init({ packageManager: "bun@1.2.4" });
  expect(said).toContain("the service pins Bun 1.2.4");
  expect(said).toContain(`\`bun: "${Bun.version}"\` in ci/pipeline.ts`);
});

test("a service whose dependency brings another Bun, which `bun run up` would run in", () => {
  const said = init({}, "1.3.2");
  expect(said).toContain("scripts would run Bun 1.3.2, which a dependency brought to ");
  expect(said).toContain(`"overrides": { "bun": "${Bun.version}" }`);
  expect(init({}, Bun.version)).not.toContain("scripts would run");
});
