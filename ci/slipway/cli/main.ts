/**
 * The command line: finds the command, reads its options, runs it, and says what came of it.
 *
 * Commands are the files in commands/, by their names; nothing here knows one of them.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Engine } from "../engines/engine.ts";
import { hostEngine } from "../engines/host.ts";
import { withDagger } from "../engines/session.ts";
import { exitCodes, PipelineError } from "../core/errors.ts";
import { resolveService, type Service } from "../core/service-config.ts";
import { assertSupportedBun, assertNoShadowingBun, assertPinnedBun } from "./bun-version.ts";
import { printError } from "./error-output.ts";
import {
  validateTargetOptions,
  commonOptions,
  describeOptions,
  optionDefinitions,
  readOptions,
  stepOptions,
  usageError,
} from "./options.ts";
import type { OptionValues } from "./options.ts";
import { isProjectError, CommandContext, UNCHANGED, type Command } from "./context.ts";
import type { Settings } from "../index.d.ts";

const commands = join(import.meta.dir, "../commands");
const DEFAULT = "deploy";

async function loadCommand(name: string): Promise<Command> {
  if (!/^[a-z][a-z0-9-]*$/.test(name) || !existsSync(join(commands, `${name}.ts`))) {
    throw usageError(`unknown command "${name}": expected one of ${commandNames().join(", ")}`);
  }
  return (await import(join(commands, `${name}.ts`))).default as Command;
}

function commandNames(): string[] {
  return readdirSync(commands)
    .flatMap((file) => (file.endsWith(".ts") ? [file.slice(0, -3)] : []))
    .sort();
}

/** The usage of one command, or of all. */
async function usage(name?: string): Promise<string> {
  if (name !== undefined) {
    const { about, args, options } = await loadCommand(name);
    const form = ["slipway", name, ...(args ? [args.form] : []), "[options]"].join(" ");
    return [
      `usage: ${form}`,
      "",
      about,
      "",
      "options:",
      ...describeOptions([...options, ...commonOptions]),
      "",
    ].join("\n");
  }
  const lines = await Promise.all(
    commandNames().map(async (name) => {
      const { about, args } = await loadCommand(name);
      const form = args && args.form.length < 12 ? `${name} ${args.form}` : name;
      return `  ${form.padEnd(20)} ${about}`;
    }),
  );
  return `Takes a Bun service from the source to a verified version on Kubernetes.

usage: bun ci/pipeline.ts [command] [options]              on this machine (also: slipway [command] [options])
       dagger run bun ci/pipeline.ts [command] [options]   in containers

commands, each with a --help of its own:
${lines.join("\n")}

exit codes: 0 what was asked for holds; 1 the change is at fault; 2 the command line is wrong;
            3 the surroundings are at fault, nothing was changed; 4 they failed in the middle, and not even the
            way back was open; 130 interrupted
`;
}

/** @throws {PipelineError} "usage" */
async function parse(words: string[]) {
  const { values, positionals } = (() => {
    try {
      const known = Object.entries(optionDefinitions).map(([name, option]) => {
        const { value, multiple = false } = option as { value?: string; multiple?: boolean };
        const type = value === undefined ? ("boolean" as const) : ("string" as const);
        return [name, { type, multiple, ...(name === "help" && { short: "h" }) }];
      });
      const parsed = parseArgs({ args: words, allowPositionals: true, options: Object.fromEntries(known) });
      return { positionals: parsed.positionals, values: parsed.values as OptionValues };
    } catch (error) {
      throw usageError((error as Error).message);
    }
  })();
  const [name = DEFAULT, ...args] = positionals;
  const command = await loadCommand(name);
  const taken = new Set<string>([...command.options, ...commonOptions]);
  for (const option of Object.keys(values)) {
    if (!taken.has(option)) throw usageError(`${name} takes no --${option}`);
  }
  const { form = "", min = 0, max = 0 } = command.args ?? {};
  if (!values.help && (args.length < min || args.length > max)) {
    throw usageError(`${name} takes ${form || "no further word"}, not ${args.join(" ") || "nothing"}`);
  }
  return { name: positionals.length > 0 ? name : undefined, command, args, values };
}

/**
 * Runs what the command line says.
 *
 * @param words the command line, without program and script
 * @param project the directory with the service's package.json
 * @param settings the service's; undefined: this is not its pipeline, and only commands that need none run
 * @returns the exit code
 */
export async function main(words: string[], project: string, settings?: Settings): Promise<number> {
  const verbose = words.includes("--verbose");
  const interrupted = new AbortController();
  let current: CommandContext | undefined;
  let service: Service | undefined;
  try {
    const { name, command, args, values } = await parse(words);
    if (values.help) {
      console.log(await usage(name));
      return 0;
    }
    assertSupportedBun(project);
    if (settings === undefined && command.needs === undefined) {
      if (existsSync(join(project, "ci/pipeline.ts"))) {
        throw new PipelineError("environment", "the service's packages are not installed", {
          hint: "`bun install` installs them.",
        });
      }
      throw new PipelineError("project", `there is no ci/pipeline.ts in ${project}`, {
        hint: "`slipway init` writes what a service needs; run the command in the directory with its package.json.",
      });
    }
    service = command.needs === "nothing" ? bareService(project) : resolveService(project, settings);
    const parsed = readOptions(values, args, service, process.env);
    if (command.options.includes("target")) validateTargetOptions(parsed);
    const interrupt = () => interrupted.abort(new PipelineError("interrupted", "interrupted"));
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, interrupt);

    const execute = async (engine: Engine) => {
      current = new CommandContext({
        service: service!,
        options: parsed,
        signal: interrupted.signal,
        engine,
      });
      const conclusion = await command.execute(current);
      await current.report.publish(conclusion, parsed.report);
      if (conclusion) console.log(`${conclusion}${current.report.summaryLine()}`);
    };
    const takesEngine = command.options.includes(stepOptions[0]);
    // The Dagger engine brings its own.
    const onHost = !takesEngine || parsed.engine === "host";
    if (takesEngine && onHost) assertPinnedBun(service);
    // The first that an engine does; check and test see to it by themselves.
    if (takesEngine && service.prebuild.length > 0) await assertNoShadowingBun(service, interrupted.signal);
    if (onHost) await execute(hostEngine(service, interrupted.signal));
    else await withDagger(service, interrupted.signal, execute);
    return 0;
  } catch (error) {
    current?.report.clearProgress();
    if (interrupted.signal.aborted) {
      const left = current?.interruptMessage ?? UNCHANGED;
      console.error(`\ninterrupted. ${left}`);
      await current?.report.publish(`**interrupted:** ${left}`, current.options.report);
      return exitCodes.interrupted;
    }
    printError(error, verbose, service);
    if (current && current.interruptMessage !== UNCHANGED && !isProjectError(error))
      console.error(current.interruptMessage);
    if (!(error instanceof PipelineError)) return exitCodes.project;
    if (error.kind === "usage") console.error(`\n${await usage()}`);
    await current?.report.publish(`**failed:** ${error.message}`, current.options.report);
    return exitCodes[error.kind];
  }
}

/** Of any directory, as much as a command needs that runs anywhere. */
function bareService(project: string): Service {
  return { project, root: project, name: "service", hosts: [] as string[] } as Service;
}
