import { describe, expect, test } from "bun:test";
import { resolve } from "node:path";
import { exitCodes, explainDiskError, PipelineError } from "../../ci/errors.ts";
import { parseCommandLine } from "../../ci/options.ts";
import { run } from "../../ci/process.ts";
import { Report } from "../../ci/report.ts";

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

test("the report shows each step and how it ended, failures too", async () => {
  const lines: string[] = [];
  const report = new Report((line) => lines.push(line));
  const value = await report.step("check", async () => ({ value: 5, detail: "fine" }));
  expect(value).toBe(5);
  const failing = report.step("test", async () => {
    throw new Error("red");
  });
  expect(failing).rejects.toThrow("red");
  await failing.catch(() => {});
  expect(lines[0]).toMatch(/^ {2}check +ok +\d+\.\d s {2}fine$/);
  expect(lines[1]).toMatch(/^ {2}test +failed +\d+\.\d s$/);
  expect(report.summary("done")).toContain(
    "| check | ok | 0.0 | fine |\n| test | failed | 0.0 |  |\n\ndone\n",
  );
});
