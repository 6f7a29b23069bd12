/** Projects whose files belong to another user, as after `sudo` or in a container with a mounted directory. */
import { afterAll, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { explainRefusedAccess, PipelineError } from "../core/errors.ts";
import { gitCommit, runGit } from "../core/git.ts";
import { ignoredFiles, projectFiles } from "../core/project-files.ts";

const { signal } = new AbortController();
const directory = mkdtempSync(join(tmpdir(), "foreign-files-"));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true }));
const isRoot = process.getuid?.() === 0;

test.skipIf(!isRoot || !Bun.which("git"))("git reads a repository of another user", async () => {
  const at = join(directory, "repository");
  mkdirSync(at);
  writeFileSync(join(at, ".gitignore"), "secret\n");
  writeFileSync(join(at, "a.ts"), "");
  writeFileSync(join(at, "secret"), "");
  const git = (...args: string[]) => expect(Bun.spawnSync(["git", ...args], { cwd: at }).exitCode).toBe(0);
  git("init", "--quiet");
  git("add", "--all");
  git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "-m", "x");
  for (const path of ["", ".git", ".gitignore", "a.ts"]) chownSync(join(at, path), 12_345, 12_345);
  expect(Bun.spawnSync(["git", "status"], { cwd: at }).stderr.toString()).toContain("dubious ownership");
  expect(await gitCommit(at, signal)).toMatch(/^[0-9a-f]{40}$/);
  expect(await projectFiles(at, signal)).toEqual([".gitignore", "a.ts"]);
  expect(await ignoredFiles(at, signal)).toEqual(["secret"]);
  expect(await runGit(["rev-parse", "--show-toplevel"], { cwd: at, signal })).toBe(`${at}\n`);
});

test.skipIf(!isRoot)("a directory of root that another user cannot write: one paragraph with owner and command", () => {
  const cache = join(directory, "cache");
  mkdirSync(cache, { mode: 0o755 });
  const code = `
    const { explainRefusedAccess } = require(${JSON.stringify(join(import.meta.dir, "../core/errors.ts"))});
    process.setgid(12345); process.setuid(12345);
    try { require("node:fs").mkdirSync(${JSON.stringify(join(cache, "slipway"))}); } catch (error) {
      const { kind, message, hint } = explainRefusedAccess(error);
      console.log(JSON.stringify({ kind, message, hint }));
    }`;
  const { stdout, stderr } = Bun.spawnSync([process.execPath, "-e", code], { cwd: "/" });
  expect(JSON.parse(stdout.toString() || stderr.toString())).toEqual({
    kind: "environment",
    message: `cannot mkdir ${join(cache, "slipway")} (EACCES), because ${cache} belongs to root`,
    hint: `Run \`sudo chown -R "$(id -u):$(id -g)" ${cache}\`.`,
  });
});

test("other errors stay as they are", () => {
  for (const error of [
    new Error("x"),
    new PipelineError("interrupted", "x"),
    Object.assign(new Error(), { code: "ENOENT" }),
  ])
    expect(explainRefusedAccess(error)).toBe(error);
});
