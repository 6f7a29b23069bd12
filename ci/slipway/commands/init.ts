/**
 * Generates the files that a Bun service needs for slipway: ci/pipeline.ts, k8s/, Dockerfile and a workflow. Adds scripts to
 * package.json and patterns to the ignore files. Existing files are never overwritten, so a second run changes nothing.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, normalize, relative } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { explainInstallFailure } from "../core/install-access.ts";
import { runProcess as execute } from "../core/process.ts";
import {
  addComponents,
  assertComponentsFitWorker,
  components,
  componentsIn,
  kustomizationPathOf,
} from "../init/kustomize-components.ts";
import { findFacts, type ProjectFacts } from "../init/project-facts.ts";
import { OVERLAY, generatedFiles } from "../init/files.ts";
import { addToDockerignore, addToGitignore, addToPackage, isAllowlistGitignore } from "../init/merge.ts";
import { describeChoices } from "../init/describe-choices.ts";
import { restore, snapshot, undoAll, writeAll, type FileChange } from "../init/write-all-or-none.ts";
import { findShadowingBun, UPGRADE_HINT, outdatedBunMessage } from "../cli/bun-version.ts";
import { lockfiles } from "../image/inputs.ts";
import { parseChoice, usageError } from "../cli/options.ts";
import type { Command, CommandContext } from "../cli/context.ts";

export default {
  about: "Generate pipeline, manifests, Dockerfile and workflow, and keep existing files",
  options: ["check", "with"],
  needs: "package",
  async execute(context) {
    const selected = [...new Set(context.options.with)].map((name) => parseChoice("component", name, components));
    if (context.options.check && selected.length > 0) throw usageError("--check cannot be combined with --with");
    const facts = await detectFacts(context);
    if (facts.isWorker) assertComponentsFitWorker(context.service, selected);
    const changes = planChanges(facts, { selected });
    if (context.options.check) return check(context, facts, changes);
    const reports: string[] = [];
    for (const { path, before, after } of changes) {
      if (before === undefined)
        reports.push(`  new      ${displayPath(facts, path)}  ${after.split("\n").length - 1} lines`);
      else reports.push(await diff(facts, path, before, after, context));
    }
    await writeAll(changes);
    for (const report of reports) console.log(report);
    for (const line of describeChoices(facts, changes)) console.log(line);
    await install(context, facts, changes);
    const shadowing = await findShadowingBun(context.service, context.signal);
    for (const line of createAdvice(facts, shadowing, changes)) console.log(line);
    if (changes.length === 0) return "nothing to write: all files exist";
    return hasForeignScript(facts, "up") ? "next: bun ci/pipeline.ts up" : "next: bun run up";
  },
} satisfies Command;

/** Detects the facts. The detected port counts only if there is no ci/pipeline.ts yet. */
async function detectFacts({ service, signal }: CommandContext): Promise<ProjectFacts> {
  const facts = await findFacts(service, signal);
  const isNew = !existsSync(join(service.project, "ci/pipeline.ts"));
  if (!isNew || facts.port === undefined) return facts;
  return { ...facts, service: { ...facts.service, port: facts.port } };
}

/**
 * Lists the files to write.
 *
 * @param selected components to switch on, in addition to those of the overlay
 * @param all also lists existing files that differ from the templates
 */
function planChanges(facts: ProjectFacts, { selected = [] as string[], all = false }): FileChange[] {
  const { project, root } = facts.service;
  const overlay = kustomizationPathOf(facts.service);
  const overlayText = readIfPresent(overlay);
  const active = overlayText === undefined ? [] : componentsIn(overlayText, overlay, project);
  const merged: [string, (text: string | undefined) => string][] = [
    [join(project, "package.json"), (text = "{}") => addToPackage(text, facts)],
    [join(root, ".gitignore"), addToGitignore],
    [join(root, ".dockerignore"), addToDockerignore],
  ];
  if (overlayText !== undefined) merged.push([overlay, () => addComponents(overlayText, overlay, project, selected)]);
  else if (selected.length > 0 && relative(project, overlay) !== OVERLAY)
    throw new PipelineError("project", `cannot switch components on: ${overlay} not found`, {
      code: "components-not-added",
      hint: "Nothing was changed.",
    });
  const changes = merged.map(([path, add]) => {
    const before = readIfPresent(path);
    return { path, before, after: add(before) };
  });
  for (const [name, after] of generatedFiles(facts, [...new Set([...active, ...selected])])) {
    const path = normalize(join(project, name));
    const before = readIfPresent(path);
    if (before === undefined ? !isUnreferenced(facts, name) : all) changes.push({ path, before, after });
  }
  return changes.filter(({ before, after }) => before !== after);
}

/** @throws {PipelineError} "project" if the path is not a file */
function readIfPresent(path: string): string | undefined {
  if (!existsSync(path)) return undefined;
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new PipelineError("project", `cannot read the file ${path}: ${(error as Error).message}`, {
      code: "file-not-accessible",
      hint: "Nothing was changed.",
      cause: error,
    });
  }
}

/** Whether the service has its own kustomization, which does not list this manifest. */
function isUnreferenced({ service }: ProjectFacts, name: string): boolean {
  const [, directory, file] = /^(k8s\/(?:base|components\/[^/]+))\/(.*)$/.exec(name) ?? [];
  if (!directory || !file) return false;
  const kustomization = readIfPresent(join(service.project, directory, "kustomization.yaml"));
  return kustomization ? !kustomization.includes(file) : false;
}

/** Prints the differences from this version's templates. @throws {PipelineError} "project" if there are any */
async function check(context: CommandContext, facts: ProjectFacts, missing: FileChange[]): Promise<string> {
  const changes = planChanges(facts, { all: true });
  for (const { path, before, after } of changes) console.log(await diff(facts, path, before ?? "", after, context));
  if (changes.length === 0) return "all files match the templates of this version";
  const edited = changes.length - missing.length;
  const counts = [
    missing.length > 0 && `files to write with \`slipway init\`: ${missing.length}`,
    edited > 0 && `files that differ from the templates: ${edited}`,
  ];
  throw new PipelineError("project", counts.filter(Boolean).join(", "), {
    code: "templates-differ",
    hint: "Apply the changes you want by hand. To generate a file again, remove it and run `slipway init`.",
  });
}

function displayPath({ service }: ProjectFacts, path: string): string {
  return relative(service.project, path);
}

/** Returns a unified diff, or the name of the file if diff(1) is missing. */
async function diff(
  facts: ProjectFacts,
  path: string,
  before: string,
  after: string,
  { signal }: CommandContext,
): Promise<string> {
  const name = displayPath(facts, path);
  const labels = ["-L", `a/${name}`, "-L", `b/${name}`];
  const file = before === "" ? "/dev/null" : path;
  const command = ["diff", "-u", ...labels, file, "-"];
  const { stdout } = await execute(command, { input: after, signal }).catch(() => ({ stdout: "" }));
  return stdout.trimEnd() || `  changed  ${name}`;
}

/** Runs `bun install` if package.json changed or the lockfile or the package is missing. */
async function install(
  { signal }: CommandContext,
  { service, lockfile, variables }: ProjectFacts,
  changes: FileChange[],
): Promise<void> {
  const installed =
    existsSync(join(service.project, "node_modules/slipway")) || existsSync(join(service.root, "node_modules/slipway"));
  const isNew = changes.some(({ path }) => path === join(service.project, "package.json"));
  if (installed && !isNew && existsSync(join(service.root, lockfile))) return;
  console.log("  bun install");
  // The installation may add these, or change them.
  const before = snapshot([...lockfiles, "package.json"].map((name) => join(service.root, name)));
  const { code, stdout, stderr } = await execute([process.execPath, "install"], {
    cwd: service.root,
    signal,
  });
  if (code === 0) return;
  await restore(before);
  await undoAll(changes);
  const refused = explainInstallFailure(stdout + stderr, variables);
  const cause = refused ? `: ${refused.message}` : "";
  const state = "Nothing was changed: the files above were removed again";
  throw new PipelineError("environment", `\`bun install\` failed${cause}. ${state}`, {
    code: "packages-not-installed",
    hint: `${refused?.hint ?? "Fix the error above."} Then run \`slipway init\` again.`,
    output: stdout + stderr,
  });
}

/** Whether the service has a script of this name that does not run slipway. */
function hasForeignScript({ package: { scripts = {} } }: ProjectFacts, name: string): boolean {
  return scripts[name] !== undefined && !scripts[name].includes("ci/pipeline.ts");
}

/** Lists changes that the developer has to make by hand. */
function createAdvice(facts: ProjectFacts, shadowing: PipelineError | undefined, changes: FileChange[]): string[] {
  const { service, hasTests, isFixed, portModule, package: manifest } = facts;
  const { scripts } = service;
  const lines: string[] = [];
  if (facts.outside.length > 0)
    lines.push(
      `${facts.outside.join(", ")}: outside ${service.root}, so the Dockerfile and \`dagger run\` cannot install it. Move it below that directory, or make both members of a workspace`,
    );
  const outdated = outdatedBunMessage(service.bun);
  if (outdated !== undefined) lines.push(`${outdated}. ${UPGRADE_HINT}`);
  if (shadowing) lines.push(`${shadowing.message}. ${shadowing.hint}`);
  if (scripts.check === undefined)
    lines.push('no `check` script, so types are not checked. Add the script "check": "bun check --no-script"');
  if (scripts.test === undefined)
    lines.push(
      hasTests
        ? `no tests run, because the \`test\` script (${manifest.scripts?.test}) never completes them. Add a \`test:unit\` script`
        : "no tests were found, so none run",
    );
  if (isFixed)
    lines.push(
      `${portModule ?? service.entry} ignores $PORT, which \`up\` needs to test the service. Listen on process.env.PORT ?? ${service.port}`,
    );
  const dockerignore = readIfPresent(join(service.root, ".dockerignore"));
  if (dockerignore !== undefined && isAllowlistGitignore(dockerignore))
    lines.push(".dockerignore is an allow-list. Add ci/ and the lockfile, which the Dockerfile needs");
  for (const [name, purpose] of [
    ["build", "Build the image"],
    ["up", "Deploy the service"],
  ] as const) {
    if (hasForeignScript(facts, name))
      lines.push(
        `the script \`${name}\` (${manifest.scripts?.[name]}) is unchanged. ${purpose} with \`bun ci/pipeline.ts ${name}\``,
      );
  }
  for (const name of components) {
    const directory = `k8s/components/${name}`;
    if (changes.some(({ path }) => path === join(service.project, directory, "kustomization.yaml")))
      lines.push(`${directory}: read its comments for requirements and for values to fill in`);
  }
  return lines.length > 0 ? ["", ...lines.map((line) => `  ${line}`)] : [];
}
