/** Advice that `init` prints for manual changes. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-advice-"))));
afterAll(() => rmSync(directory, { recursive: true }));

/** Returns the output of init for a service that has the package installed. */
function init(manifest: object, bun?: string): string {
  const at = mkdtempSync(join(directory, "service-"));
  const scripts = { dev: "bun index.ts", build: "bun ci/pipeline.ts build", up: "bun ci/pipeline.ts up" };
  const packageJson = { name: "advised", devDependencies: { slipway: "*" }, scripts, ...manifest };
  mkdirSync(join(at, "node_modules/slipway"), { recursive: true });
  if (bun !== undefined) {
    mkdirSync(join(at, "node_modules/.bin"));
    writeFileSync(join(at, "node_modules/.bin/bun"), `#!/bin/sh\necho ${bun}\n`, { mode: 0o755 });
  }
  writeFileSync(join(at, "package.json"), JSON.stringify(packageJson));
  writeFileSync(join(at, "bun.lock"), "");
  writeFileSync(join(at, "index.ts"), 'Bun.serve({ fetch: () => new Response("x") });\n');
  const { stdout, stderr, exitCode } = Bun.spawnSync(
    [process.execPath, join(import.meta.dir, "../cli/bin.ts"), "init"],
    { cwd: at },
  );
  expect(exitCode, stderr.toString()).toBe(0);
  return stdout.toString() + stderr.toString();
}

test("with slipway's own scripts, prints no advice about scripts and suggests `bun run up`", () => {
  const output = init({});
  expect(output).toContain("next: bun run up");
  expect(output).not.toContain("is unchanged");
});

test("with foreign scripts `up` and `build`, keeps them and prints the commands to use instead", () => {
  const output = init({
    scripts: { dev: "bun index.ts", up: "bun update --interactive", build: "vite build" },
  });
  expect(output).toContain("next: bun ci/pipeline.ts up");
  expect(output).toContain("the script `up` (bun update --interactive) is unchanged");
  expect(output).toContain("the script `build` (vite build) is unchanged");
});

test("prints the chosen entry, port and scripts", () => {
  const output = init({
    scripts: { dev: "bun index.ts", test: "bun test", build: "bun ci/pipeline.ts build", up: "bun ci/pipeline.ts up" },
  });
  expect(output).toContain("entry    index.ts  found by the script dev");
  expect(output).toContain("port     8080  the service gets it as $PORT");
  expect(output).toContain("scripts  check: none, test: test");
});

test("reports a pinned Bun that is too old", () => {
  const output = init({ packageManager: "bun@1.2.4" });
  expect(output).toContain("the service pins Bun 1.2.4");
  expect(output).toContain(`\`bun: "${Bun.version}"\` in ci/pipeline.ts`);
});

test("reports a dependency's copy of Bun, which `bun run up` would run", () => {
  const output = init({}, "1.3.2");
  expect(output).toMatch(/scripts would run Bun 1\.3\.2 at .*, which a dependency installed/);
  expect(output).toContain(`"overrides": { "bun": "${Bun.version}" }`);
  expect(init({}, Bun.version)).not.toContain("scripts would run");
});

test("a failed installation exits with 3 and leaves the project as it was", () => {
  const at = mkdtempSync(join(directory, "red-"));
  const manifest = JSON.stringify({ name: "red", dependencies: { absent: "workspace:*" } });
  writeFileSync(join(at, "package.json"), manifest);
  writeFileSync(join(at, "index.ts"), "");
  const { stderr, exitCode } = Bun.spawnSync([process.execPath, join(import.meta.dir, "../cli/bin.ts"), "init"], {
    cwd: at,
  });
  expect(exitCode).toBe(3);
  expect(stderr.toString()).toContain("`bun install` failed. Nothing was changed");
  expect(readFileSync(join(at, "package.json"), "utf8")).toBe(manifest);
  expect(
    readdirSync(at)
      .filter((name) => name !== "node_modules")
      .sort(),
  ).toEqual(["index.ts", "package.json"]);
}, 30_000);
