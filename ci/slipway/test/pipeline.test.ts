/** The command line, and what every command stands on: exit codes, programs that are run, the report. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { getPriority, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { exitCodes, explainDiskError, PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";
import { criticalPath, Report, type Step } from "../core/report.ts";
import { readOptions, type OptionValues } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { root, service } from "./helloapp-fixture.ts";

// Programs are started, on a machine that may be busy with other things.
setDefaultTimeout(60_000);

describe("options", () => {
  const read = (values: OptionValues, env: Record<string, string> = {}, args: string[] = []) =>
    readOptions(values, args, service, env);

  test("nothing means: k3s, on the host, with what is there", () => {
    expect(read({})).toMatchObject({
      args: [],
      engine: "host",
      target: "k3s",
      output: resolve("helloapp.tar"),
      wantsArchive: false,
      architectures: undefined,
      compression: undefined,
      hosts: [],
      tags: [],
      id: false,
      verbose: false,
    });
    expect(readOptions({}, [], { name: "clock", hosts: [] }, {}).output).toBe(resolve("clock.tar"));
  });

  test("`dagger run` selects its engine, --engine overrides it", () => {
    const env = { DAGGER_SESSION_PORT: "1", DAGGER_SESSION_TOKEN: "x" };
    expect(read({}, env).engine).toBe("dagger");
    expect(read({ engine: "host" }, env).engine).toBe("host");
    expect(read({ engine: "dagger" }).engine).toBe("dagger");
  });

  test("a registry and a cluster are named, never guessed", () => {
    const registry = "127.0.0.1:5001/team/helloapp";
    const given = { target: "registry", registry, context: "prod" } as const;
    expect(read(given)).toMatchObject(given);
    expect(read({ registry })).toMatchObject({ registry, context: undefined });
  });

  test("words after the command stay as they are", () => {
    expect(read({}, {}, ["x/y.tar", "b.tar"]).args).toEqual(["x/y.tar", "b.tar"]);
  });

  test("each is taken over", () => {
    const given = {
      output: "x/y.tar",
      report: "r.json",
      tag: ["latest", "v1.0"],
      platform: "linux/arm64,linux/amd64,linux/arm64",
      compress: "fast",
      target: "none",
      url: "https://x.example",
      kubeconfig: "k",
      sysroot: "/r",
      verbose: true,
      id: true,
      check: true,
      with: "ingress,egress",
    };
    expect(read(given)).toEqual({
      args: [],
      engine: "host",
      target: "none",
      hosts: [],
      output: resolve("x/y.tar"),
      wantsArchive: true,
      report: resolve("r.json"),
      tags: ["latest", "v1.0"],
      architectures: ["arm64", "amd64"],
      compression: "fast",
      registry: undefined,
      url: "https://x.example",
      kubeconfig: "k",
      context: undefined,
      sysroot: "/r",
      id: true,
      check: true,
      with: ["ingress", "egress"],
      verbose: true,
    });
  });
});

describe("command line", () => {
  // No program is found, so that whatever goes wrong here comes to no cluster.
  const env = { ...process.env, PATH: "", DAGGER_SESSION_PORT: undefined, GITHUB_STEP_SUMMARY: undefined };
  async function slipway(args: string[]) {
    const command = [process.execPath, join(root, "ci/pipeline.ts"), ...args];
    const child = Bun.spawn(command, { cwd: tmpdir(), env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr] = await Promise.all(
      [child.stdout, child.stderr].map((stream) => new Response(stream).text()),
    );
    return { code: await child.exited, stdout: stdout!, stderr: stderr! };
  }
  const commands = readdirSync(join(import.meta.dir, "../commands")).map((file) => file.replace(/\.ts$/, ""));

  test("--help names every command in a line, and the exit codes", async () => {
    const { code, stdout, stderr } = await slipway(["--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain("usage: bun ci/pipeline.ts [command] [options]");
    for (const command of commands) expect(stdout).toMatch(new RegExp(`^  ${command}\\b.{3,}`, "m"));
    for (const exit of Object.values(exitCodes)) expect(stdout).toMatch(new RegExp(`\\b${exit} `));
  });

  test.concurrent.each(commands)(
    "%s --help: its words and each of its options in a line, exit 0",
    async (name) => {
      const { default: command } = (await import(`../commands/${name}.ts`)) as { default: Command };
      for (const help of ["--help", "-h"]) {
        const { code, stdout, stderr } = await slipway([name, help]);
        expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
        expect(stdout).toContain(`usage: slipway ${name}`);
        expect(stdout).toContain(command.args?.form ?? "");
        const shown = [...stdout.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, option]) => option!);
        expect(shown).toEqual([...command.options, "verbose", "help"]);
      }
    },
  );

  test.concurrent.each([
    [["frobnicate"], "frobnicate"],
    [["toString"], "toString"],
    [["../main"], "../main"],
    [["check", "test"], "check takes no further word, not test"],
    [["rollback", "a", "b"], "rollback takes [ID], not a b"],
    [["verify-archive"], "verify-archive takes FILE, not nothing"],
    [["verify-archive", "a", "b"], "verify-archive takes FILE, not a b"],
    [["push", "--registry", "r.example/x"], "FILE..."],
    [["push", "a.tar"], "--registry HOST/PATH"],
    [["push", "a.tar", "--registry", "r.example/x:tag"], "no REGISTRY"],
    [["push", "a.tar", "b.tar", "--registry", "r.example/x"], "--tag NAME"],
    [["push", "a.tar", "--registry", "r.example/x", "--context", "c"], "push takes no --context"],
    [["--target", "registry"], "--registry HOST/PATH and --context NAME"],
    [["--target", "registry", "--registry", "r.example/x"], "--context NAME"],
    [["--target", "registry", "--context", "c", "--registry", "r.example/x:tag"], "no REGISTRY"],
    [["--target", "registry", "--context", "c", "--registry", "r.example"], "no REGISTRY"],
    [["--registry", "r.example/x"], "--target registry"],
    [["--target", "k3s", "--registry", "r.example/x"], "--target registry"],
    [["up", "--target", "none", "--registry", "r.example/x"], "--target registry"],
    [["plan", "--target", "none"], "--target none"],
    [["--url", "nonsense"], "no URL"],
    [["--url", "localhost:30080"], "http(s)://HOST[:PORT][/PATH]"],
    [["--url", "http:localhost"], "http(s)://HOST[:PORT][/PATH]"],
    [["verify", "--url", "ftp://x.example"], "http(s)://HOST[:PORT][/PATH]"],
    [["--url", "http://x.example/?a=b"], "http(s)://HOST[:PORT][/PATH]"],
    [["--target", "none", "--url", "http://x.example"], "--url is of a cluster"],
    [["up", "--target", "none", "--context", "x"], "--context is of a cluster"],
    [["--target", "none", "--kubeconfig", "x"], "--kubeconfig is of a cluster"],
    [["watch", "--report", "x"], "watch takes no --report"],
    [["up", "--platform", "linux/amd64,linux/arm64"], "a deploy is for one platform"],
    [["build", "dist", "--id"], "it takes no DIRECTORY"],
    [["--frobnicate"], "--frobnicate"],
    [["--engine", "podman"], "podman"],
    [["--engine"], "engine"],
    [["--target", "moon"], "moon"],
    [["--tag", "a:b"], "a:b"],
    [["--tag", ""], "no image tag"],
    [["--platform", "linux/amd64,windows/amd64"], "windows/amd64"],
    [["--compress", "much"], "much"],
    [["check", "--output", "x"], "check takes no --output"],
    [["status", "--tag", "x"], "status takes no --tag"],
    [["image", "--context", "x"], "image takes no --context"],
    [["build", "--engine", "host"], "build takes no --engine"],
    [["build", "a", "b"], "build takes [DIRECTORY], not a b"],
    [["install-k3s", "x"], "install-k3s takes no further word, not x"],
  ])("%p: exit 2, with a sentence that names it, and the usage", async (args, part) => {
    const { code, stdout, stderr } = await slipway(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(/^error: .*$/m.exec(stderr)?.[0]).toContain(part);
    expect(stderr).toContain("usage: bun ci/pipeline.ts");
  });

  test("up with a cluster's name is for that cluster: without a k3s it is no rehearsal", async () => {
    const { code, stderr } = await slipway(["up", "--context", "prod"]);
    expect(code).toBe(3);
    expect(stderr).toContain("k3s not found on this machine");
  });

  test.each([
    ["--report", ["--report", "/dev/null/report.json"], {}, "cannot write the report to /dev/null/"],
    ["step summary", [], { GITHUB_STEP_SUMMARY: "/dev/null/x" }, "cannot write the step summary to"],
  ])("a %s that cannot be written is said so, and the exit code stays", async (_, args, more, said) => {
    // The service has neither of the scripts: there is nothing that could fail.
    const place = mkdtempSync(join(tmpdir(), "helloapp-report-"));
    writeFileSync(join(place, "package.json"), '{"name":"clock","module":"main.ts"}');
    writeFileSync(join(place, "main.ts"), "");
    const main = join(import.meta.dir, "../cli/main.ts");
    for (const [command, exit] of Object.entries({ check: 0, rollback: 3 })) {
      const words = JSON.stringify([command, ...args]);
      const script = `import { main } from ${JSON.stringify(main)};
process.exit(await main(${words}, ${JSON.stringify(place)}, { port: 3000 }));`;
      const child = Bun.spawn([process.execPath, "-e", script], {
        env: { ...env, ...more },
        stdout: "ignore",
        stderr: "pipe",
      });
      const stderr = await new Response(child.stderr).text();
      expect({ command, code: await child.exited }).toEqual({ command, code: exit });
      expect(stderr).toContain(said);
    }
    rmSync(place, { recursive: true });
  });

  test("an interruption is in the report, too", async () => {
    const place = mkdtempSync(join(tmpdir(), "helloapp-report-"));
    const [started, report] = [join(place, "started"), join(place, "report.json")];
    const waits = `require("fs").writeFileSync("${started}", ""); setInterval(() => {}, 1000)`;
    const check = `${process.execPath} -e '${waits}'`;
    writeFileSync(
      join(place, "package.json"),
      JSON.stringify({ name: "clock", module: "main.ts", scripts: { check } }),
    );
    writeFileSync(join(place, "main.ts"), "");
    const words = JSON.stringify(["check", "--report", report]);
    const script = `import { main } from ${JSON.stringify(join(import.meta.dir, "../cli/main.ts"))};
process.exit(await main(${words}, ${JSON.stringify(place)}, { port: 3000 }));`;
    const child = Bun.spawn([process.execPath, "-e", script], { env, stdout: "ignore", stderr: "ignore" });
    while (!existsSync(started)) await Bun.sleep(20);
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect((await Bun.file(report).json()).conclusion).toBe("**interrupted:** Nothing was changed.");
    rmSync(place, { recursive: true });
  });

  test("stack traces are for --verbose", async () => {
    const [short, long] = [await slipway(["--url", "x"]), await slipway(["--url", "x", "--verbose"])];
    expect(short.stderr).not.toContain("    at ");
    expect(long.stderr).toContain("    at ");
  });
});

test("exit codes are those of the README's table and of the usage", async () => {
  expect(exitCodes).toEqual({ project: 1, usage: 2, environment: 3, partial: 4, interrupted: 130 });
  const codes = ["0", ...Object.values(exitCodes).map(String)];
  const readme = await Bun.file(join(root, "ci/slipway/README.md")).text();
  const table = readme.slice(readme.indexOf("| exit |")).split("\n\n")[0]!;
  expect([...table.matchAll(/^\| (\d+) /gm)].map(([, code]) => code!)).toEqual(codes);
  const { stdout } = Bun.spawnSync([process.execPath, join(root, "ci/pipeline.ts"), "--help"]);
  const help = stdout.toString();
  const usage = help.slice(help.indexOf("exit codes:"));
  expect([...usage.matchAll(/\b(\d+) [a-z]/g)].map(([, code]) => code!)).toEqual(codes);
});

test.each([
  ["ENOSPC", "no space"],
  ["EDQUOT", "no space"],
  ["EACCES", "cannot write /x"],
  ["EROFS", "cannot write /x"],
])("%s becomes a sentence, the surroundings' fault", (code, part) => {
  const explained = explainDiskError(Object.assign(new Error(code), { code }), "/x") as PipelineError;
  expect(explained.kind).toBe("environment");
  expect(explained.message).toContain(part);
  expect(explained.hint).toBeString();
});

test("an error that is not about the disk stays what it is", () => {
  const error = new Error("other");
  expect(explainDiskError(error, "/x")).toBe(error);
});

describe("running programs", () => {
  test("gives code and output", async () => {
    const result = await runProcess(["sh", "-c", "cat; echo err >&2; exit 7"], { input: "in" });
    expect(result).toEqual({ code: 7, stdout: "in", stderr: "err\n" });
  });

  test("ends what takes too long, and says so", async () => {
    const { code, stderr } = await runProcess(["sleep", "60"], { timeoutSeconds: 0.05 });
    expect(code).toBe(124);
    expect(stderr).toContain("timed out after");
  });

  test("ends what runs when interrupted, with the reason", async () => {
    const controller = new AbortController();
    const running = runProcess(["sleep", "60"], { signal: controller.signal });
    controller.abort(new PipelineError("interrupted", "stop"));
    expect(running).rejects.toThrow("stop");
    expect(runProcess(["true"], { signal: controller.signal })).rejects.toThrow("stop");
  });

  test("stands back with what it starts, where it is told to", async () => {
    // Which it is told when it has begun.
    const script = 'for i in $(seq 200); do [ "$(nice)" = "$1" ] || break; sleep 0.05; done; nice';
    const before = String(getPriority());
    const command = ["sh", "-c", script, "sh", before];
    const { stdout } = await runProcess(command, { lowPriority: true });
    expect(Number(stdout)).toBe(Math.min(19, Number(before) + 5));
    expect((await runProcess(["nice"])).stdout.trim()).toBe(before);
  });

  test("a program that is not there is the surroundings' fault", async () => {
    const error = await runProcess(["no-such-program-here"]).catch((error: PipelineError) => error);
    expect(error).toBeInstanceOf(PipelineError);
    expect((error as PipelineError).kind).toBe("environment");
  });
});

describe("report", () => {
  test("shows each step and how it ended, failures and what was reused too", async () => {
    const lines: string[] = [];
    const report = new Report((line) => lines.push(line));
    const value = await report.step("check", async () => ({ value: 5, detail: "fine" }));
    expect(value).toBe(5);
    await report.step("image", async () => ({ value: 5, reused: true }));
    const failing = report.step("test", async () => {
      throw new Error("red");
    });
    expect(failing).rejects.toThrow("red");
    await failing.catch(() => {});
    expect(lines[0]).toMatch(/^ {2}check +ok +\d+\.\d s {2}fine$/);
    expect(lines[1]).toMatch(/^ {2}image +reused +\d+\.\d s$/);
    expect(lines[2]).toMatch(/^ {2}test +failed +\d+\.\d s$/);
    expect(report.summary("done")).toMatch(/\| ok \| \d+\.\d \| \d+\.\d \| fine \|/);
    expect(report.summary("done")).toMatch(/\n\ndone \(\d+\.\d s\)/);
  });

  test("draws the steps over the seconds, the critical path in another colour", async () => {
    const report = new Report(() => {});
    const sleep = (milliseconds: number) => async () => ({ value: await Bun.sleep(milliseconds) });
    await Promise.all([report.step("check", sleep(60)), report.step("image", sleep(120))]);
    await report.step("rollout", sleep(60));
    await report.step("settle", sleep(1));
    const [, chart = ""] = /```mermaid\n(gantt\n.*?)```/s.exec(report.summary("done")) ?? [];
    const rows = chart.trim().split("\n").slice(3);
    const plain = rows.map((row) =>
      row
        .replace(/\d+\.\d s/, "N s")
        .replace(/\d+, \d+$/, "A, B")
        .trim(),
    );
    expect(plain).toEqual(["check N s :A, B", "image N s :crit, A, B", "rollout N s :crit, A, B"]);
    const moments = rows.map((row) => /(\d+), (\d+)$/.exec(row)!.slice(1).map(Number));
    expect(moments[2]![0]).toBeGreaterThanOrEqual(moments[1]![1]! - 1);
  });

  test("writes the run as JSON", async () => {
    const file = join(tmpdir(), `helloapp-report-${process.pid}.json`);
    const report = new Report(() => {});
    await report.step("check", async () => ({ value: 5, detail: "fine" }));
    await report.publish("done", file);
    const run = await Bun.file(file).json();
    await Bun.file(file).delete();
    expect(run).toMatchObject({ conclusion: "done", criticalPath: ["check"] });
    expect(run.steps[0]).toMatchObject({ name: "check", outcome: "ok", reused: false, detail: "fine" });
    expect(run.steps[0].work).toBeGreaterThanOrEqual(0);
  });

  test("the critical path is what the end had to wait for", () => {
    const step = (name: string, wait: number, work: number): Step => ({
      ...{ name, wait, work },
      ...{ outcome: "ok", reused: false, detail: "" },
    });
    const steps = [
      step("plan", 0, 1),
      step("check", 1, 0.5),
      step("test", 1, 3),
      step("image", 1.0001, 2),
      step("rollout", 4, 2),
      step("verify", 6, 0.1),
    ];
    const names = criticalPath(steps).map(({ name }) => name);
    expect(names).toEqual(["plan", "test", "rollout", "verify"]);
    expect(criticalPath([])).toEqual([]);
  });
});
