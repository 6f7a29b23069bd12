/** Completion scripts, as the shells read them. */
import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "../cli/context.ts";
import { completionShells, writeCompletion } from "../cli/completion.ts";

const names = readdirSync(join(import.meta.dir, "../commands")).map((file) => file.replace(/\.ts$/, ""));
const commands = await Promise.all(
  names.map(async (name) => {
    const { default: command } = (await import(`../commands/${name}.ts`)) as { default: Command };
    return { name, about: command.about, options: command.options };
  }),
);
const run = (command: string[], input: string) => {
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { stdin: Buffer.from(input) });
  return { code: exitCode, stdout: stdout.toString().trim(), stderr: stderr.toString() };
};

test.each(completionShells)("%s knows every command and its options", (shell) => {
  const script = writeCompletion(shell, commands);
  for (const name of names) expect(script).toContain(name);
  expect(script).toContain(shell === "fish" ? "-l volumes" : "--volumes");
});

describe("bash", () => {
  const script = writeCompletion("bash", commands);
  test.each([
    [["slipway", "des"], "destroy"],
    [["slipway", "destroy", "--vo"], "--volumes"],
    [["slipway", "--host", "x", "rest"], "restart"],
    [["slipway", "deploy", "--target", ""], "k3s registry none"],
    [["slipway", "destroy", "--json"], ""],
  ])("completes %p", (words, expected) => {
    const set = `COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}`;
    const { stdout, stderr } = run(["bash"], `${script}\n${set}\n_slipway\necho "\${COMPREPLY[*]}"`);
    expect({ stdout, stderr }).toEqual({ stdout: expected, stderr: "" });
  });
});

test.skipIf(!Bun.which("fish"))("fish completes a command, an option and a value", () => {
  const script = writeCompletion("fish", commands);
  const complete = (line: string) =>
    run(["fish", "--no-config"], `${script}\ncomplete -C ${JSON.stringify(line)}`).stdout.replace(/\t.*/g, "");
  expect(complete("slipway des")).toBe("destroy");
  expect(complete("slipway destroy --vo")).toBe("--volumes");
  expect(complete("slipway deploy --target k")).toBe("k3s");
});

test.skipIf(!Bun.which("zsh"))("zsh parses the script", () => {
  expect(run(["zsh", "-n"], writeCompletion("zsh", commands))).toMatchObject({ code: 0, stderr: "" });
});
