/** The command `secrets` as a process: invalid input ends before the connection, and no message shows a value. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { root } from "./helloapp-service.ts";

const value = "hunter2-Zr9";
/** Part of the message about the missing kubeconfig, and of the one about missing k3s. */
const NO_CLUSTER = " not found";

/** Runs `secrets`. A cluster that does not exist ends each command that gets past its input. */
function secrets(args: string[], input: string | Uint8Array = "") {
  const command = [process.execPath, "ci/pipeline.ts", "secrets", ...args, "--kubeconfig", "/nonexistent"];
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, { cwd: root, stdin: Buffer.from(input) });
  return { code: exitCode, output: `${stdout}${stderr}` };
}

test.each<[string, string[], string | Uint8Array, number, string]>([
  ["no action", [], "", 2, "secrets expects set NAME | import [FILE|-] | list | unset NAME…"],
  ["an unknown action", ["sett", "A"], value, 2, 'unknown action "sett": did you mean "set"?'],
  ["a value as the action", [`A=${value}`], "", 2, "secrets expects set NAME"],
  ["a value as a second argument", ["set", "A", value], "", 2, "Pipe the value"],
  ["NAME=value", ["set", `A=${value}`], "", 2, "Run `secrets set A`"],
  ["a value in place of the name", ["set", value], "", 2, "argument 1 of `secrets` is not a name"],
  ["no name", ["set"], value, 2, "got 0 arguments"],
  ["no name to remove", ["unset"], "", 2, "got 0 arguments"],
  ["a bad name to remove", ["unset", "A", value], "", 2, "argument 2 of `secrets` is not a name"],
  ["two files", ["import", "a", "b"], "", 2, "got 2 arguments"],
  ["an argument of list", ["list", value], "", 2, "got 1 arguments"],
  ["no terminal and no input", ["set", "A"], "", 1, "the value of A is empty. Nothing was changed"],
  ["binary input", ["set", "A"], new Uint8Array([0xff, 0xfe]), 1, "not valid UTF-8"],
  ["3 MiB of input", ["set", "A"], "x".repeat(3_000_000), 1, "more than 2 MiB"],
  ["a file that does not exist", ["import", "/nonexistent.env"], "", 1, "cannot read /nonexistent.env (ENOENT)"],
  ["a bad line", ["import", "-"], `A=1\n${value}\n`, 1, "standard input line 2 is not of the form NAME=value"],
  ["no cluster", ["set", "A"], value, 3, NO_CLUSTER],
  ["no cluster, with a .env file", ["import", "-"], `A=${value}\n`, 3, NO_CLUSTER],
])("%s", (_, args, input, code, text) => {
  const result = secrets(args, input);
  expect(result.output).toContain(text);
  expect(result.code, result.output).toBe(code);
  expect(result.output).not.toContain(value);
});

test("an interruption while the command waits for its input: exit 130", async () => {
  const child = Bun.spawn([process.execPath, "ci/pipeline.ts", "secrets", "set", "A"], {
    cwd: root,
    stdio: ["pipe", "pipe", "pipe"],
  });
  // SIGINT is signal 2, and has a handler once the command runs. proc_pid_status(5), SigCgt.
  const isHandled = () => /SigCgt:\s+\w*[2367abef]\n/.test(readFileSync(`/proc/${child.pid}/status`, "utf8"));
  while (!isHandled()) await Bun.sleep(50);
  await Bun.sleep(300);
  child.kill("SIGINT");
  expect(await child.exited).toBe(130);
  expect(await new Response(child.stderr).text()).toContain("interrupted. Nothing was changed.");
});

test.if(Bun.which("script") !== null)("a terminal: nothing typed is shown, and Ctrl-C ends with 130", async () => {
  const command = `${process.execPath} ci/pipeline.ts secrets set A --kubeconfig /nonexistent`;
  const type = async (keys: string) => {
    const terminal = Bun.spawn(["script", "-qefc", command, "/dev/null"], {
      cwd: root,
      stdio: ["pipe", "pipe", "pipe"],
    });
    let shown = "";
    for await (const chunk of terminal.stdout) {
      const isAsked = shown.includes("Value of A (not shown): ");
      shown += new TextDecoder().decode(chunk);
      if (isAsked || !shown.includes("Value of A (not shown): ")) continue;
      terminal.stdin.write(keys);
      await terminal.stdin.flush();
    }
    return { code: await terminal.exited, shown };
  };
  const typed = await type(`${value}x\u007F\r`);
  expect(typed.shown).toContain(NO_CLUSTER);
  expect(typed.shown).not.toContain("hunter2");
  expect(typed.code).toBe(3);
  expect((await type("hunter2\u0003")).code).toBe(130);
  const empty = await type("hunter2\u0015\r");
  expect(empty.shown).toContain("the value of A is empty");
  expect(empty.code).toBe(1);
});
