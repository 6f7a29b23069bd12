/**
 * Command line: finds the command, reads its options, runs it and reports the result.
 *
 * Each file in commands/ is a command, named after the file. The groups below only order the help.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Engine } from "../engines/engine.ts";
import { hostEngine } from "../engines/host.ts";
import { withDagger } from "../engines/dagger-session.ts";
import { exitCodes, explainRefusedAccess, PipelineError } from "../core/errors.ts";
import { Report } from "../core/step-report.ts";
import { resolveService, type Service } from "../core/resolve-service.ts";
import { version } from "../package.json";
import { assertSupportedBun, assertNoShadowingBun, assertPinnedBun } from "./bun-version.ts";
import { printError } from "./error-output.ts";
import { findNearest } from "./find-nearest.ts";
import {
  validateTargetOptions,
  commonOptions,
  describeOptions,
  optionDefinitions,
  parseChoice,
  readOptions,
  stepOptions,
  usageError,
} from "./options.ts";
import type { Option, OptionName, OptionValues } from "./options.ts";
import { isProjectError, CommandContext, UNCHANGED, type Command } from "./context.ts";
import type { Settings } from "../index.d.ts";

const commands = join(import.meta.dir, "../commands");
const DEFAULT = "deploy";

/** Commands in the order of the help, which follows the workflow. A test checks that none is missing. */
export const commandGroups = {
  Everyday: ["init", "up", "deploy", "watch", "plan", "verify", "status", "logs", "rollback"],
  "Parts of a deploy": ["check", "test", "build", "image", "push", "verify-archive"],
  Operation: ["secrets", "run", "console", "shell", "restart", "scale", "proxy", "open", "kubectl"],
  "Set-up": ["install-k3s", "completion"],
  "The end": ["destroy"],
};

async function loadCommand(name: string): Promise<Command> {
  const names = readdirSync(commands).flatMap((file) => (file.endsWith(".ts") ? [file.slice(0, -3)] : []));
  return (await import(join(commands, `${parseChoice("command", name, names)}.ts`))).default as Command;
}

/** Returns the help of a command, or of slipway. */
async function usage(name?: string): Promise<string> {
  if (name !== undefined) {
    const { about, args, options } = await loadCommand(name);
    const form = ["slipway", name, ...(args ? [args.form] : []), "[options]"].join(" ");
    const lines = describeOptions([...options, ...commonOptions]);
    return [`usage: ${form}`, "", about, "", "options:", ...lines, ""].join("\n");
  }
  const sections = Object.entries(commandGroups).map(async ([title, names]) => {
    const lines = names.map(async (name) => {
      const { about, args } = await loadCommand(name);
      return `  ${[name, args?.form].join(" ").padEnd(20)} ${about}\n`;
    });
    return `${title}:\n${(await Promise.all(lines)).join("")}`;
  });
  return `slipway tests, builds and deploys a Bun service to Kubernetes, and verifies the new version.

usage: bun ci/pipeline.ts [command] [options]              on this machine (also: slipway [command] [options])
       dagger run bun ci/pipeline.ts [command] [options]   in containers

${(await Promise.all(sections)).join("\n")}
Run \`slipway help COMMAND\` for the options of a command, and \`slipway --version\` for the version.

exit codes:
    0 success
    1 the project is at fault
    2 wrong command line
    3 the environment is at fault, nothing was changed
    4 partial failure, the message names the state and the next command
  130 interrupted
`;
}

/** @throws {PipelineError} "usage" if the command line is invalid */
async function parse(words: string[]) {
  const { values, positionals } = parseWords(words);
  if (positionals[0] === "help") {
    positionals.shift();
    values.help = true;
  }
  const [name = DEFAULT, ...args] = positionals;
  const command = await loadCommand(name);
  const accepts = ({ options }: Command, option: string) =>
    [...options, ...commonOptions].includes(option as OptionName);
  for (const option of Object.keys(values)) {
    if (accepts(command, option)) continue;
    const names = Object.values(commandGroups).flat();
    const commands = await Promise.all(names.map(loadCommand));
    const others = names.filter((_, index) => accepts(commands[index]!, option));
    const list = new Intl.ListFormat("en", { type: "disjunction" }).format(others);
    throw usageError(`--${option} does not apply to ${name}. Use it with ${list}`);
  }
  const { form = "no argument", min = 0, max = 0 } = command.args ?? {};
  if (!values.help && (args.length < min || args.length > max)) {
    throw usageError(`${name} expects ${form}, got ${args.join(" ") || "no argument"}`);
  }
  return { name: positionals.length > 0 ? name : undefined, command, args, values };
}

/** @throws {PipelineError} "usage" if an option is unknown or its value is missing */
function parseWords(words: string[]): { positionals: string[]; values: OptionValues } {
  const options = Object.entries(optionDefinitions).map(([name, definition]) => {
    const { value, multiple = false, short }: Option = definition;
    return [name, { type: value === undefined ? "boolean" : "string", multiple, ...(short && { short }) }];
  });
  try {
    return parseArgs({ args: words, allowPositionals: true, options: Object.fromEntries(options) });
  } catch (error) {
    const { message } = error as Error;
    const [, unknown] = /^Unknown option '(-[^']+)'/.exec(message) ?? [];
    if (unknown === undefined) throw usageError(message);
    const near = findNearest(unknown.slice(2), Object.keys(optionDefinitions));
    throw usageError(`unknown option ${unknown}${near ? `: did you mean --${near}?` : ""}`);
  }
}

/**
 * Runs the command that the command line names.
 *
 * @param words command line without program and script
 * @param project directory with the service's package.json
 * @param settings settings of the service. Without them, only commands that need no ci/pipeline.ts run.
 * @returns the exit code
 */
export async function main(words: string[], project: string, settings?: Settings): Promise<number> {
  const verbose = words.includes("--verbose");
  const interrupted = new AbortController();
  let current: CommandContext | undefined;
  let service: Service | undefined;
  try {
    const { name, command, args, values } = await parse(words);
    if (values.version) {
      console.log(`slipway ${version} (Bun ${Bun.version})`);
      return 0;
    }
    if (values.help) {
      console.log(await usage(name));
      return 0;
    }
    assertSupportedBun(project);
    if (settings === undefined && command.needs === undefined) {
      if (existsSync(join(project, "ci/pipeline.ts"))) {
        throw new PipelineError("environment", "the service's packages are not installed", {
          code: "packages-not-installed",
          hint: "Run `bun install`.",
        });
      }
      throw new PipelineError("project", `ci/pipeline.ts not found in ${project}`, {
        code: "pipeline-not-found",
        hint: "Change to the directory with the service's package.json. To add slipway to a service, run `slipway init` there.",
      });
    }
    service = command.needs === "nothing" ? bareService(project) : resolveService(project, settings);
    const parsed = readOptions(values, args, service, process.env);
    if (command.options.includes("target")) validateTargetOptions(parsed);
    const interrupt = () => interrupted.abort(new PipelineError("interrupted", "interrupted"));
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, interrupt);

    let code = 0;
    const execute = async (engine: Engine) => {
      current = new CommandContext({
        service: service!,
        options: parsed,
        signal: interrupted.signal,
        engine,
        // Standard output is the JSON alone.
        ...(parsed.json && { report: new Report((line) => console.error(line)) }),
      });
      const conclusion = await command.execute(current);
      if (typeof conclusion === "number") {
        code = conclusion;
        return;
      }
      await current.report.publish(conclusion, parsed.report);
      const print = parsed.json ? console.error : console.log;
      if (conclusion) print(`${conclusion}${current.report.summaryLine()}`);
    };
    const takesEngine = command.options.includes(stepOptions[0]);
    // The Dagger engine contains the pinned Bun.
    const onHost = !takesEngine || parsed.engine === "host";
    if (takesEngine && onHost) assertPinnedBun(service);
    // Engines run prebuild scripts first. check and test do this check themselves.
    if (takesEngine && service.prebuild.length > 0) await assertNoShadowingBun(service, interrupted.signal);
    if (onHost) await execute(hostEngine(service, interrupted.signal));
    else await withDagger(service, interrupted.signal, execute);
    return code;
  } catch (thrown) {
    const error = explainRefusedAccess(thrown);
    current?.report.clearProgress();
    if (interrupted.signal.aborted) {
      const state = current?.interruptMessage ?? UNCHANGED;
      console.error(`\ninterrupted. ${state}`);
      await current?.report.publish(`**interrupted:** ${state}`, current.options.report, "interrupted");
      return exitCodes.interrupted;
    }
    printError(thrown, verbose, service);
    if (current && current.interruptMessage !== UNCHANGED && !isProjectError(error))
      console.error(current.interruptMessage);
    if (!(error instanceof PipelineError)) return exitCodes.project;
    if (error.kind === "usage") console.error(`\n${await usage()}`);
    await current?.report.publish(`**failed:** ${error.message}`, current.options.report, error.code);
    return exitCodes[error.kind];
  }
}

/** Creates a stand-in for commands that run in any directory. */
function bareService(project: string): Service {
  return { project, root: project, name: "service", hosts: [] as string[] } as Service;
}
