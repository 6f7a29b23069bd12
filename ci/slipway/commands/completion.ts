/** Prints a script that completes commands and options in a shell. */
import type { Command } from "../cli/context.ts";
import { completionShells, writeCompletion } from "../cli/completion.ts";
import { commandGroups } from "../cli/main.ts";
import { parseChoice } from "../cli/options.ts";

export default {
  about: "Print the completion script of a shell: bash, zsh or fish",
  args: { form: "SHELL", min: 1, max: 1 },
  options: [],
  needs: "nothing",
  async execute({ options: { args } }) {
    const shell = parseChoice("shell", args[0]!, completionShells);
    const names = Object.values(commandGroups).flat();
    const commands = names.map(async (name) => {
      const { default: command } = (await import(`./${name}.ts`)) as { default: Command };
      return { name, about: command.about, options: command.options };
    });
    process.stdout.write(writeCompletion(shell, await Promise.all(commands)));
    return "";
  },
} satisfies Command;
