import { describe, expect, test } from "bun:test";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { exitCodes, explainDiskError, PipelineError } from "../ground/errors.ts";
import { parseCommandLine } from "../options.ts";
import { run } from "../ground/process.ts";
import { criticalPath, Report, type Step } from "../ground/report.ts";

describe("command line", () => {
  test("nothing means: deploy to k3s with what is there", () => {
    expect(parseCommandLine([], {})).toMatchObject({
      command: "deploy",
      engine: "host",
      target: "k3s",
      tags: [],
    });
    expect(parseCommandLine([], {}).output).toBe(resolve("helloapp.tar"));
  });

  test("`dagger run` selects its engine, --engine overrides it", () => {
    const env = { DAGGER_SESSION_PORT: "1", DAGGER_SESSION_TOKEN: "x" };
    expect(parseCommandLine([], env).engine).toBe("dagger");
    expect(parseCommandLine(["--engine", "host"], env).engine).toBe("host");
    expect(parseCommandLine(["--engine=dagger"], {}).engine).toBe("dagger");
  });

  test("a registry and a cluster are named, never guessed", () => {
    const args = ["--target=registry", "--registry", "127.0.0.1:5001/team/helloapp", "--context", "prod"];
    expect(parseCommandLine(args, {})).toMatchObject({
      target: "registry",
      registry: "127.0.0.1:5001/team/helloapp",
      context: "prod",
    });
  });

  test("rollback takes the version to go back to", () => {
    expect(parseCommandLine(["rollback", "abc"], {})).toMatchObject({ command: "rollback", id: "abc" });
    expect(parseCommandLine(["rollback"], {}).id).toBeUndefined();
  });

  test("verify-archive takes one archive", () => {
    expect(parseCommandLine(["verify-archive", "x/y.tar"], {})).toMatchObject({
      command: "verify-archive",
      files: [resolve("x/y.tar")],
    });
  });

  test("push takes archives and where they go, and no cluster", () => {
    const args = ["push", "a.tar", "b.tar", "--registry", "r.example/x", "--tag", "v1"];
    expect(parseCommandLine(args, {})).toMatchObject({
      command: "push",
      files: [resolve("a.tar"), resolve("b.tar")],
      registry: "r.example/x",
      tags: ["v1"],
      context: undefined,
    });
    expect(parseCommandLine(["push", "a.tar", "--registry", "r.example/x"], {}).tags).toEqual([]);
  });

  test("options", () => {
    const args = [
      "image",
      "--output",
      "x/y.tar",
      "--tag",
      "latest",
      "--tag=v1.0",
      "--target",
      "none",
      "--verbose",
    ];
    expect(parseCommandLine(args, {})).toMatchObject({
      command: "image",
      output: resolve("x/y.tar"),
      tags: ["latest", "v1.0"],
      target: "none",
      verbose: true,
    });
  });

  test.each([
    [["frobnicate"], "frobnicate"],
    [["check", "test"], "one command"],
    [["rollback", "a", "b"], "one command"],
    [["verify-archive"], "takes one archive"],
    [["verify-archive", "a", "b"], "takes one archive"],
    [["push", "--registry", "r.example/x"], "FILE..."],
    [["push", "a.tar"], "--registry HOST/PATH"],
    [["push", "a.tar", "--registry", "r.example/x:tag"], "no REGISTRY"],
    [["push", "a.tar", "b.tar", "--registry", "r.example/x"], "--tag NAME"],
    [["--target", "registry"], "--registry HOST/PATH and --context NAME"],
    [["--target", "registry", "--registry", "r.example/x"], "--context NAME"],
    [["--target", "registry", "--context", "c", "--registry", "r.example/x:tag"], "no REGISTRY"],
    [["--target", "registry", "--context", "c", "--registry", "r.example"], "no REGISTRY"],
    [["--registry", "r.example/x"], "--target registry"],
    [["--url", "nonsense"], "no URL"],
    [["--frobnicate"], "--frobnicate"],
    [["--engine", "podman"], "podman"],
    [["--engine"], "engine"],
    [["--target", "moon"], "moon"],
    [["--tag", "a:b"], "a:b"],
    [["--tag", ""], "no image tag"],
  ])("%p is a usage error that names it", (args, part) => {
    try {
      parseCommandLine(args, {});
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(PipelineError);
      expect((error as PipelineError).fault).toBe("usage");
      expect((error as PipelineError).message).toContain(part);
    }
  });
});

test("exit codes are those of the README", () => {
  expect(exitCodes).toEqual({ change: 1, usage: 2, surroundings: 3, interrupted: 130 });
});

test.each([
  ["ENOSPC", "no space"],
  ["EDQUOT", "no space"],
  ["EACCES", "cannot write /x"],
  ["EROFS", "cannot write /x"],
])("%s becomes a sentence, the surroundings' fault", (code, part) => {
  const explained = explainDiskError(Object.assign(new Error(code), { code }), "/x") as PipelineError;
  expect(explained.fault).toBe("surroundings");
  expect(explained.message).toContain(part);
  expect(explained.hint).toBeString();
});

test("an error that is not about the disk stays what it is", () => {
  const error = new Error("other");
  expect(explainDiskError(error, "/x")).toBe(error);
});

describe("running programs", () => {
  test("gives code and output", async () => {
    const result = await run(["sh", "-c", "cat; echo err >&2; exit 7"], { input: "in" });
    expect(result).toEqual({ code: 7, stdout: "in", stderr: "err\n" });
  });

  test("ends what takes too long, and says so", async () => {
    const { code, stderr } = await run(["sleep", "60"], { timeoutSeconds: 0.05 });
    expect(code).toBe(124);
    expect(stderr).toContain("no answer within");
  });

  test("ends what runs when interrupted, with the reason", async () => {
    const controller = new AbortController();
    const running = run(["sleep", "60"], { signal: controller.signal });
    controller.abort(new PipelineError("interrupted", "stop"));
    expect(running).rejects.toThrow("stop");
    expect(run(["true"], { signal: controller.signal })).rejects.toThrow("stop");
  });

  test("a program that is not there is the surroundings' fault", async () => {
    const error = await run(["no-such-program-here"]).catch((error: PipelineError) => error);
    expect(error).toBeInstanceOf(PipelineError);
    expect((error as PipelineError).fault).toBe("surroundings");
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
