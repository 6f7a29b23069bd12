/**
 * Runs the jobs of a GitHub workflow on this machine, as far as that goes: each `run:` in the shell that GitHub would take,
 * in order, in a clean clone, with the files and variables by which steps talk to GitHub. Actions are not run; what they
 * are given is looked at. An action, expression or condition that is not known here is an error.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pins } from "../../core/pins.ts";
import { must, root } from "./setup.ts";

export interface Step {
  name?: string;
  id?: string;
  if?: string;
  uses?: string;
  with?: Record<string, string | number | boolean>;
  run?: string;
  env?: Record<string, string>;
}

export interface Job {
  name?: string;
  permissions?: Record<string, string>;
  "timeout-minutes"?: number;
  environment?: string;
  env?: Record<string, string>;
  steps: Step[];
}

export interface Workflow {
  permissions?: Record<string, string>;
  concurrency?: unknown;
  defaults?: { run?: { shell?: string } };
  jobs: Record<string, Job>;
}

export function readWorkflow(name: string): Workflow {
  return Bun.YAML.parse(readFileSync(join(root, ".github/workflows", name), "utf8")) as Workflow;
}

export interface Surrounding {
  /** The clone; made here. */
  directory: string;
  /** The repository that is cloned. */
  repository: string;
  /** Where artifacts are kept between jobs, a directory for each. */
  artifacts: string;
  /** Added to what the steps find, over the workflow's own. */
  env: Record<string, string | undefined>;
  /** What expressions are, by their text. What steps put out is added. */
  values?: Record<string, string>;
  /** What conditions are, by their text; default: whether the expression is an output that is not empty. */
  conditions?: Record<string, boolean>;
  /** Commands that are run in place of others, by their text. */
  instead?: Record<string, string>;
  /** Done to the clone before the first step. */
  prepare?(directory: string): void;
}

/**
 * @returns what the steps printed, by their names; and the step summary
 * @throws {Error} when a step fails, or something in the job is not known here
 */
export async function runJob(
  workflow: Workflow,
  name: string,
  { directory, repository, artifacts, env, values = {}, conditions = {}, instead = {}, prepare }: Surrounding,
): Promise<{ output: Map<string, string>; summary: string }> {
  const job = workflow.jobs[name];
  if (!job) throw new Error(`there is no job ${name}`);
  must(["git", "clone", "--quiet", repository, directory]);
  prepare?.(directory);
  const place = `${directory}.github`;
  mkdirSync(place);
  const files = { GITHUB_OUTPUT: join(place, "output"), GITHUB_STEP_SUMMARY: join(place, "summary") };
  for (const file of Object.values(files)) writeFileSync(file, "");

  const known: Record<string, string> = { ...values };
  const evaluate = (text: string | number | boolean) =>
    String(text).replace(/\$\{\{\s*(.*?)\s*\}\}/g, (_, expression: string) => {
      const value = known[expression];
      if (value === undefined) throw new Error(`\${{ ${expression} }} is not known here`);
      return value;
    });
  const evaluateAll = (entries: Record<string, string | number | boolean> = {}) =>
    Object.fromEntries(Object.entries(entries).map(([key, value]) => [key, evaluate(value)]));
  const holds = (condition: string) => {
    const [, output, variable, operator] =
      /^(?:(steps\.\w+\.outputs\.\w+)|env\.(\w+)) (==|!=) ''$/.exec(condition) ?? [];
    const text = variable ? evaluateAll(job.env)[variable] : known[output ?? ""];
    const value = conditions[condition] ?? (text === undefined ? undefined : (text === "") === (operator === "=="));
    if (value === undefined) throw new Error(`the condition ${condition} is not known here`);
    return value;
  };

  const output = new Map<string, string>();
  const left = new Set(Object.keys(instead));
  for (const step of job.steps) {
    if (step.if !== undefined && !holds(step.if)) continue;
    const title = step.name ?? step.uses ?? "";
    if (step.uses !== undefined) {
      useAction(step.uses.replace(/@.*/, ""), evaluateAll(step.with), { directory, artifacts });
      continue;
    }
    const text = step.run!.trim();
    if (text.includes("${{")) throw new Error(`${title}: an expression in a script`);
    left.delete(text);
    const script = join(place, "script.sh");
    writeFileSync(script, instead[text] ?? text);
    // https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idstepsshell
    const flags = workflow.defaults?.run?.shell === "bash" ? ["--noprofile", "--norc", "-eo", "pipefail"] : ["-e"];
    // Not spawnSync: a server of the test may have to answer.
    const child = Bun.spawn(["bash", ...flags, script], {
      cwd: directory,
      env: {
        ...process.env,
        ...files,
        ...evaluateAll(job.env),
        ...evaluateAll(step.env),
        ...env,
      },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const printed = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    output.set(title, printed.join(""));
    const code = await child.exited;
    if (code !== 0) throw new Error(`${title} ended with ${code}:\n${printed.join("")}`);
    for (const line of readFileSync(files.GITHUB_OUTPUT, "utf8").split("\n")) {
      const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
      if (key && step.id) known[`steps.${step.id}.outputs.${key}`] = value!;
    }
    writeFileSync(files.GITHUB_OUTPUT, "");
  }
  if (left.size > 0) throw new Error(`no step is: ${[...left].join("; ")}`);
  return { output, summary: readFileSync(files.GITHUB_STEP_SUMMARY, "utf8") };
}

/** What an action would need to find. @throws {Error} when it would not */
function useAction(
  action: string,
  inputs: Record<string, string>,
  { directory, artifacts }: { directory: string; artifacts: string },
): void {
  const wrong = (why: string) => new Error(`${action}: ${why}`);
  /** The files that a list of paths and patterns names; each has to name one at least. */
  const found = (paths: string) =>
    paths.split("\n").flatMap((pattern) => {
      if (existsSync(join(directory, pattern))) return [pattern];
      const matches = [...new Bun.Glob(pattern).scanSync(directory)];
      if (matches.length === 0) throw wrong(`there is no ${pattern}`);
      return matches;
    });
  switch (action) {
    case "actions/checkout":
      if (inputs["persist-credentials"] !== "false") throw wrong("keeps credentials");
      if (inputs.ref) must(["git", "checkout", "--quiet", inputs.ref], { cwd: directory });
      return;
    case "oven-sh/setup-bun":
      if (inputs["bun-version"] !== pins.bun) throw wrong(`installs ${inputs["bun-version"]}, not ${pins.bun}`);
      return;
    case "dagger/dagger-for-github":
      if (inputs.version !== pins.dagger) throw wrong(`installs ${inputs.version}, not ${pins.dagger}`);
      return;
    case "actions/upload-artifact":
      for (const path of found(inputs.path!.trim()))
        cpSync(join(directory, path), join(artifacts, inputs.name!, basename(path)), { recursive: true });
      return;
    case "actions/attest": {
      if (inputs["subject-path"]) found(inputs["subject-path"]);
      else if (!inputs["subject-name"] || !/^sha256:[0-9a-f]{64}$/.test(inputs["subject-digest"] ?? ""))
        throw wrong(`no subject: ${JSON.stringify(inputs)}`);
      if (inputs["sbom-path"]) {
        const sbom = JSON.parse(readFileSync(join(directory, inputs["sbom-path"]), "utf8"));
        if (sbom.bomFormat !== "CycloneDX") throw wrong(`${inputs["sbom-path"]} is no SBOM`);
      }
      return;
    }
    default:
      throw wrong("what would it do here?");
  }
}
