/** The pipeline as a program: exit codes, form of errors, leftover files. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { copyProject, describeWith, eventually, hasNamespaces, must, root, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(120_000);

describeWith("pipeline on the host", [], () => {
  const directory = temporaryDirectory();
  const bin = join(directory, "bin");
  mkdirSync(bin);
  // A PATH with the tools of the scripts and without k3s.
  for (const tool of ["bun", "sh", "git", "cat", "sleep", "tar", "true", "rm", "grep", "sed", "xargs", "unshare"]) {
    const found = tool === "bun" ? process.execPath : Bun.which(tool);
    if (found) symlinkSync(found, join(bin, tool));
  }
  const env = {
    PATH: bin,
    DAGGER_SESSION_PORT: undefined,
    DAGGER_SESSION_TOKEN: undefined,
    GITHUB_STEP_SUMMARY: undefined,
  };
  const pipeline = (args: string[], cwd = root) =>
    sh([process.execPath, join(cwd, "ci/pipeline.ts"), ...args], { cwd: directory, env });
  const project = (name: string) => copyProject(join(directory, name));

  test("--help: usage on stdout, exit 0", () => {
    const { code, stdout } = pipeline(["--help"]);
    expect(code).toBe(0);
    expect(stdout).toContain("usage: bun ci/pipeline.ts");
  });

  test.each([["frobnicate"], ["--frobnicate"], ["--engine=podman"]])("%s: usage on stderr, exit 2", (argument) => {
    const { code, output, stdout } = pipeline([argument]);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(output).toContain("usage: bun ci/pipeline.ts");
  });

  test("no k3s: exit 3 with a hint, before a build", () => {
    const { code, output } = pipeline(["--engine", "host"]);
    expect(code).toBe(3);
    expect(output).toMatch(/^error: k3s not found on this machine.*install-k3s.*--target none/m);
    expect(readdirSync(directory)).not.toContain("helloapp.tar");
  });

  test("--engine dagger without a session: exit 3 with the command that starts a session", () => {
    const { code, output } = pipeline(["--engine", "dagger", "--target", "none"]);
    expect(code).toBe(3);
    expect(output).toMatch(/^error: .*requires a Dagger session.*dagger run bun ci\/pipeline.ts/m);
  });

  test("an unreachable Dagger session: exit 3", () => {
    const session = { ...env, DAGGER_SESSION_PORT: "1", DAGGER_SESSION_TOKEN: "x" };
    const { code, output } = sh([process.execPath, join(root, "ci/pipeline.ts"), "image"], {
      cwd: directory,
      env: session,
    });
    expect(code).toBe(3);
    expect(output).toContain("Dagger engine");
  });

  test("up without k3s: archive, smoke test and next steps", async () => {
    const { code, output } = pipeline(["up"], project("up"));
    const passed = /smoke +ok .*readiness .*liveness .*\/version, drain; not tested: /;
    expect(output).toMatch(hasNamespaces ? passed : /smoke +none .*smoke test skipped: /);
    expect(output).toContain("install-k3s");
    expect(code).toBe(0);
    const { names } = (await readArchiveIndex(join(directory, "helloapp.tar")))!;
    expect(output).toContain(`helloapp.tar holds ${names[0]}`);
  });

  test("a type error and a failing test: exit 1, with both errors", () => {
    const broken = project("broken");
    appendFileSync(join(broken, "src/build-info.ts"), "export const wrong: number = 'text';\n");
    writeFileSync(
      join(broken, "test/src/red.test.ts"),
      'import { test } from "bun:test";\ntest("red", () => { throw new Error("so red"); });\n',
    );
    const { code, output } = pipeline(["--target", "none"], broken);
    expect(code).toBe(1);
    expect(output).toContain("src/build-info.ts");
    expect(output).toContain("TS2322");
    expect(output).toContain("so red");
    expect(output).not.toMatch(/^ {4}at .*pipeline\.ts/m);
  });

  test("a syntax error: exit 1 with the location, and the previous archive is kept", async () => {
    const broken = project("syntax");
    const output = join(broken, "x.tar");
    expect(pipeline(["image", "--output", output], broken).code).toBe(0);
    const before = await Bun.file(output).bytes();
    appendFileSync(join(broken, "src/main.ts"), "const = ;\n");
    const result = pipeline(["image", "--output", output], broken);
    expect(result.code).toBe(1);
    expect(result.output).toMatch(/main\.ts:\d+/);
    expect(await Bun.file(output).bytes()).toEqual(before);
    expect(readdirSync(broken).filter((name) => /dist|\.part$/.test(name))).toEqual([]);
  });

  test("an output directory that does not exist: exit 3", () => {
    const { code, output } = pipeline(["image", "--output", join(directory, "no/such/directory/x.tar")]);
    expect(code).toBe(3);
    expect(output).toMatch(/^error: cannot write .*--output/m);
  });

  test("interrupted: exit 130, with the state", async () => {
    const slow = project("slow");
    writeFileSync(
      join(slow, "test/src/slow.test.ts"),
      'import { test } from "bun:test";\ntest("slow", async () => { await Bun.write("started", ""); await Bun.sleep(60_000); }, 90_000);\n',
    );
    const child = Bun.spawn([process.execPath, "ci/pipeline.ts", "test"], {
      cwd: slow,
      env: { ...process.env, ...env },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    await eventually(async () => existsSync(join(slow, "started")) || undefined);
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect(await new Response(child.stderr).text()).toContain("interrupted. Nothing was changed.");
  });

  test("GitHub's step summary gets the table", async () => {
    const summary = join(directory, "summary.md");
    sh([process.execPath, "ci/pipeline.ts", "check"], { env: { ...env, GITHUB_STEP_SUMMARY: summary } });
    expect(await Bun.file(summary).text()).toMatch(/^\| \*\*check\*\* \| (ok|reused) \| \d+\.\d \| /m);
  });

  test("tsc agrees with `bun check`", () => {
    must([join(root, "node_modules/.bin/tsc"), "--noEmit"]);
  });
});

const mounts = sh(["unshare", "--mount", "true"]).code === 0;

describeWith(
  "pipeline on a full disk",
  ["unshare", "mount"],
  () => {
    const directory = temporaryDirectory();

    test("exit 3 with a hint, and no partial file", () => {
      const output = join(directory, "full");
      mkdirSync(output);
      const script = `mount -t tmpfs -o size=20m none ${output} &&
        { ${process.execPath} ci/pipeline.ts image --engine host --output ${output}/x.tar; echo "exit $?, left: $(ls -A ${output})"; }`;
      const { output: text } = sh(["unshare", "--mount", "sh", "-c", script]);
      expect(text).toMatch(/^error: no space left .* Free some space/m);
      expect(text).toContain("exit 3, left: \n");
    });
  },
  { name: "the right to mount", isMet: mounts },
);
