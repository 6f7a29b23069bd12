/** The same steps in containers: the same exit codes, the same files, and the same archive every time. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { readArchive } from "../../image/archive-reader.ts";
import { sbomPathFor } from "../../image/sbom.ts";
import {
  copyProject,
  daggerEngine,
  describeWith,
  fileTree,
  must,
  sameBytes,
  sh,
  shapeOf,
  temporaryDirectory,
} from "./setup.ts";

setDefaultTimeout(600_000);

describeWith(
  "Dagger engine",
  [],
  () => {
    const directory = temporaryDirectory();
    const project = copyProject(join(directory, "project"));
    const dagger = (...args: string[]) =>
      sh(["dagger", "--progress=plain", "run", process.execPath, "ci/pipeline.ts", ...args], {
        cwd: project,
      });

    test("makes the image that the host makes: path, type, mode, owner, time; bytes where the C library is the same", async () => {
      const [contained, host] = [join(directory, "dagger.tar"), join(directory, "host.tar")];
      const { code, output } = dagger("--target", "none");
      expect(code, output).toBe(0);
      for (const end of [".tar", ".cdx.json"])
        renameSync(join(project, `helloapp${end}`), contained.replace(".tar", end));
      must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", host], {
        cwd: project,
      });
      const [ours, theirs] = await Promise.all([fileTree(host), fileTree(contained)]);
      const [one, other] = await Promise.all(
        [contained, host].map(async (path) => (await readArchive(path))!.names),
      );
      expect(one).toHaveLength(1);
      if (one![0] === other![0]) expect(theirs).toEqual(ours);
      const { components } = await Bun.file(sbomPathFor(contained)).json();
      expect(components).toContainEqual(expect.objectContaining({ name: "libc6", type: "library" }));
      expect(shapeOf(theirs)).toEqual(shapeOf(ours));
    });

    test("makes the same archive again, byte for byte", async () => {
      const again = join(directory, "again.tar");
      expect(dagger("image", "--output", again).code).toBe(0);
      expect(await sameBytes(join(directory, "dagger.tar"), again)).toBe(true);
    });

    test("a type error is exit 1, with the message from the container", () => {
      appendFileSync(join(project, "src/build-info.ts"), 'export const wrong: number = "text";\n');
      const { code, output } = dagger("check");
      expect(output).toMatch(/src\/build\.ts.*TS2322/);
      expect(code).toBe(1);
    });
  },
  daggerEngine(),
);
