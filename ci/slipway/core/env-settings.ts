/** Checks the settings `env` and `secrets`, and the values of variables. */
import type { Settings } from "../index.d.ts";
import { PipelineError } from "./errors.ts";

/** A variable whose value is in the cluster's Secret. */
export interface SecretSetting {
  name: string;
  /** Command on this machine whose output is the value. Default: `slipway secrets set` stores it. */
  command?: string[];
}

/** Longest name: it is part of a field manager's name, which has 128 characters at most. */
const VARIABLE = /^(?!__proto__$)[A-Za-z_][A-Za-z0-9_]{0,99}$/;
/** Linux passes at most 128 KiB for `NAME=value` and a zero byte. execve(2), MAX_ARG_STRLEN. */
const MAX_VARIABLE_BYTES = 131_072;

/** Whether a name can be a variable. */
export function isVariableName(name: string): boolean {
  return VARIABLE.test(name);
}

/** Returns the defect of a value that cannot be a variable. The text does not contain the value. */
export function findValueDefect(name: string, value: Uint8Array): string | undefined {
  if (value.length === 0) return "is empty";
  if (value.includes(0)) return "contains a zero byte, which no environment variable can hold";
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(value);
  } catch {
    return "is not valid UTF-8. Encode binary data as base64";
  }
  if (name.length + value.length + 2 > MAX_VARIABLE_BYTES)
    return `has ${value.length} bytes, and Linux allows ${MAX_VARIABLE_BYTES - name.length - 2} for this variable`;
  return undefined;
}

/** @throws {PipelineError} "project" if a setting is invalid */
export function resolveEnvSettings({ env = {}, secrets = [] }: Settings): {
  env: Record<string, string>;
  secrets: SecretSetting[];
} {
  const found = [secrets].flat().flatMap((entry: unknown): SecretSetting[] => {
    if (typeof entry === "string") return [{ name: entry }];
    if (typeof entry !== "object" || entry === null) throw invalid("`secrets`: expected names and { NAME: command }");
    return Object.entries(entry).map(([name, command]: [string, unknown]) => {
      const isCommand = Array.isArray(command) && command.length > 0 && command.every((word) => isText(word));
      if (!isCommand) throw invalid(`the command of the secret ${name} is not a list of words`);
      return { name, command };
    });
  });
  for (const [name, value] of Object.entries(env) as [string, unknown][]) {
    if (typeof value !== "string") throw invalid(`\`env\`: the value of ${name} is not a string`);
    const defect = value === "" ? undefined : findValueDefect(name, Buffer.from(value));
    if (defect) throw invalid(`\`env\`: the value of ${name} ${defect}`);
  }
  const names = [...Object.keys(env), ...found.map(({ name }) => name)];
  for (const [index, name] of names.entries()) {
    if (!isVariableName(name)) throw invalid(`"${name}" is not a name of an environment variable`);
    if (names.indexOf(name) !== index) throw invalid(`the variable ${name} is set twice in \`env\` and \`secrets\``);
  }
  return { env, secrets: found };
}

const isText = (word: unknown) => typeof word === "string" && word !== "" && !word.includes("\0");

function invalid(message: string): PipelineError {
  return new PipelineError("project", message, {
    code: "setting-invalid",
    hint: "A name has letters, digits and _, at most 100. Correct `env` or `secrets` in ci/pipeline.ts.",
  });
}
