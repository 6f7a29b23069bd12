/** Tests `reproduce` with real builds. */
import { expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import manifest from "../../../../package.json";
import { resolveService } from "../../../slipway/core/resolve-service.ts";
import {
  copyProject,
  daggerEngine,
  describeWith,
  must,
  rewrite,
  root,
  sh,
  temporaryDirectory,
} from "../../../slipway/test/e2e/setup.ts";
import { reproduce } from "../../reproduce.ts";

setDefaultTimeout(300_000);

describeWith("reproduce", ["git"], () => {
  const directory = temporaryDirectory();
  const run = (cwd: string, ...args: string[]) =>
    sh([process.execPath, "ci/maintenance/reproduce.ts", ...args], { cwd });

  test("builds twice in different environments and finds no difference", () => {
    const project = copyProject(join(directory, "good"));
    const { code, output } = run(project);
    expect(code, output).toBe(0);
    const id = must([process.execPath, "ci/pipeline.ts", "build", "--id"], { cwd: project }).trim();
    const builds = output.split("\n").filter((line) => line.startsWith("build "));
    expect(builds).toHaveLength(2);
    for (const line of builds)
      expect(line).toMatch(new RegExp(`helloapp:${id}  runtime [0-9a-f]{12}  app [0-9a-f]{12}  archive `));
    expect(builds[1]).toContain("umask 077, Pacific/Kiritimati");
    expect(output).toEndWith("2 of 2 equal\n");
    // Dagger's image is compared, or the reason for skipping it is printed.
    expect(output).toMatch(/^(dagger: (equal|same)|skipped: the Dagger engine: )/m);
  });

  // Regression: git still lists a deleted file until the deletion is staged.
  test("ignores files that were deleted but not committed", () => {
    const project = copyProject(join(directory, "deleted"));
    must(["git", "init", "--quiet"], { cwd: project });
    must(["git", "add", "--all"], { cwd: project });
    rmSync(join(project, "Dockerfile"));
    const { code, output } = run(project);
    expect(code, output).toBe(0);
  });

  test("an image that depends on the umask: exit 1, with path and modes", () => {
    const project = copyProject(join(directory, "mask"));
    rewrite(
      join(project, "ci/slipway/image/docker-archive-writer.ts"),
      /type: "file", mode: 0o755/,
      'type: "file", mode: 0o777 & ~process.umask()',
    );
    // Other users cannot enter the directory, and PATH has no engine.
    const TMPDIR = join(directory, "tmp");
    mkdirSync(TMPDIR, { mode: 0o700 });
    const { code, output } = sh([process.execPath, "ci/maintenance/reproduce.ts", "--runs", "3"], {
      cwd: project,
      env: { PATH: "/usr/bin:/bin", TMPDIR, DAGGER_SESSION_PORT: undefined },
    });
    expect(code, output).toBe(1);
    expect(output).toContain("build 2: app: /helloapp: mode 0700, not 0755\n");
    expect(output).toContain("build 3: app: /helloapp: mode 0777, not 0755\n");
    expect(output).toMatch(/^error: 1 of 3 equal\.$/m);
    expect(output).toContain("skipped: another user: ");
    expect(readdirSync(TMPDIR)).toEqual([]);
  });

  test.each([[["--runs", "1"]], [["--runs", "x"]], [["--frobnicate"]], [["x"]]])("%p: usage, exit 2", (args) => {
    const { code, output } = run(root, ...args);
    expect(output).toContain("usage: bun run reproduce");
    expect(code).toBe(2);
  });
});

// Regression, found with public services: the engine installs again in the copy, from a file that git ignores.
describeWith(
  "reproduce with an engine",
  ["git"],
  () => {
    const directory = temporaryDirectory();

    test("builds a service that installs packages from files in .gitignore", async () => {
      const project = join(directory, "vendored");
      const files = {
        "package.json": JSON.stringify({
          name: "vendored",
          dependencies: { slipway: "file:./slipway.tgz" },
          devDependencies: { "@dagger.io/dagger": manifest.devDependencies["@dagger.io/dagger"] },
        }),
        ".gitignore": "node_modules\n*.tgz\n/kept.ts\n",
        "src/main.ts": 'import { kept } from "../kept.ts";\nBun.serve({ fetch: () => new Response(kept) });\n',
        "kept.ts": 'export const kept = "tracked by git although ignored";\n',
        "ci/pipeline.ts":
          'import { pipeline } from "slipway";\n\nawait pipeline(import.meta, { entry: "src/main.ts" });\n',
      };
      for (const [path, content] of Object.entries(files)) {
        mkdirSync(join(project, path, ".."), { recursive: true });
        writeFileSync(join(project, path), content);
      }
      const packed = ["pm", "pack", "--quiet", "--filename", join(project, "slipway.tgz")];
      must([process.execPath, ...packed], { cwd: join(root, "ci/slipway") });
      must([process.execPath, "install"], { cwd: project });
      must(["git", "init", "--quiet"], { cwd: project });
      must(["git", "add", "--force", "kept.ts"], { cwd: project });
      const service = resolveService(project, { entry: "src/main.ts" });
      using log = spyOn(console, "log").mockImplementation(() => {});
      expect(await reproduce(service, 2, AbortSignal.timeout(300_000))).toEqual({ equal: 2, same: true });
      expect(log.mock.calls.flat().join("\n")).toMatch(/^dagger: (equal|same)/m);
    });
  },
  daggerEngine(),
);
