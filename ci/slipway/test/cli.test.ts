/** Command line, exit codes, child processes and the report. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { getPriority, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { exitCodes, explainDiskError, PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";
import { criticalPath, Report, type Step } from "../core/step-report.ts";
import { commandGroups } from "../cli/main.ts";
import { findNearest } from "../cli/find-nearest.ts";
import { commonOptions, readOptions, type OptionValues } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import manifest from "../package.json";
import { root, service } from "./helloapp-service.ts";

// The tests start programs, and the machine may be busy.
setDefaultTimeout(60_000);

describe("options", () => {
  const read = (values: OptionValues, env: Record<string, string> = {}, args: string[] = []) =>
    readOptions(values, args, service, env);

  test("default to k3s and the host engine", () => {
    expect(read({})).toMatchObject({
      args: [],
      engine: "host",
      target: "k3s",
      output: resolve("helloapp.tar"),
      architectures: undefined,
      compression: undefined,
      hosts: [],
      tags: [],
      id: false,
      verbose: false,
    });
    expect(readOptions({}, [], { name: "clock", hosts: [] }, {}).output).toBe(resolve("clock.tar"));
  });

  test("`dagger run` selects the Dagger engine, --engine overrides it", () => {
    const env = { DAGGER_SESSION_PORT: "1", DAGGER_SESSION_TOKEN: "x" };
    expect(read({}, env).engine).toBe("dagger");
    expect(read({ engine: "host" }, env).engine).toBe("host");
    expect(read({ engine: "dagger" }).engine).toBe("dagger");
  });

  test("a registry and a context have no default", () => {
    const registry = "127.0.0.1:5001/team/helloapp";
    const given = { target: "registry", registry, context: "prod" } as const;
    expect(read(given)).toMatchObject(given);
    expect(read({ registry })).toMatchObject({ registry, context: undefined });
  });

  test("arguments after the command are unchanged", () => {
    expect(read({}, {}, ["x/y.tar", "b.tar"]).args).toEqual(["x/y.tar", "b.tar"]);
  });

  test("every option reaches the command", () => {
    const given = {
      output: "x/y.tar",
      report: "r.json",
      tag: ["latest", "v1.0"],
      platform: "linux/arm64,linux/amd64,linux/arm64",
      compress: "none",
      target: "none",
      url: "https://x.example",
      kubeconfig: "k",
      sysroot: "/r",
      verbose: true,
      id: true,
      check: true,
      minimal: true,
      with: "ingress,egress",
      follow: true,
      lines: "5",
      since: "10m",
      previous: true,
      grep: "text",
      "no-restart": true,
      json: true,
      deadline: "2h",
      wait: "30",
      yes: "shop",
      volumes: true,
      namespace: true,
    };
    expect(read(given)).toEqual({
      args: [],
      engine: "host",
      target: "none",
      hosts: [],
      output: resolve("x/y.tar"),
      report: resolve("r.json"),
      tags: ["latest", "v1.0"],
      architectures: ["arm64", "amd64"],
      compression: "none",
      registry: undefined,
      url: "https://x.example",
      kubeconfig: "k",
      context: undefined,
      sysroot: "/r",
      id: true,
      check: true,
      minimal: true,
      with: ["ingress", "egress"],
      follow: true,
      lines: 5,
      since: 600,
      previous: true,
      grep: "text",
      noRestart: true,
      json: true,
      deadline: 7200,
      wait: 30,
      yes: "shop",
      volumes: true,
      namespace: true,
      verbose: true,
    });
  });
});

describe("command line", () => {
  // An empty PATH ensures that no test reaches a cluster.
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
  const load = async (name: string) => ((await import(`../commands/${name}.ts`)) as { default: Command }).default;

  test("the list of the help holds every command once", () => {
    expect(Object.values(commandGroups).flat().toSorted()).toEqual(commands.toSorted());
  });

  test.each(commands)("the description of %s is an imperative phrase on one line", async (name) => {
    const { about } = await load(name);
    // A capital verb in its base form, of at most 100 columns with the name.
    expect(about).toMatch(/^[A-Z][a-z]+[^s.] [^\n]{5,75}[^.\n]$/);
  });

  test.each(["--help", "-h", "help"])("%s names every command in a line, and the exit codes", async (help) => {
    const { code, stdout, stderr } = await slipway([help]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain("usage: bun ci/pipeline.ts [command] [options]");
    const shown = [...stdout.matchAll(/^ {2}([a-z][a-z0-9-]*)\b.{3,}/gm)].map(([, command]) => command!);
    expect(shown).toEqual(Object.values(commandGroups).flat());
    for (const exit of Object.values(exitCodes)) expect(stdout).toMatch(new RegExp(`\\b${exit} `));
  });

  test.concurrent.each(commands)("%s --help lists its arguments and options, exit 0", async (name) => {
    const command = await load(name);
    for (const words of [
      [name, "--help"],
      [name, "-h"],
      ["help", name],
    ]) {
      const { code, stdout, stderr } = await slipway(words);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(stdout).toContain(`usage: slipway ${name}`);
      expect(stdout).toContain(command.args?.form ?? "");
      const shown = [...stdout.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, option]) => option!);
      expect(shown).toEqual([...command.options, ...commonOptions]);
    }
  });

  test.concurrent.each([[["--version"]], [["-v"]], [["deploy", "--version"]]])(
    "%p: the versions of slipway and Bun, exit 0",
    async (words) => {
      const expected = { code: 0, stdout: `slipway ${manifest.version} (Bun ${Bun.version})\n`, stderr: "" };
      expect(await slipway(words)).toEqual(expected);
    },
  );

  test.each(["--version", "-v"])("slipway %s works in an empty directory", (word) => {
    const directory = mkdtempSync(join(tmpdir(), "slipway-version-"));
    const command = [process.execPath, join(import.meta.dir, "../cli/bin.ts"), word];
    const { exitCode, stdout } = Bun.spawnSync(command, { cwd: directory, env });
    rmSync(directory, { recursive: true });
    expect(exitCode).toBe(0);
    expect(stdout.toString()).toBe(`slipway ${manifest.version} (Bun ${Bun.version})\n`);
  });

  test.each([
    ["depoly", "deploy"],
    ["rollbak", "rollback"],
    ["statuses", "status"],
    ["chekc", "check"],
    ["cehck", "check"],
    ["tests", "test"],
    ["push", "push"],
    ["frobnicate", undefined],
    ["x", undefined],
    ["", undefined],
    ["x".repeat(10_000), undefined],
  ])("the nearest command to %p is %p", (text, near) => {
    expect(findNearest(text, commands)).toBe(near);
  });

  test.concurrent.each([
    [["frobnicate"], 'unknown command "frobnicate": expected one of '],
    [["depoly"], 'unknown command "depoly": did you mean "deploy"?'],
    [["help", "depoly"], 'did you mean "deploy"?'],
    [["toString"], "toString"],
    [["../main"], "../main"],
    [["check", "test"], "check expects no argument, got test"],
    [["rollback", "a", "b"], "rollback expects [ID], got a b"],
    [["verify-archive"], "verify-archive expects FILE, got no argument"],
    [["verify-archive", "a", "b"], "verify-archive expects FILE, got a b"],
    [["push", "--registry", "r.example/x"], "FILE..."],
    [["push", "a.tar"], "--registry HOST/PATH"],
    [["push", "a.tar", "--registry", "r.example/x:tag"], "is not of the form HOST[:PORT]/PATH"],
    [["push", "a.tar", "b.tar", "--registry", "r.example/x"], "--tag NAME"],
    [["push", "a.tar", "--registry", "r.example/x", "--context", "c"], "--context does not apply to push"],
    [["--target", "registry"], "--registry HOST/PATH and --context NAME"],
    [["--target", "registry", "--registry", "r.example/x"], "--context NAME"],
    [
      ["--target", "registry", "--context", "c", "--registry", "r.example/x:tag"],
      "is not of the form HOST[:PORT]/PATH",
    ],
    [["--target", "registry", "--context", "c", "--registry", "r.example"], "is not of the form HOST[:PORT]/PATH"],
    [["--registry", "r.example/x"], "--target registry"],
    [["--target", "k3s", "--registry", "r.example/x"], "--target registry"],
    [["up", "--target", "none", "--registry", "r.example/x"], "--target registry"],
    [["plan", "--target", "none"], "--target none"],
    [["--url", "nonsense"], '--url "nonsense" is not of the form'],
    [["--url", "localhost:30080"], "http(s)://HOST[:PORT][/PATH]"],
    [["--url", "http:localhost"], "http(s)://HOST[:PORT][/PATH]"],
    [["verify", "--url", "ftp://x.example"], "http(s)://HOST[:PORT][/PATH]"],
    [["--url", "http://x.example/?a=b"], "http(s)://HOST[:PORT][/PATH]"],
    [["--target", "none", "--url", "http://x.example"], "--url cannot be combined with --target none"],
    [["up", "--target", "none", "--context", "x"], "--context cannot be combined with --target none"],
    [["--target", "none", "--kubeconfig", "x"], "--kubeconfig cannot be combined with --target none"],
    [["--host", "a", "--kubeconfig", "x"], "--kubeconfig cannot be combined with --host"],
    [["--host", "a", "--target", "none"], "--host cannot be combined with --target none"],
    [["watch", "--report", "x"], "--report does not apply to watch"],
    [["up", "--platform", "linux/amd64,linux/arm64"], "a deploy takes a single platform"],
    [["build", "dist", "--id"], "cannot be combined with DIRECTORY"],
    [["--frobnicate"], "unknown option --frobnicate."],
    [["--hots", "x"], "unknown option --hots: did you mean --host?"],
    [["-x"], "unknown option -x."],
    [["--engine", "podman"], "podman"],
    [["--engine"], "engine"],
    [["--target", "moon"], "moon"],
    [["image", "--tag", "a:b"], "a:b"],
    [["image", "--tag", ""], "not a valid image tag"],
    [["--platform", "linux/amd64,windows/amd64"], "windows/amd64"],
    [["image", "--compress", "much"], "much"],
    [["--output", "x"], "--output does not apply to deploy. Use it with image."],
    [["watch", "--compress", "none"], "--compress does not apply to watch. Use it with image."],
    [["up", "--tag", "x"], "--tag does not apply to up. Use it with image or push."],
    [["push", "a.tar", "--output", "x"], "--output does not apply to push. Use it with image."],
    [["check", "--output", "x"], "--output does not apply to check. Use it with image."],
    [["status", "--tag", "x"], "--tag does not apply to status. Use it with image or push."],
    [["image", "--context", "x"], "--context does not apply to image"],
    [["build", "--engine", "host"], "--engine does not apply to build"],
    [["build", "a", "b"], "build expects [DIRECTORY], got a b"],
    [["install-k3s", "x"], "install-k3s expects no argument, got x"],
  ])("%p: exit 2, with an error that names the problem, and the usage", async (args, part) => {
    const { code, stdout, stderr } = await slipway(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(/^error: .*$/m.exec(stderr)?.[0]).toContain(part);
    expect(stderr).toContain("usage: bun ci/pipeline.ts");
  });

  test("up with --context never falls back to the smoke test", async () => {
    const { code, stderr } = await slipway(["up", "--context", "prod"]);
    expect(code).toBe(3);
    expect(stderr).toContain("k3s not found on this machine");
  });

  test.each([
    ["--report", ["--report", "/dev/null/report.json"], {}, "cannot write the report to /dev/null/"],
    ["step summary", [], { GITHUB_STEP_SUMMARY: "/dev/null/x" }, "cannot write the step summary to"],
  ])("a %s that cannot be written is reported and keeps the exit code", async (_, args, more, message) => {
    // The service has no scripts, so no step can fail.
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
      expect(stderr).toContain(message);
    }
    rmSync(place, { recursive: true });
  });

  test("the report records an interruption", async () => {
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

  test.each([
    [["run", "no-such-entry"], 'unknown entry "no-such-entry"'],
    [["run", "no-such-file.ts"], "file no-such-file.ts not found"],
    [["run", "x", "--deadline", "soon"], '--deadline "soon"'],
    [["console"], "console needs a terminal"],
    [["shell"], "shell needs a terminal"],
    [["scale", "many"], 'got "many"'],
    [["scale", "-1"], "unknown option -1"],
    [["scale"], "scale expects N"],
    [["proxy", "http"], '"http" is not of the form [LOCAL:]PORT'],
    [["proxy", "70000:80"], "[LOCAL:]PORT"],
    [["proxy", "80", "db"], '"db" is not of the form KIND/NAME'],
    [["restart", "--wait", "x"], '--wait "x"'],
    [["completion", "tcsh"], 'unknown shell "tcsh"'],
    [["status", "--volumes"], "Use it with destroy"],
  ])("%p is a usage error before anything is connected", async (args, part) => {
    const { code, stdout, stderr } = await slipway(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(part);
  });

  test("only --verbose prints stack traces", async () => {
    const [short, long] = [await slipway(["--url", "x"]), await slipway(["--url", "x", "--verbose"])];
    expect(short.stderr).not.toContain("    at ");
    expect(long.stderr).toContain("    at ");
  });
});

test("the CLI page and the help list every exit code", async () => {
  expect(exitCodes).toEqual({ project: 1, usage: 2, environment: 3, partial: 4, interrupted: 130 });
  const codes = ["0", ...Object.values(exitCodes).map(String)];
  const readme = await Bun.file(join(root, "ci/slipway/docs/reference/cli.md")).text();
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
])("%s becomes an environment error with a hint", (code, part) => {
  const explained = explainDiskError(Object.assign(new Error(code), { code }), "/x") as PipelineError;
  expect(explained.kind).toBe("environment");
  expect(explained.message).toContain(part);
  expect(explained.hint).toBeString();
});

test("an error that is not about the disk is unchanged", () => {
  const error = new Error("other");
  expect(explainDiskError(error, "/x")).toBe(error);
});

describe("running programs", () => {
  test("returns exit code and output", async () => {
    const result = await runProcess(["sh", "-c", "cat; echo err >&2; exit 7"], { input: "in" });
    expect(result).toEqual({ code: 7, stdout: "in", stderr: "err\n" });
  });

  test("ends a program after its timeout and reports the timeout", async () => {
    const { code, stderr } = await runProcess(["sleep", "60"], { timeoutSeconds: 0.05 });
    expect(code).toBe(124);
    expect(stderr).toContain("timed out after");
  });

  test("ends a program on an interruption, with the reason", async () => {
    const controller = new AbortController();
    const running = runProcess(["sleep", "60"], { signal: controller.signal });
    controller.abort(new PipelineError("interrupted", "stop"));
    expect(running).rejects.toThrow("stop");
    expect(runProcess(["true"], { signal: controller.signal })).rejects.toThrow("stop");
  });

  test("runs a program and its children at low priority on request", async () => {
    // The priority is lowered after the start.
    const script = 'for i in $(seq 200); do [ "$(nice)" = "$1" ] || break; sleep 0.05; done; nice';
    const before = String(getPriority());
    const command = ["sh", "-c", script, "sh", before];
    const { stdout } = await runProcess(command, { lowPriority: true });
    expect(Number(stdout)).toBe(Math.min(19, Number(before) + 5));
    expect((await runProcess(["nice"])).stdout.trim()).toBe(before);
  });

  test("a missing program is an environment error", async () => {
    const error = await runProcess(["no-such-program-here"]).catch((error: PipelineError) => error);
    expect(error).toBeInstanceOf(PipelineError);
    expect((error as PipelineError).kind).toBe("environment");
  });
});

describe("report", () => {
  test("prints each step with its outcome", async () => {
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

  test.each([
    [1, "1 warning)"],
    [2, "2 warnings)"],
  ])("counts warnings in its last line: %d", async (count, end) => {
    const lines: string[] = [];
    const report = new Report((line) => lines.push(line));
    await report.step("image", async () => ({ value: 5 }));
    expect(report.summaryLine()).not.toContain("warning");
    for (let at = 1; at <= count; at += 1) report.warn(`src/a.ts:${at} opens b`);
    expect(report.summaryLine()).toEndWith(`; ${end}`);
    expect(lines.at(-1)).toContain(`src/a.ts:${count} opens b`);
  });

  test("draws a chart of the steps and highlights the critical path", async () => {
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

  test("writes JSON", async () => {
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

  test("the critical path holds the steps that determined the total time", () => {
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

  test("the critical path follows the declared needs", () => {
    const step = (name: string, wait: number, work: number, needs?: string[]): Step => ({
      ...{ name, wait, work },
      ...{ outcome: "ok", reused: false, detail: "", ...(needs && { needs }) },
    });
    const steps = [
      step("check", 0, 2.9, []),
      step("image", 0, 1, []),
      step("deliver", 1, 1.8, ["image"]),
      // Check ended last, but this step did not wait for it.
      step("rollout", 3, 1, ["deliver"]),
    ];
    expect(criticalPath(steps).map(({ name }) => name)).toEqual(["image", "deliver", "rollout"]);
  });
});
