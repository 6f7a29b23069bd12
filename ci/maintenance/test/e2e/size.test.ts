/** The command `size`, on an image that it builds. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  copyProject,
  describeWith,
  rewrite,
  sh,
  temporaryDirectory,
} from "../../../slipway/test/e2e/setup.ts";

setDefaultTimeout(300_000);

describeWith("size", [], () => {
  const directory = temporaryDirectory();
  const project = copyProject(join(directory, "project"));
  const size = (...args: string[]) =>
    sh([process.execPath, "ci/maintenance/size.ts", ...args], { cwd: project });

  test("shows what the image holds, and agrees with the figure", () => {
    const { code, output } = size();
    expect(output).toMatch(/^ *[\d,]{11} +\d\d\.\d % +\/helloapp$/m);
    expect(output).toMatch(/libc\.so\.6$/m);
    expect(output).toMatch(/ archive$/m);
    expect(code, output).toBe(0);
  });

  test.each([
    ["lowered", 0.98, "grew by 2.0 %"],
    ["raised", 1.02, "shrank by 2.0 %"],
  ])("with the figure %s: exit 1, and what to change", (_, factor, message) => {
    const file = join(project, "ci/maintenance/size.ts");
    const before = readFileSync(file, "utf8");
    const architecture = process.arch === "x64" ? "amd64" : "arm64";
    const total = Number(/([\d,]+) +100\.0 %/.exec(size().output)![1]!.replaceAll(",", ""));
    const figure = Math.round(total * factor);
    rewrite(file, /(?<=^const EXPECTED_BYTES.* = ).*(?=;$)/m, `{ ${architecture}: ${figure} }`);
    const { code, output } = size();
    writeFileSync(file, before);
    expect(output).toContain(message);
    expect(output).toContain(
      `change EXPECTED_BYTES.${architecture} in ci/maintenance/size.ts from ${figure} to ${total}`,
    );
    expect(code).toBe(1);
  });

  test("of something else: exit 2 or 3", () => {
    expect(size("--frobnicate").code).toBe(2);
    expect(size("a", "b").code).toBe(2);
    expect(size("package.json").code).toBe(3);
  });
});
