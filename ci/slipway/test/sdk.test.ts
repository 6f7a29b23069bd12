/** How Dagger's SDK is loaded: its parts alone where they are known, else all of it. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { loadSdk } from "../engines/sdk.ts";

/** Of what a process has loaded after a line of code, whether there is a package. */
function loads(line: string, name: string): boolean {
  const code = `${line}; console.log(Object.keys(require.cache).some((file) => file.includes("/node_modules/${name}/")))`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", code], { cwd: import.meta.dir });
  expect(stderr.toString()).toBe("");
  return stdout.toString().trim() === "true";
}

test("all that the engine uses is there, and the same as in the whole", async () => {
  const { connection, dag, ExecError } = await loadSdk();
  const whole = await import("@dagger.io/dagger");
  expect(connection).toBe(whole.connection);
  expect(dag).toBe(whole.dag);
  expect(ExecError).toBe(whole.ExecError);
});

test("no compiler is loaded with it", () => {
  const sdk = 'await (await import("../engines/sdk.ts")).loadSdk()';
  expect(loads(sdk, "@dagger.io")).toBe(true);
  expect(loads(sdk, "typescript")).toBe(false);
  // Else nothing was shown.
  expect(loads('await import("@dagger.io/dagger")', "typescript")).toBe(true);
}, 60_000);

test("one that has its parts elsewhere is loaded whole", async () => {
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
