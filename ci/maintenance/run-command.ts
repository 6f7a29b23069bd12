/**
 * Runs the commands of this folder, which only the maintainers of this repository use. Error output, step summary and
 * exit codes are those of the slipway commands.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { assertSupportedBun } from "../slipway/cli/bun-version.ts";
import { UNCHANGED, type Command } from "../slipway/cli/context.ts";
import { printError } from "../slipway/cli/error-output.ts";
import { usageError } from "../slipway/cli/options.ts";
import { exitCodes, PipelineError } from "../slipway/core/errors.ts";
import { Report } from "../slipway/core/step-report.ts";
import { resolveService, type Service } from "../slipway/core/resolve-service.ts";

const root = join(import.meta.dir, "../..");

interface Option {
  /** Placeholder in the usage. Default: the option takes no value. */
  value?: string;
  about: string;
}

export interface MaintenanceCommand extends Pick<Command, "about" | "args"> {
  /** Name of the package.json script that runs the command. */
  name: string;
  options: Record<string, Option>;
  /** @returns the result as a sentence, or an empty string to print nothing */
  execute(context: MaintenanceContext): Promise<string>;
}

export interface MaintenanceContext {
  /** The service of this repository, with default settings. */
  service: Service;
  args: string[];
  options: Record<string, unknown>;
  signal: AbortSignal;
}

const commonOptions: Record<string, Option> = {
  verbose: { about: "Print stack traces and the full output of failed commands" },
  help: { about: "Print this help" },
};

/** Runs a command with the arguments of this process and exits with the command's exit code. */
export async function runCommand(command: MaintenanceCommand): Promise<never> {
  process.exit(await main(command, process.argv.slice(2)));
}

async function main(command: MaintenanceCommand, argv: string[]): Promise<number> {
  const interrupted = new AbortController();
  const report = new Report();
  let service: Service | undefined;
  try {
    const { args, options } = parse(command, argv);
    if (options.help) {
      console.log(usageOf(command));
      return 0;
    }
    assertSupportedBun(root);
    service = resolveService(root);
    const interrupt = () => interrupted.abort(new PipelineError("interrupted", "interrupted"));
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, interrupt);
    const conclusion = await command.execute({ service, args, options, signal: interrupted.signal });
    await report.publish(conclusion);
    if (conclusion) console.log(conclusion);
    return 0;
  } catch (error) {
    if (interrupted.signal.aborted) {
      console.error(`\ninterrupted. ${UNCHANGED}`);
      await report.publish(`**interrupted:** ${UNCHANGED}`);
      return exitCodes.interrupted;
    }
    printError(error, argv.includes("--verbose"), service);
    if (!(error instanceof PipelineError)) return exitCodes.project;
    if (error.kind === "usage") console.error(`\n${usageOf(command)}`);
    if (service) await report.publish(`**failed:** ${error.message}`);
    return exitCodes[error.kind];
  }
}

/** @throws {PipelineError} "usage" if an option is unknown or the number of arguments is wrong */
function parse(
  { name, args, options: own }: MaintenanceCommand,
  argv: string[],
): Pick<MaintenanceContext, "args" | "options"> {
  const definitions = Object.entries({ ...own, ...commonOptions }).map(([option, { value }]) => {
    const type = value === undefined ? ("boolean" as const) : ("string" as const);
    return [option, { type, ...(option === "help" && { short: "h" }) }];
  });
  let parsed: { values: Record<string, unknown>; positionals: string[] };
  try {
    parsed = parseArgs({ args: argv, allowPositionals: true, options: Object.fromEntries(definitions) });
  } catch (error) {
    throw usageError((error as Error).message);
  }
  const { values, positionals } = parsed;
  const { form = "no arguments", min = 0, max = 0 } = args ?? {};
  if (!values.help && (positionals.length < min || positionals.length > max))
    throw usageError(`${name} takes ${form}, not ${positionals.join(" ")}`);
  return { args: positionals, options: values };
}

function usageOf({ name, about, args, options }: MaintenanceCommand): string {
  const lines = Object.entries({ ...options, ...commonOptions }).map(
    ([option, { value, about }]) => `  ${`--${option}${value ? ` ${value}` : ""}`.padEnd(12)} ${about}`,
  );
  const form = ["bun run", name, ...(args ? [args.form] : []), "[options]"].join(" ");
  return [`usage: ${form}`, "", about, "", "options:", ...lines, ""].join("\n");
}
