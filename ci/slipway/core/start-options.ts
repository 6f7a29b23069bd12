/**
 * Reads the options of Bun that the service has from source: those of the script `start`, and of bunfig.toml.
 *
 * The image has neither. An option that it cannot have is an error, because the service would behave differently.
 *
 * @see https://bun.sh/docs/runtime and https://bun.sh/docs/runtime/bunfig
 */
import { existsSync, readFileSync } from "node:fs";
import { join, normalize } from "node:path";
import { PipelineError } from "./errors.ts";
import { readPackage, type Service } from "./resolve-service.ts";

export interface StartOptions {
  /** Modules to load before every entry, then those before the main module alone: absolute paths. */
  preloads: { all: string[]; main: string[] };
  /** Options of the bundler. */
  define: Record<string, string>;
  conditions: string[];
  drop: string[];
  loader: Record<string, Bun.Loader>;
  /** Options of Bun at run time. */
  execArgv: string[];
  /** What the image leaves out, and the remedy. */
  warnings: string[];
}

type Kind = "preload" | "define" | "conditions" | "drop" | "loader" | "run time" | "environment" | "development";

/** Options by kind. Those with `=` take a value. */
const kinds: Record<string, Kind> = {
  ...kindOf("preload", "--preload= -r= --require= --import="),
  ...kindOf("define", "--define= -d="),
  ...kindOf("conditions", "--conditions="),
  ...kindOf("drop", "--drop="),
  ...kindOf("loader", "--loader= -l="),
  ...kindOf("environment", "--env-file= --no-env-file"),
  ...kindOf(
    "run time",
    "--smol --expose-gc --title= --max-http-header-size= --dns-result-order= --unhandled-rejections= --console-depth=",
  ),
  ...kindOf(
    "run time",
    "--no-deprecation --throw-deprecation --zero-fill-buffers --fetch-preconnect= --sql-preconnect --redis-preconnect",
  ),
  ...kindOf("run time", "--use-system-ca --use-openssl-ca --use-bundled-ca --no-addons --stack-trace-limit="),
  ...kindOf("development", "--watch --hot --no-clear-screen --inspect --inspect-wait --inspect-brk --bun -b --silent"),
  ...kindOf("development", "--install= -i --no-install --prefer-offline --prefer-latest --if-present --elide-lines="),
  ...kindOf("development", "--port= --config= -c= --no-orphans --cpu-prof --heap-prof"),
};

function kindOf(kind: Kind, names: string): Record<string, Kind> {
  return Object.fromEntries(names.split(" ").map((name) => [name, kind]));
}

/** Variables that the build sets itself. */
const builtIn = new Set(["NODE_ENV"]);

/** @throws {PipelineError} "project" if an option of the script cannot be taken over, or a preload is not found */
export function readStartOptions(service: Pick<Service, "project" | "entry">): StartOptions {
  const { project } = service;
  const found: StartOptions = {
    preloads: { all: [], main: [] },
    ...{ define: {}, conditions: [], drop: [], loader: {}, execArgv: [], warnings: [] },
  };
  readBunfig(project, found);
  const command = findStartCommand(service);
  if (!command) return found;
  for (const name of command.variables.filter((name) => !builtIn.has(name))) {
    found.warnings.push(`the script start sets ${name}, and the image does not: set it in the manifests`);
  }
  for (const { option, value } of command.options) addOption(found, option, value, { project, isBun: command.isBun });
  return found;
}

function readBunfig(project: string, found: StartOptions): void {
  const file = join(project, "bunfig.toml");
  if (!existsSync(file)) return;
  let settings: { preload?: string | string[]; define?: object; smol?: boolean; loader?: object };
  try {
    settings = Bun.TOML.parse(readFileSync(file, "utf8")) as typeof settings;
  } catch {
    // Bun itself reports it.
    return;
  }
  const { preload = [], define, smol, loader } = settings;
  found.preloads.all.push(...[preload].flat().map((name) => resolvePreload(name, project, "bunfig.toml's preload")));
  Object.assign(found.define, define);
  Object.assign(found.loader, loader);
  if (smol) found.execArgv.push("--smol");
}

interface StartCommand {
  isBun: boolean;
  variables: string[];
  options: { option: string; value: string }[];
}

/** Finds the command of the script `start` that runs the entry. */
function findStartCommand({ project, entry }: Pick<Service, "project" | "entry">): StartCommand | undefined {
  const script = readPackage(project).scripts?.start ?? "";
  for (const words of splitCommands(script)) {
    const at = words.findIndex((word) => !/^[A-Za-z_]\w*=/.test(word) && !/^(?:exec|env|cross-env|dotenv)$/.test(word));
    const runner = /(?:^|\/)(bun|node|tsx|ts-node)$/.exec(words[at] ?? "")?.[1];
    if (!runner) continue;
    const isBun = runner === "bun";
    const options: StartCommand["options"] = [];
    const rest = words.slice(at + 1);
    for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
      if (normalize(word) === normalize(entry)) {
        const variables = words.slice(0, at).flatMap((text) => /^([A-Za-z_]\w*)=/.exec(text)?.[1] ?? []);
        return { isBun, variables, options };
      }
      if (!word.startsWith("-")) {
        if (word === "run" && options.length === 0) continue;
        break;
      }
      const [option = "", ...value] = word.split("=");
      const takesValue = `${option}=` in kinds;
      options.push({ option, value: value.length > 0 ? value.join("=") : takesValue ? (rest.shift() ?? "") : "" });
    }
  }
  return undefined;
}

/** Splits a script into commands, and each into words without quotes. */
function splitCommands(script: string): string[][] {
  const commands: string[][] = [[]];
  for (const [text, separator] of script.matchAll(/(&&|\|\||[;&|])|(?:[^\s"';&|]|"(?:\\.|[^"\\])*"|'[^']*')+/g)) {
    if (separator) commands.push([]);
    else
      commands
        .at(-1)!
        .push(
          text.replace(/"((?:\\.|[^"\\])*)"|'([^']*)'/g, (_, double?: string, single?: string) =>
            double === undefined ? (single ?? "") : double.replace(/\\(["\\$`])/g, "$1"),
          ),
        );
  }
  return commands;
}

function addOption(
  found: StartOptions,
  option: string,
  value: string,
  { project, isBun }: { project: string; isBun: boolean },
): void {
  switch (kinds[`${option}=`] ?? kinds[option]) {
    case "preload":
      found.preloads.main.push(resolvePreload(value, project, `the option ${option} of the script start`));
      return;
    case "define": {
      const [, name = "", code = ""] = /^([^:=]+)[:=](.*)$/s.exec(value) ?? [];
      found.define[name] = code;
      return;
    }
    case "conditions":
      found.conditions.push(...value.split(","));
      return;
    case "drop":
      found.drop.push(value);
      return;
    case "loader": {
      const [extension = "", loader = ""] = value.split(":");
      found.loader[extension] = loader as Bun.Loader;
      return;
    }
    case "environment":
      if (value !== "")
        found.warnings.push(
          `the script start reads ${value}, and the image reads no such file: set its variables in the manifests`,
        );
      return;
    case "run time":
      if (isBun) found.execArgv.push(value === "" ? option : `${option}=${value}`);
      return;
    case "development":
      return;
    default:
      // Options of Node have no meaning for Bun.
      if (!isBun) return;
      throw new PipelineError("project", `the script start has the option ${option}, which the image cannot have`, {
        code: "setting-invalid",
        hint: "Remove the option from the script, or start another file there and name yours as `entry` in ci/pipeline.ts.",
      });
  }
}

function resolvePreload(name: string, project: string, place: string): string {
  try {
    return Bun.resolveSync(existsSync(join(project, name)) ? join(project, name) : name, project);
  } catch {
    throw new PipelineError("project", `${place} names ${name}, which was not found`, { code: "setting-invalid" });
  }
}
