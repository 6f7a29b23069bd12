/** Services that start themselves, because the binary is the executable that they mean to be Bun. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { buildImage } from "../image/build-image-files.ts";
import { findSelfStarts } from "../image/find-self-spawns.ts";

/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;
const work = mkdtempSync(join(tmpdir(), "self-start-"));
afterAll(() => rmSync(work, { recursive: true }));

/** Every process appends a line to LOG, so that the test can count them. It stops by itself if there are too many. */
const main = `import { appendFileSync, readFileSync } from "node:fs";
import { fork, spawn, spawnSync } from "node:child_process";
import cluster from "node:cluster";
import { $ } from "bun";
appendFileSync(process.env.LOG!, "start\\n");
if (readFileSync(process.env.LOG!, "utf8").length > 30) process.exit(99);
const exit = (child: any) => new Promise((resolve) => child.on("exit", resolve));
const cases: Record<string, () => unknown> = {
  fork: () => exit(fork("./src/job.mjs")),
  shell: async () => (await $\`bun run migrate\`.nothrow()).exitCode,
  spawn: () => Bun.spawn([process.execPath, "job.ts"], { env: process.env, stdio: ["ignore", "inherit", "inherit"] }).exited,
  bare: () => spawnSync(process.execPath, [], { stdio: "inherit" }).status,
  between: async () => (await $\`sh -c "exec $0 run x" \${process.execPath}\`.nothrow()).exitCode,
  // A shell stays between the two processes.
  wrapped: async () => (await $\`sh -c '"$0" run x; exit $?' \${process.execPath}\`.nothrow()).exitCode,
  entry: () => spawnSync(process.execPath, ["job"], { stdio: "inherit" }).status,
  itself: () => process.argv[2] === "--child" ? process.exit(7) : exit(fork(process.argv[1]!, ["--child"])),
  "by-path": () => process.argv[2] === "--child" ? process.exit(7) : exit(fork("/srv/src/main.ts", ["--child"])),
  cluster: () => (cluster.isPrimary ? exit(cluster.fork()) : process.exit(6)),
};
console.log("exit", await cases[process.env.CASE!]!());
process.exit(0);
`;

let binary: Promise<string> | undefined;
async function build(): Promise<string> {
  return (binary ??= (async () => {
    mkdirSync(join(work, "src"));
    writeFileSync(join(work, "package.json"), JSON.stringify({ name: "plain" }));
    writeFileSync(join(work, "src/main.ts"), main);
    writeFileSync(join(work, "src/job.ts"), `console.log("job"); process.exit(5);`);
    const { warnings } = await buildImage(resolveService(work, { entries: { job: "src/job.ts" } }), join(work, "dist"));
    expect(warnings.filter((line) => line.includes("src/main.ts:") && line.includes("starts Bun"))).not.toBeEmpty();
    return join(work, "dist/app/plain");
  })());
}

/** Runs a case. @returns the exit code that the parent saw, the number of processes and the error output */
async function run(name: string, prefix: string[] = []) {
  const LOG = join(work, `${name}.log`);
  writeFileSync(LOG, "");
  // As in the image, there is no Bun on the path.
  const env = { PATH: "/usr/bin:/bin", LOG, CASE: name };
  const child = Bun.spawn([...prefix, await build()], { env, stdout: "pipe", stderr: "pipe", timeout: 20_000 });
  const [output, error] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { code: /exit (\d+)/.exec(output)?.[1], starts: (await Bun.file(LOG).text()).split("\n").length - 1, error };
}

test.each(["fork", "shell", "spawn", "bare", "between"])(
  "%s: the second process stops with a sentence",
  async (name) => {
    const { code, starts, error } = await run(name);
    expect(error).toContain("has started itself");
    expect({ code, starts }).toEqual({ code: "1", starts: 1 });
  },
  LONG,
);

// Like in the image, the service is process 1. Elsewhere, only the parent is compared, to start fast.
const namespace = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
const hasNamespaces = Bun.which("unshare") !== null && Bun.spawnSync([...namespace, "true"]).exitCode === 0;
test.skipIf(!hasNamespaces)(
  "a process with others in between stops with a sentence",
  async () => {
    const { code, starts, error } = await run("wrapped", namespace);
    expect(error).toContain("has started itself");
    expect({ code, starts }).toEqual({ code: "1", starts: 1 });
  },
  LONG,
);

test.each([
  ["entry", "5", 1],
  ["itself", "7", 2],
  ["by-path", "7", 2],
  ["cluster", "6", 2],
])(
  "%s: a start that the service means is possible",
  async (name, code, starts) => {
    expect(await run(name)).toEqual({ code, starts, error: "" });
  },
  LONG,
);

describe("the build", () => {
  const find = (text: string) => findSelfStarts(new Map([["/p/src/a.ts", Buffer.from(text)]]), "/p");

  test.each([
    "await $`bun run migrate`;",
    'Bun.spawn(["bun", "job.ts"])',
    'execSync("bun run x")',
    "spawn(process.execPath, [job])",
    'fork("./src/job.mjs")',
    'child_process.fork("./x")',
  ])("warns of %s", (code) => {
    expect(find(`\n${code}\n`)).toEqual([expect.stringMatching(/^src\/a\.ts:2 starts Bun.*: .*\S/)]);
  });

  test.each([
    "cluster.fork()",
    "// fork('./x')",
    "function fork(a: string) {",
    "$`ls bun`",
    'spawn("sh")',
    "repository.fork(1)",
  ])("does not warn of %s", (code) => {
    expect(find(code)).toEqual([]);
  });
});
