/** Types and format of the slipway package. The service's check excludes it, so that an error here blocks no deploy. */
import { expect, test } from "bun:test";
import { root } from "./helloapp-service.ts";

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

test("all files are formatted, including documentation", () => {
  const { exitCode, output } = bun("fmt", "--check", "--no-script");
  expect(exitCode, output).toBe(0);
}, 60_000);
