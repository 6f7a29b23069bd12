/** Programs that will not end: what they have started, what they leave open, and who interrupts. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runProcess } from "../core/process.ts";

// Nothing here takes seconds by itself; what is waited for in vain sleeps for longer than this.
setDefaultTimeout(60_000);

const directory = mkdtempSync(join(tmpdir(), "helloapp-process-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** A process that has ended may stand in the table until its parent asks. proc_pid_stat(5) */
function isAlive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await Bun.sleep(20);
}

const pidIn = (file: string) => Number(readFileSync(join(directory, file), "utf8"));
/** What a shell's child does: it keeps the shell's output open. */
const child = (file: string) => `sleep 1000 & echo $! > ${directory}/${file}; echo said; wait`;

describe("a program that will not end", () => {
  test("is ended with its children, and what it has said is kept", async () => {
    // Long enough for a shell to start on a busy machine.
    const result = await runProcess(["sh", "-c", child("child")], { timeoutSeconds: 3 });
    expect(result).toEqual({ code: 124, stdout: "said\n", stderr: "no answer within 3 s\n" });
    await until(() => !isAlive(pidIn("child")));
  });

  test("is not waited for by way of what has left its session", async () => {
    const { code } = await runProcess(["setsid", "--fork", "sh", "-c", child("apart")], {
      timeoutSeconds: 3,
    });
    expect(code).toBe(124);
    process.kill(pidIn("apart"), "SIGKILL");
  });

  test("is ended with its children by an interruption", async () => {
    const interrupted = new AbortController();
    const running = runProcess(["sh", "-c", child("interrupted")], { signal: interrupted.signal });
    const ended = running.then(
      () => "ended",
      (error: Error) => error.message,
    );
    await until(() => existsSync(join(directory, "interrupted")) && pidIn("interrupted") > 0);
    interrupted.abort(new Error("stop"));
    expect(await ended).toBe("stop");
    await until(() => !isAlive(pidIn("interrupted")));
  });

  test("that does not listen is killed when it was interrupted", async () => {
    const interrupted = new AbortController();
    const script = `trap "" TERM; echo $$ > ${directory}/deaf; while :; do sleep 0.1; done`;
    const running = runProcess(["sh", "-c", script], { signal: interrupted.signal });
    const ended = running.catch((error: Error) => error.message);
    await until(() => existsSync(join(directory, "deaf")) && pidIn("deaf") > 0);
    interrupted.abort(new Error("stop"));
    expect(await ended).toBe("stop");
    await until(() => !isAlive(pidIn("deaf")));
  });
});

test("a program that runs ends with the pipeline, whatever ends that", async () => {
  const module = join(import.meta.dir, "../core/process.ts");
  const script = `import { runProcess } from ${JSON.stringify(module)};
void runProcess(["sh", "-c", ${JSON.stringify(child("orphan"))}]);
await Bun.sleep(1);
while (!(await Bun.file("${directory}/orphan").exists()) || !Number(await Bun.file("${directory}/orphan").text())) await Bun.sleep(20);
process.exit(7);`;
  const { exitCode } = Bun.spawnSync([process.execPath, "-e", script]);
  expect(exitCode).toBe(7);
  await until(() => !isAlive(pidIn("orphan")));
});
