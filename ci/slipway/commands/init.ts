/**
 * What a Bun service needs to be carried by slipway, written beside what it has: ci/pipeline.ts, k8s/, Dockerfile, a workflow;
 * scripts and ignore patterns are added. A file that is there is never written over, so a second run changes nothing.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, normalize, relative } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { runProcess as execute } from "../core/process.ts";
import { addComponents, components, componentsIn, overlayOf } from "../init/components.ts";
import { findFacts, type ProjectFacts } from "../init/project-facts.ts";
import { OVERLAY, generatedFiles } from "../init/files.ts";
import { addToDockerignore, addToGitignore, addToPackage, isAllowlistGitignore } from "../init/merge.ts";
import { writeAll, type FileChange } from "../init/write.ts";
import { findShadowingBun, UPGRADE_HINT, outdatedBunMessage } from "../cli/bun-version.ts";
import { parseChoice, usageError } from "../cli/options.ts";
import type { Command, CommandContext } from "../cli/context.ts";

export default {
  about: "write what a Bun service needs to be carried, beside what it has",
  options: ["check", "with"],
  needs: "package",
  async execute(context) {
    const asked = [...new Set(context.options.with)].map((name) =>
      parseChoice("component", name, components),
    );
    if (context.options.check && asked.length > 0)
      throw usageError("--check writes nothing: not with --with");
    const facts = await settle(context);
    const changes = changesOf(facts, { asked });
    if (context.options.check) return check(context, facts, changes);
    const reports: string[] = [];
    for (const { path, before, after } of changes) {
      if (before === undefined)
        reports.push(`  new      ${shown(facts, path)}  ${after.split("\n").length - 1} lines`);
      else reports.push(await diff(facts, path, before, after, context));
    }
    await writeAll(changes);
    for (const report of reports) console.log(report);
    await install(context, facts, changes);
    const other = await findShadowingBun(context.service, context.signal);
    for (const line of advice(facts, other, changes)) console.log(line);
    if (changes.length === 0) return "nothing to write: all of it is there";
    return isOwn(facts, "up") ? "next: bun ci/pipeline.ts up" : "next: bun run up";
  },
} satisfies Command;

/** Facts, with the port that was found where no settings have a say yet. */
async function settle({ service, signal }: CommandContext): Promise<ProjectFacts> {
  const facts = await findFacts(service, signal);
  const isNew = !existsSync(join(service.project, "ci/pipeline.ts"));
  if (!isNew || facts.port === undefined) return facts;
  return { ...facts, service: { ...facts.service, port: facts.port } };
}

/**
 * What would be written.
 *
 * @param asked components to switch on, beside those that the overlay names
 * @param all also where a file of the service's own is another one
 */
function changesOf(facts: ProjectFacts, { asked = [] as string[], all = false }): FileChange[] {
  const { project, root } = facts.service;
  const overlay = overlayOf(facts.service);
  const there = read(overlay);
  const named = there === undefined ? [] : componentsIn(there, overlay, project);
  const merged: [string, (text: string | undefined) => string][] = [
    [join(project, "package.json"), (text = "{}") => addToPackage(text, facts)],
    [join(root, ".gitignore"), addToGitignore],
    [join(root, ".dockerignore"), addToDockerignore],
  ];
  if (there !== undefined) merged.push([overlay, () => addComponents(there, overlay, project, asked)]);
  else if (asked.length > 0 && relative(project, overlay) !== OVERLAY)
    throw new PipelineError("project", `there is no ${overlay} to switch components on in`, {
      hint: "Nothing was changed.",
    });
  const changes = merged.map(([path, add]) => ({ path, before: read(path), after: add(read(path)) }));
  for (const [name, after] of generatedFiles(facts, [...new Set([...named, ...asked])])) {
    const path = normalize(join(project, name));
    const before = read(path);
    if ((before === undefined && !isLeftOut(facts, name)) || (before !== undefined && all))
      changes.push({ path, before, after });
  }
  return changes.filter(({ before, after }) => before !== after);
}

/** undefined: there is none. @throws {PipelineError} "project" where something else than a file has the name */
function read(path: string): string | undefined {
  if (!existsSync(path)) return undefined;
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new PipelineError("project", `${path} is to be a file: ${(error as Error).message}`, {
      hint: "Nothing was changed.",
      cause: error,
    });
  }
}

/** A manifest that the service's own kustomization does not name would be read by nobody. */
function isLeftOut({ service }: ProjectFacts, name: string): boolean {
  const [, place, file] = /^(k8s\/(?:base|components\/[^/]+))\/(.*)$/.exec(name) ?? [];
  const own = place && file && read(join(service.project, place, "kustomization.yaml"));
  return own ? !own.includes(file!) : false;
}

/** Says what differs from what this version would write. @throws {PipelineError} "project" when anything does */
async function check(context: CommandContext, facts: ProjectFacts, missing: FileChange[]): Promise<string> {
  const changes = changesOf(facts, { all: true });
  for (const { path, before, after } of changes)
    console.log(await diff(facts, path, before ?? "", after, context));
  if (changes.length === 0) return "all of it is as this version writes it";
  const own = changes.length - missing.length;
  const lacking = missing.length > 0 ? `${missing.length} to be added by \`slipway init\`` : "";
  const differ = own > 0 ? `${own} of the service's own differ: take over by hand what is wanted` : "";
  throw new PipelineError("project", [lacking, differ].filter(Boolean).join("; "), {
    hint: "A file that is removed is written anew.",
  });
}

function shown({ service }: ProjectFacts, path: string): string {
  return relative(service.project, path);
}

/** A unified diff; without diff(1), the file's name. */
async function diff(
  facts: ProjectFacts,
  path: string,
  before: string,
  after: string,
  { signal }: CommandContext,
): Promise<string> {
  const name = shown(facts, path);
  const labels = ["-L", `a/${name}`, "-L", `b/${name}`];
  const file = before === "" ? "/dev/null" : path;
  const command = ["diff", "-u", ...labels, file, "-"];
  const { stdout } = await execute(command, { input: after, signal }).catch(() => ({ stdout: "" }));
  return stdout.trimEnd() || `  changed  ${name}`;
}

/** Installs the package that is new in package.json, and makes or migrates the lockfile. */
async function install(
  { signal }: CommandContext,
  { service, lockfile }: ProjectFacts,
  changes: FileChange[],
): Promise<void> {
  const installed =
    existsSync(join(service.project, "node_modules/slipway")) ||
    existsSync(join(service.root, "node_modules/slipway"));
  const isNew = changes.some(({ path }) => path === join(service.project, "package.json"));
  if (installed && !isNew && existsSync(join(service.root, lockfile))) return;
  console.log("  bun install");
  const { code, stdout, stderr } = await execute([process.execPath, "install"], {
    cwd: service.root,
    signal,
  });
  if (code === 0) return;
  throw new PipelineError("environment", "`bun install` failed; the files are written", {
    hint: "Run it again when what it says is mended; then `bun run up`.",
    output: stdout + stderr,
  });
}

/** Whether the service has a script of that name that does something else. */
function isOwn({ package: { scripts = {} } }: ProjectFacts, name: string): boolean {
  return scripts[name] !== undefined && !scripts[name].includes("ci/pipeline.ts");
}

/** What only the service's people can do, with the lines for it. */
function advice(facts: ProjectFacts, other: PipelineError | undefined, changes: FileChange[]): string[] {
  const { service, hasTests, isFixed, package: own } = facts;
  const { scripts } = service;
  const lines: string[] = [];
  const old = outdatedBunMessage(service.bun);
  if (old !== undefined) lines.push(`  ${old}. ${UPGRADE_HINT}`);
  if (other) lines.push(`  ${other.message}. ${other.hint}`);
  if (scripts.check === undefined)
    lines.push(
      '  no script `check`: types are not checked. For package.json: "check": "bun check --no-script"',
    );
  if (scripts.test === undefined)
    lines.push(
      hasTests
        ? `  no tests are run: the script \`test\` (${own.scripts?.test}) runs none to its end; \`test:unit\` goes before it`
        : "  no tests were found: none are run",
    );
  if (isFixed)
    lines.push(
      `  ${service.entry} listens on ${service.port} whatever $PORT says, which \`up\` tries it on: process.env.PORT ?? ${service.port}`,
    );
  const sent = read(join(service.root, ".dockerignore"));
  if (sent !== undefined && isAllowlistGitignore(sent))
    lines.push(
      "  .dockerignore names what is sent to an image build: the Dockerfile needs ci/ and the lockfile as well",
    );
  for (const [name, does] of [
    ["build", "the image is built by"],
    ["up", "the service is brought up by"],
  ] as const) {
    if (isOwn(facts, name))
      lines.push(
        `  the script \`${name}\` (${own.scripts?.[name]}) stays as it is; ${does} \`bun ci/pipeline.ts ${name}\``,
      );
  }
  for (const name of components) {
    const place = `k8s/components/${name}`;
    if (changes.some(({ path }) => path === join(service.project, place, "kustomization.yaml")))
      lines.push(`  ${place}: its first lines say what it needs, and what is yours to fill in`);
  }
  return lines.length > 0 ? ["", ...lines] : [];
}
