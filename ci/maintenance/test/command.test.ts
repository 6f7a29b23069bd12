/** The command lines of the maintenance commands: help texts and usage errors. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import packageJson from "../../../package.json";
import { root } from "../../slipway/test/helloapp-service.ts";

const options = {
  pins: ["remote", "verbose", "help"],
  reproduce: ["runs", "verbose", "help"],
  size: ["verbose", "help"],
};

async function run(name: string, ...args: string[]) {
  const command = [process.execPath, join(root, `ci/maintenance/${name}.ts`), ...args];
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr] = await Promise.all([child.stdout, child.stderr].map((stream) => new Response(stream).text()));
  return { code: await child.exited, stdout: stdout!, stderr: stderr! };
}

test.concurrent.each(Object.entries(options))("%s --help lists every option, exit 0", async (name, expected) => {
  for (const help of ["--help", "-h"]) {
    const { code, stdout, stderr } = await run(name, help);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(`usage: bun run ${name} `);
    expect([...stdout.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, option]) => option!)).toEqual(expected);
  }
  expect(packageJson.scripts).toMatchObject({ [name]: `bun ci/maintenance/${name}.ts` });
});

test.concurrent.each([
  [["size", "--frobnicate"], "--frobnicate"],
  [["size", "a", "b"], "size takes [FILE], not a b"],
  [["reproduce", "--frobnicate"], "--frobnicate"],
  [["reproduce", "--runs", "1"], "--runs"],
  [["reproduce", "--runs", "x"], "--runs"],
  [["reproduce", "x"], "reproduce takes no arguments, not x"],
  [["pins", "a", "b", "c", "d"], "pins takes [k3s"],
])("%p: exit 2, with an error that names the cause, and the usage", async ([name, ...args], part) => {
  const { code, stdout, stderr } = await run(name!, ...args);
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(/^error: .*$/m.exec(stderr)?.[0]).toContain(part);
  expect(stderr).toContain(`usage: bun run ${name}`);
});
