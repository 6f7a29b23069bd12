/** Writes shell scripts that complete commands and options, from the table of commands. */
import type { Command } from "./context.ts";
import { commonOptions, optionDefinitions, type Option, type OptionName } from "./options.ts";

/** A command with its name. */
export type NamedCommand = Pick<Command, "about" | "options"> & { name: string };

export const completionShells = ["bash", "zsh", "fish"] as const;

/** @returns the script. It completes `slipway`, which is ci/pipeline.ts too: `alias slipway="bun ci/pipeline.ts"` */
export function writeCompletion(shell: (typeof completionShells)[number], commands: NamedCommand[]): string {
  return { bash: writeBash, zsh: writeZsh, fish: writeFish }[shell](commands);
}

const optionsOf = ({ options }: NamedCommand): OptionName[] => [...new Set([...options, ...commonOptions])];
const definitionOf = (name: OptionName): Option => optionDefinitions[name];
/** Choices of a value such as `k3s|registry|none`. Empty if it is free text. */
const choicesOf = ({ value = "" }: Option): string[] =>
  /^[a-z0-9]+(\|[a-z0-9]+)+$/.test(value) ? value.split("|") : [];
const isFile = ({ value }: Option) => value === "FILE" || value === "DIRECTORY";

function writeBash(commands: NamedCommand[]): string {
  const cases = commands.map(
    (command) =>
      `    ${command.name}) options="${optionsOf(command)
        .map((name) => `--${name}`)
        .join(" ")}" ;;`,
  );
  const values = (Object.keys(optionDefinitions) as OptionName[]).flatMap((name) => {
    const definition = definitionOf(name);
    if (definition.value === undefined) return [];
    const choices = choicesOf(definition);
    const reply = isFile(definition) ? '$(compgen -f -- "$word")' : `$(compgen -W "${choices.join(" ")}" -- "$word")`;
    return [`    --${name}) COMPREPLY=(${reply}); return ;;`];
  });
  const names = Object.keys(optionDefinitions) as OptionName[];
  const valued = names.filter((name) => definitionOf(name).value !== undefined).map((name) => `--${name}`);
  return `# bash completion of slipway: eval "$(slipway completion bash)"
_slipway() {
  local word="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" command="" options="" i
  case "$previous" in
${values.join("\n")}
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "\${COMP_WORDS[i]}" in
      ${valued.join("|")}) ((i++)) ;;
      -*) ;;
      *) command="\${COMP_WORDS[i]}"; break ;;
    esac
  done
  case "$command" in
    "") COMPREPLY=($(compgen -W "${commands.map(({ name }) => name).join(" ")} help" -- "$word")); return ;;
${cases.join("\n")}
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}
complete -F _slipway slipway
`;
}

function writeZsh(commands: NamedCommand[]): string {
  // Colons and brackets separate the parts of a specification.
  const escape = (text: string) => text.replaceAll("'", "'\\''").replaceAll(/[:[\]]/g, "\\$&");
  const specOf = (name: OptionName) => {
    const definition = definitionOf(name);
    const choices = choicesOf(definition);
    const action = isFile(definition) ? "_files" : choices.length > 0 ? `(${choices.join(" ")})` : " ";
    const value = definition.value === undefined ? "" : `:${escape(definition.value)}:${action}`;
    return `'${definition.multiple ? "*" : ""}--${name}[${escape(definition.about)}]${value}'`;
  };
  const cases = commands.map(
    (command) => `    ${command.name}) _arguments ${optionsOf(command).map(specOf).join(" ")} '*:file:_files' ;;`,
  );
  return `#compdef slipway
# zsh completion of slipway: source <(slipway completion zsh)
_slipway() {
  local -a commands
  commands=(
${commands.map(({ name, about }) => `    '${name}:${escape(about)}'`).join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command="${"$"}{words[2]}"
  shift words
  (( CURRENT-- ))
  case "$command" in
${cases.join("\n")}
  esac
}
compdef _slipway slipway
`;
}

function writeFish(commands: NamedCommand[]): string {
  const quote = (text: string) => `'${text.replaceAll(/['\\]/g, "\\$&")}'`;
  const lines = commands.flatMap((command) => [
    `complete -c slipway -n __fish_use_subcommand -f -a ${command.name} -d ${quote(command.about)}`,
    ...optionsOf(command).map((name) => {
      const definition = definitionOf(name);
      const choices = choicesOf(definition);
      const short = definition.short ? ` -s ${definition.short}` : "";
      const value =
        definition.value === undefined
          ? ""
          : isFile(definition)
            ? " -r -F"
            : ` -x${choices.length > 0 ? ` -a ${quote(choices.join(" "))}` : ""}`;
      const when = quote(`__fish_seen_subcommand_from ${command.name}`);
      return `complete -c slipway -n ${when} -l ${name}${short}${value} -d ${quote(definition.about)}`;
    }),
  ]);
  return `# fish completion of slipway: slipway completion fish | source\n${lines.join("\n")}\n`;
}
