/** Tests timeouts and interruptions of programs, including their children and open outputs. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runProcess } from "../core/process.ts";

// The tests take less than a second on an idle machine. Programs that must be killed sleep longer than this.
setDefaultTimeout(60_000);

const directory = mkdtempSync(join(tmpdir(), "helloapp-process-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** Ignores zombies, which stay in the process table until the parent waits for them. proc_pid_stat(5) */
function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await Bun.sleep(20);
}

const pidIn = (file: string) => Number(readFileSync(join(directory, file), "utf8"));
/** Returns a shell script whose child keeps the output open and whose pid is written to a file. */
const scriptWithChild = (file: string) => `sleep 1000 & echo $! > ${directory}/${file}; echo output; wait`;

describe("a program that does not exit", () => {
  test("is killed with its children after the timeout, and its output is returned", async () => {
    // Enough time for a shell to start on a busy machine.
    const result = await runProcess(["sh", "-c", scriptWithChild("child")], { timeoutSeconds: 3 });
    expect(result).toEqual({ code: 124, stdout: "output\n", stderr: "timed out after 3 s\n" });
    await until(() => !isAlive(pidIn("child")));
  });

  test("is not awaited because of a child that left its session", async () => {
    const { code } = await runProcess(["setsid", "--fork", "sh", "-c", scriptWithChild("detached")], {
      timeoutSeconds: 3,
    });
    expect(code).toBe(124);
    process.kill(pidIn("detached"), "SIGKILL");
  });

  test("is stopped with its children by an interruption", async () => {
    const interrupted = new AbortController();
    const running = runProcess(["sh", "-c", scriptWithChild("interrupted")], { signal: interrupted.signal });
    const ended = running.then(
      () => "ended",
      (error: Error) => error.message,
    );
    await until(() => existsSync(join(directory, "interrupted")) && pidIn("interrupted") > 0);
    interrupted.abort(new Error("stop"));
    expect(await ended).toBe("stop");
    await until(() => !isAlive(pidIn("interrupted")));
  });

  test("is killed after an interruption if it ignores SIGTERM", async () => {
    const interrupted = new AbortController();
    const script = `trap "" TERM; echo $$ > ${directory}/ignoring; while :; do sleep 0.1; done`;
    const running = runProcess(["sh", "-c", script], { signal: interrupted.signal });
    const ended = running.catch((error: Error) => error.message);
    await until(() => existsSync(join(directory, "ignoring")) && pidIn("ignoring") > 0);
    interrupted.abort(new Error("stop"));
    expect(await ended).toBe("stop");
    await until(() => !isAlive(pidIn("ignoring")));
  });
});

test("a running program is killed when the pipeline exits", async () => {
  const module = join(import.meta.dir, "../core/process.ts");
  const script = `import { runProcess } from ${JSON.stringify(module)};
void runProcess(["sh", "-c", ${JSON.stringify(scriptWithChild("orphan"))}]);
await Bun.sleep(1);
while (!(await Bun.file("${directory}/orphan").exists()) || !Number(await Bun.file("${directory}/orphan").text())) await Bun.sleep(20);
process.exit(7);`;
  const { exitCode } = Bun.spawnSync([process.execPath, "-e", script]);
  expect(exitCode).toBe(7);
  await until(() => !isAlive(pidIn("orphan")));
});
