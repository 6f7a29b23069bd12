/** Opens a program of the image's Bun on this terminal, in a pod of the version that serves. */
import { PipelineError } from "../core/errors.ts";
import type { DeployContext } from "../deploy/plan.ts";
import { hasTerminal, runInteractively } from "./interactive.ts";
import { withOneOffPod } from "./one-off-pod.ts";

/** Keeps the pod until the session is over. */
const IDLE = "setInterval(() => {}, 1e6)";
/** The binary of the pod's first process, whatever its name is. */
const BINARY = "/proc/1/exe";

/** @throws {PipelineError} "usage" if the standard streams are no terminal */
export function assertTerminal(command: string): void {
  if (hasTerminal()) return;
  const hint = "Use `run FILE` for a script.";
  throw new PipelineError("usage", `${command} needs a terminal for input and output`, { hint });
}

/** @param bunArgs arguments of Bun, such as `repl` @returns the program's exit code */
export function openTerminal(context: DeployContext, bunArgs: string[], deadlineSeconds: number): Promise<number> {
  const options = { args: ["-e", IDLE], hasInput: false, deadlineSeconds, connectsBy: "exec" as const };
  return withOneOffPod(context, options, ({ pod, container }) => {
    const command = ["exec", "-it", pod, `--container=${container}`, "--", BINARY, ...bunArgs];
    return runInteractively(context.target.api, command, context.signal);
  });
}

/**
 * The source of a shell: a line at a time, each by Bun's own shell in a process that Ctrl-C ends. Bun has no interactive shell.
 * https://bun.sh/docs/runtime/shell
 */
export const SHELL = `
const { createInterface } = require("node:readline");
const { constants } = require("node:os");
let child, code = 0, before = process.cwd();
const reader = createInterface({ input: process.stdin, output: process.stdout, historySize: 1000 });
const ask = () => (reader.setPrompt(process.cwd() + " $ "), reader.prompt());
process.on("SIGINT", () => {});
reader.on("SIGINT", () => (console.log("^C"), (reader.line = ""), (reader.cursor = 0), ask()));
reader.on("close", () => process.exit(code));
const unquote = (text) => text.trim().replace(/^(["'])(.*)\\1$/, "$2");
const queue = [];
let isRunning = false;
const drain = async () => {
  if (isRunning) return;
  isRunning = true;
  for (let line; (line = queue.shift()) !== undefined; ) code = await run(line.trim());
  isRunning = false;
  ask();
};
async function run(line) {
  if (line === "") return code;
  const [, exit] = /^exit(?: +(\\d+))?$/.exec(line) ? [0, line.split(/ +/)[1]] : [];
  if (/^exit( |$)/.test(line)) process.exit(Number(exit ?? code));
  const [, directory] = /^cd(?: +([^;&|]+))?$/.exec(line) ?? [];
  if (/^cd( +[^;&|]+)?$/.test(line)) {
    const to = directory === undefined ? (process.env.HOME ?? "/") : directory.trim() === "-" ? before : unquote(directory);
    try {
      const from = process.cwd();
      process.chdir(to);
      before = from;
      return 0;
    } catch (error) {
      console.error("cd: " + to + ": " + error.code);
      return 1;
    }
  }
  const [, name, value] = /^export +([A-Za-z_]\\w*)=([^;&|]*)$/.exec(line) ?? [];
  if (name) return (process.env[name] = unquote(value)), 0;
  reader.pause();
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  child = Bun.spawn([process.execPath, "exec", line], { env: process.env, stdio: ["inherit", "inherit", "inherit"] });
  const exited = await child.exited;
  if (process.stdin.isTTY) process.stdin.setRawMode(true);
  reader.resume();
  return child.signalCode ? 128 + constants.signals[child.signalCode] : exited;
}
reader.on("line", (line) => (queue.push(line), drain()));
ask();
`;
