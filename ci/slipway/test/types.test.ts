/** What the service's own check leaves alone: an edit of it must not stand between the service's and its deploy. */
import { expect, test } from "bun:test";
import { root } from "./helloapp-fixture.ts";

const bun = (...args: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, ...args], { cwd: root });
  return { exitCode, output: stdout.toString() + stderr.toString() };
};

test.each(["ci/slipway", "ci/maintenance"])(
  "the types of %s hold, under a tsconfig of its own",
  (directory) => {
    const { exitCode, output } = bun("check", "--no-script", "-p", directory);
    expect(output).toContain("No type errors");
    expect(exitCode).toBe(0);
  },
  60_000,
);

test("all files are formatted, documentation too", () => {
  const { exitCode, output } = bun("fmt", "--check", "--no-script");
  expect(exitCode, output).toBe(0);
}, 60_000);
