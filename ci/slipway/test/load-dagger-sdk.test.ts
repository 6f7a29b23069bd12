/** Tests that only the needed parts of Dagger's SDK are loaded, or all of it if the parts are missing. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { loadSdk } from "../engines/load-dagger-sdk.ts";

/** Returns whether a process has loaded a package after it ran some code. */
function loadsPackage(statement: string, name: string): boolean {
  const code = `${statement}; console.log(Object.keys(require.cache).some((file) => file.includes("/node_modules/${name}/")))`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", code], { cwd: import.meta.dir });
  expect(stderr.toString()).toBe("");
  return stdout.toString().trim() === "true";
}

test("exports the same objects as the package's index", async () => {
  const { connection, dag, ExecError } = await loadSdk();
  const whole = await import("@dagger.io/dagger");
  expect(connection).toBe(whole.connection);
  expect(dag).toBe(whole.dag);
  expect(ExecError).toBe(whole.ExecError);
});

test("does not load the TypeScript compiler", () => {
  const sdk = 'await (await import("../engines/load-dagger-sdk.ts")).loadSdk()';
  expect(loadsPackage(sdk, "@dagger.io")).toBe(true);
  expect(loadsPackage(sdk, "typescript")).toBe(false);
  // Otherwise this test would show nothing.
  expect(loadsPackage('await import("@dagger.io/dagger")', "typescript")).toBe(true);
}, 60_000);

test("loads the index if the parts are missing", async () => {
  const directory = mkdtempSync(join(tmpdir(), "helloapp-sdk-"));
  try {
    const index = join(directory, "index.js");
    writeFileSync(index, "export const connection = 1, dag = 2, ExecError = 3;");
    expect({ ...(await loadSdk(pathToFileURL(index).href)) } as object).toEqual({
      connection: 1,
      dag: 2,
      ExecError: 3,
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
});
