/**
 * What a Bun service needs to be carried by slipway, written beside what it has: ci/pipeline.ts, k8s/, Dockerfile, a workflow;
 * scripts and ignore patterns are added. A file that is there is never written over, so a second run changes nothing.
 */
import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join, normalize, relative } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { run as execute } from "../ground/process.ts";
import { findFacts, type Facts } from "../init/facts.ts";
import { ownFiles } from "../init/files.ts";
import { addToDockerignore, addToGitignore, addToPackage } from "../init/merge.ts";
import type { Command, Run } from "../run/run.ts";

export default {
  about: "write what a Bun service needs to be carried, beside what it has",
  options: ["check"],
  needs: "package",
  async execute(run) {
    const facts = await settle(run);
    const changes = changesOf(facts);
    if (run.options.check) return check(run, facts, changes);
    for (const { path, before, after } of changes) {
      if (before === undefined)
        console.log(`  new      ${shown(facts, path)}  ${after.split("\n").length - 1} lines`);
      else console.log(await diff(facts, path, before, after, run));
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, after);
    }
    await install(run, facts);
    for (const line of advice(facts)) console.log(line);
    return changes.length === 0 ? "nothing to write: all of it is there" : "next: bun run up";
  },
} satisfies Command;

interface Change {
  /** Absolute. */
  path: string;
  before: string | undefined;
  after: string;
}

/** Facts, with the port that was found where no settings have a say yet. */
async function settle({ service, signal }: Run): Promise<Facts> {
  const facts = await findFacts(service, signal);
  const isNew = !existsSync(join(service.project, "ci/pipeline.ts"));
  if (!isNew || facts.port === undefined) return facts;
  return { ...facts, service: { ...facts.service, port: facts.port } };
}

/** What would be written. @param all also where a file of the service's own is another one */
function changesOf(facts: Facts, all = false): Change[] {
  const { project, root } = facts.service;
  const read = (path: string) => (existsSync(path) ? readFileSync(path, "utf8") : undefined);
  const merged: [string, (text: string | undefined) => string][] = [
    [join(project, "package.json"), (text = "{}") => addToPackage(text, facts)],
    [join(root, ".gitignore"), addToGitignore],
    [join(root, ".dockerignore"), addToDockerignore],
  ];
  const changes = merged.map(([path, add]) => ({ path, before: read(path), after: add(read(path)) }));
  for (const [name, after] of ownFiles(facts)) {
    const path = normalize(join(project, name));
    const before = read(path);
    if (before === undefined || all) changes.push({ path, before, after });
  }
  return changes.filter(({ before, after }) => before !== after);
}

/** Says what differs from what this version would write. @throws {PipelineError} "change" when anything does */
async function check(run: Run, facts: Facts, missing: Change[]): Promise<string> {
  const changes = changesOf(facts, true);
  for (const { path, before, after } of changes)
    console.log(await diff(facts, path, before ?? "", after, run));
  if (changes.length === 0) return "all of it is as this version writes it";
  const own = changes.length - missing.length;
  const lacking = missing.length > 0 ? `${missing.length} to be added by \`slipway init\`` : "";
  const differ = own > 0 ? `${own} of the service's own differ: take over by hand what is wanted` : "";
  throw new PipelineError("change", [lacking, differ].filter(Boolean).join("; "), {
    hint: "A file that is removed is written anew.",
  });
}

function shown({ service }: Facts, path: string): string {
  return relative(service.project, path);
}

/** A unified diff; without diff(1), the file's name. */
async function diff(
  facts: Facts,
  path: string,
  before: string,
  after: string,
  { signal }: Run,
): Promise<string> {
  const name = shown(facts, path);
  const labels = ["-L", `a/${name}`, "-L", `b/${name}`];
  const file = before === "" ? "/dev/null" : path;
  const command = ["diff", "-u", ...labels, file, "-"];
  const { stdout } = await execute(command, { input: after, signal }).catch(() => ({ stdout: "" }));
  return stdout.trimEnd() || `  changed  ${name}`;
}

/** Installs the package that is new in package.json, and makes or migrates the lockfile. */
async function install({ signal }: Run, { service, lockfile }: Facts): Promise<void> {
  const installed =
    existsSync(join(service.project, "node_modules/slipway")) ||
    existsSync(join(service.root, "node_modules/slipway"));
  if (installed && lockfile === "bun.lock") return;
  console.log("  bun install");
  const { code, stdout, stderr } = await execute([process.execPath, "install"], {
    cwd: service.root,
    signal,
  });
  if (code === 0) return;
  throw new PipelineError("surroundings", "`bun install` failed; the files are written", {
    hint: "Run it again when what it says is mended; then `bun run up`.",
    output: stdout + stderr,
  });
}

/** What only the service's people can do, with the lines for it. */
function advice({ service, hasTests, package: own }: Facts): string[] {
  const { scripts } = service;
  const lines: string[] = [];
  if (scripts.check === undefined)
    lines.push(
      '  no script `check`: types are not checked. For package.json: "check": "bun check --no-script"',
    );
  if (!hasTests && scripts.test === undefined) lines.push("  no tests were found: none are run");
  const build = own.scripts?.build;
  if (build !== undefined && !build.includes("ci/pipeline.ts"))
    lines.push(
      `  the script \`build\` (${build}) stays as it is; the image is built by \`bun ci/pipeline.ts build\``,
    );
  return lines.length > 0 ? ["", ...lines] : [];
}
