/** Tests that the Dagger engine has the same exit codes and files as the host engine, and builds reproducible archives. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
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

    test("builds the same files as the host engine, with the same content if the C library is the same", async () => {
      const [contained, host] = [join(directory, "dagger.tar"), join(directory, "host.tar")];
      const { code, output } = dagger("--target", "none");
      expect(code, output).toBe(0);
      for (const end of [".tar", ".cdx.json"])
        renameSync(join(project, `helloapp${end}`), contained.replace(".tar", end));
      must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", host], {
        cwd: project,
      });
      const [hostTree, daggerTree] = await Promise.all([fileTree(host), fileTree(contained)]);
      const [daggerNames, hostNames] = await Promise.all(
        [contained, host].map(async (path) => (await readArchiveIndex(path))!.names),
      );
      expect(daggerNames).toHaveLength(1);
      if (daggerNames![0] === hostNames![0]) expect(daggerTree).toEqual(hostTree);
      const { components } = await Bun.file(sbomPathFor(contained)).json();
      expect(components).toContainEqual(expect.objectContaining({ name: "libc6", type: "library" }));
      expect(shapeOf(daggerTree)).toEqual(shapeOf(hostTree));
    });

    test("builds an identical archive again", async () => {
      const again = join(directory, "again.tar");
      expect(dagger("image", "--output", again).code).toBe(0);
      expect(await sameBytes(join(directory, "dagger.tar"), again)).toBe(true);
    });

    test("a type error is exit 1 with the compiler's message", () => {
      appendFileSync(join(project, "src/build-info.ts"), 'export const wrong: number = "text";\n');
      const { code, output } = dagger("check");
      expect(output).toMatch(/src\/build-info\.ts.*TS2322/);
      expect(code).toBe(1);
    });
  },
  daggerEngine(),
);
