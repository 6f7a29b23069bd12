/** Tests `size` with real builds. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyProject, describeWith, rewrite, sh, temporaryDirectory } from "../../../slipway/test/e2e/setup.ts";

setDefaultTimeout(300_000);

describeWith("size", [], () => {
  const directory = temporaryDirectory();
  const project = copyProject(join(directory, "project"));
  const size = (...args: string[]) => sh([process.execPath, "ci/maintenance/size.ts", ...args], { cwd: project });

  test("prints the files of the image, which has the expected size", () => {
    const { code, output } = size();
    expect(output).toMatch(/^ *[\d,]{11} +\d\d\.\d % +\/helloapp$/m);
    expect(output).toMatch(/libc\.so\.6$/m);
    expect(output).toMatch(/ archive$/m);
    expect(code, output).toBe(0);
  });

  test.each([
    ["smaller", 0.98, "grew by 2.0 %"],
    ["larger", 1.02, "shrank by 2.0 %"],
  ])("an expected size that is 2 %% %s: exit 1, with the new value", (_, factor, message) => {
    const file = join(project, "ci/maintenance/size.ts");
    const before = readFileSync(file, "utf8");
    const architecture = process.arch === "x64" ? "amd64" : "arm64";
    const total = Number(/([\d,]+) +100\.0 %/.exec(size().output)![1]!.replaceAll(",", ""));
    const expected = Math.round(total * factor);
    rewrite(file, /(?<=^const EXPECTED_BYTES.* = ).*(?=;$)/m, `{ ${architecture}: ${expected} }`);
    const { code, output } = size();
    writeFileSync(file, before);
    expect(output).toContain(message);
    expect(output).toContain(
      `change EXPECTED_BYTES.${architecture} in ci/maintenance/size.ts from ${expected} to ${total}`,
    );
    expect(code).toBe(1);
  });

  test("wrong arguments: exit 2; not an archive: exit 3", () => {
    expect(size("--frobnicate").code).toBe(2);
    expect(size("a", "b").code).toBe(2);
    expect(size("package.json").code).toBe(3);
  });
});
