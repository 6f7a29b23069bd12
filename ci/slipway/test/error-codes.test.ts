/** Each error has a code, and the page about errors has one anchor for each code. */
import { afterEach, expect, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { printError } from "../cli/error-output.ts";
import { errorCodes, type ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import { Report } from "../core/step-report.ts";
import { rolloutErrorCode } from "../deploy/rollout-failure-codes.ts";
import { ApiError } from "../kubernetes/api-error.ts";
import { createPartialFailure, withLeftovers } from "../kubernetes/apply.ts";
import packageJson from "../package.json";

const root = join(import.meta.dir, "..");
const page = readFileSync(join(root, "docs/reference/troubleshooting.md"), "utf8");
const sources = [...new Bun.Glob("**/*.ts").scanSync({ cwd: root })].filter(
  (path) => !/node_modules|^test\/|error-codes\.ts$/.test(path),
);
const code = sources.map((path) => readFileSync(join(root, path), "utf8")).join("\n");

const printed = spyOn(console, "error").mockImplementation(() => {});
afterEach(() => printed.mockClear());

test("each code has exactly one anchor, directly above the message, and each anchor is a code", () => {
  const anchors = [...page.matchAll(/<a id="([^"]*)"><\/a>\n\n### `/g)].map(([, anchor]) => anchor as ErrorCode);
  expect(page.match(/<a id=/g)).toHaveLength(anchors.length);
  expect(anchors.toSorted()).toEqual([...errorCodes].sort());
});

test("the sources use each code", () => {
  expect(errorCodes.filter((name) => !code.includes(`"${name}"`))).toEqual([]);
  expect(errorCodes.filter((name) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name))).toEqual([]);
});

// Only tools outside the package have errors without a code.
test("no error of the package lacks a code", () => expect(code).not.toMatch(/code: undefined/));

test("printError prints the path of the page with the anchor, once for each error", () => {
  const error = new PipelineError("environment", "no lock", { code: "lock-held", hint: "Wait." });
  printError(error, false);
  printError(error, false);
  const [text, more, ...others] = printed.mock.calls.flat();
  expect([text, ...others]).toEqual(["\nerror: no lock. Wait."]);
  const [, path, anchor] = /^More: (.*)#(.*)$/.exec(String(more))!;
  expect(existsSync(resolve(path!))).toBe(true);
  expect(page).toContain(`<a id="${anchor}"></a>`);
  expect(packageJson.files).toContain("docs");
});

test("printError prints no anchor for a usage error, an interruption, and an error without a code", () => {
  printError(new PipelineError("usage", "a"), false);
  printError(new PipelineError("interrupted", "b"), false);
  printError(new PipelineError("project", "c", { code: undefined }), false);
  expect(printed.mock.calls.flat()).toEqual(["\nerror: a.", "\nerror: b.", "\nerror: c."]);
});

test("the reason of a failed rollout determines the code", () => {
  const codeOf = (reason: string) => rolloutErrorCode({ reason, message: "" });
  expect(codeOf("CrashLoopBackOff")).toBe("rollout-crash-loop");
  expect(codeOf("JobFailed")).toBe("pre-deploy-job-failed");
  expect(codeOf("OOMKilled")).toBe("rollout-container-exited");
});

test.each<[number, string, ErrorCode]>([
  [401, "Unauthorized", "api-unauthorized"],
  [500, "getting credentials: exec: exit status 1", "api-unauthorized"],
  [403, 'User "x" cannot patch resource "deployments"', "api-forbidden"],
  [403, "exceeded quota", "manifests-rejected"],
  [0, "no response within 6 s", "api-unreachable"],
  [500, "dial tcp: connection refused", "api-unreachable"],
  [409, "conflict", "api-error"],
])("an API error with status %p, %p has the code %p", (status, reply, expected) => {
  expect(new ApiError("GET /x", status, reply).code).toBe(expected);
});

test("a partial failure keeps the code of its cause", () => {
  const cause = new PipelineError("environment", "away", { code: "ssh-connection-lost" });
  expect(createPartialFailure("applied in part", cause, new AbortController().signal).code).toBe("ssh-connection-lost");
  expect(withLeftovers(["Namespace/a"], cause)).toMatchObject({ kind: "partial", code: "ssh-connection-lost" });
});

test("the report has the code", async () => {
  const directory = mkdtempSync(join(tmpdir(), "slipway-codes-"));
  try {
    const file = join(directory, "report.json");
    await new Report(() => {}).publish("**failed:** x", file, "lock-held");
    expect(await Bun.file(file).json()).toMatchObject({ conclusion: "**failed:** x", errorCode: "lock-held" });
    await new Report(() => {}).publish("done", file);
    expect(await Bun.file(file).json()).not.toHaveProperty("errorCode");
  } finally {
    rmSync(directory, { recursive: true });
  }
});
