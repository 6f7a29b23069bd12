/** The settings `env` and `secrets`: which are valid, their values in the smoke test, and the proposal of init. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveEnvSettings } from "../core/env-settings.ts";
import { PipelineError } from "../core/errors.ts";
import { proposeSecrets } from "../init/propose-secrets.ts";
import { describeChoices } from "../init/describe-choices.ts";
import { generatedFiles } from "../init/files.ts";
import { findFacts } from "../init/project-facts.ts";
import { resolveService } from "../core/resolve-service.ts";
import { secretValuesForTest } from "../smoke-test/secret-values.ts";
import type { Settings } from "../index.d.ts";
import { service } from "./helloapp-service.ts";

let directory: string;
beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), "slipway-secret-settings-"))));
afterAll(() => rmSync(directory, { recursive: true }));
const layOut = (files: Record<string, string>): string => {
  const at = mkdtempSync(join(directory, "at-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(at, name), text);
  return at;
};

test("both forms of `secrets` give the same", () => {
  const command = ["op", "read", "op://x"];
  const expected = [{ name: "A" }, { name: "B", command }];
  expect(resolveEnvSettings({ secrets: ["A", { B: command }] }).secrets).toEqual(expected);
  expect(resolveEnvSettings({ secrets: { B: command } }).secrets).toEqual(expected.slice(1));
  expect(resolveEnvSettings({ env: { EMPTY: "" } }).env).toEqual({ EMPTY: "" });
});

test.each<[string, object, string]>([
  ["a name with a dash", { secrets: ["API-KEY"] }, '"API-KEY" is not a name'],
  ["a name with a value", { secrets: ["A=1"] }, '"A=1" is not a name'],
  ["an empty name", { env: { "": "x" } }, '"" is not a name'],
  ["a digit first", { env: { "1A": "x" } }, '"1A" is not a name'],
  ["101 letters", { secrets: ["N".repeat(101)] }, "is not a name"],
  ["a name of JavaScript", { secrets: ["__proto__"] }, "is not a name"],
  ["a name twice", { secrets: ["A", { A: ["x"] }] }, "A is set twice"],
  ["a name in both", { env: { A: "x" }, secrets: ["A"] }, "A is set twice"],
  ["a number as a value", { env: { PORT: 3000 } }, "the value of PORT is not a string"],
  ["a zero byte", { env: { A: "a\0" } }, "the value of A contains a zero byte"],
  ["200 KiB", { env: { A: "x".repeat(204_800) } }, "the value of A has 204800 bytes"],
  ["a command as text", { secrets: [{ A: "op read" }] }, "command of the secret A is not a list"],
  ["an empty command", { secrets: { A: [] } }, "command of the secret A is not a list"],
  ["a command with an empty word", { secrets: { A: [""] } }, "command of the secret A is not a list"],
  ["a number", { secrets: [1] }, "expected names"],
  ["null", { secrets: [null] }, "expected names"],
])("%s is an invalid setting", (_, settings, text) => {
  expect(() => resolveEnvSettings(settings as Settings)).toThrow(text);
  try {
    resolveEnvSettings(settings as Settings);
  } catch (error) {
    expect(error as PipelineError).toMatchObject({ kind: "project", code: "setting-invalid" });
  }
});

describe("the smoke test's values", () => {
  const names = ["FROM_SETTING", "FROM_FILE", "DATABASE_URL", "OTHER_URL", "TOKEN", "EMPTY"];
  const secrets = names.map((name) => ({ name }));

  test("come from smokeEnv, .env, or are made up, and each source is named", () => {
    const project = layOut({ ".env": 'FROM_SETTING=no\nFROM_FILE="file\\n2"\nEMPTY=\nUNUSED=1\n' });
    const found = secretValuesForTest({ ...service, project, secrets, smokeEnv: { FROM_SETTING: "yes", X: "1" } });
    expect(found.values).toMatchObject({ FROM_SETTING: "yes", FROM_FILE: "file\n2" });
    expect(found.values.DATABASE_URL).toStartWith("postgres://");
    expect(URL.canParse(found.values.OTHER_URL!)).toBe(true);
    expect(Object.values(found.values)).not.toContain("");
    expect(found.values).not.toHaveProperty("UNUSED");
    expect(found.madeUp).toEqual(["DATABASE_URL", "OTHER_URL", "TOKEN", "EMPTY"]);
    const madeUp = "made-up values for DATABASE_URL, OTHER_URL, TOKEN, EMPTY";
    expect(found.note).toBe(`secrets: FROM_SETTING from smokeEnv, FROM_FILE from .env, ${madeUp}`);
  });

  test("without secrets there is nothing to name, and an invalid .env is not used", () => {
    const project = layOut({ ".env": "A=1\nnot an assignment\n" });
    expect(secretValuesForTest({ ...service, project }).note).toBeUndefined();
    expect(secretValuesForTest({ ...service, project, secrets: [{ name: "A" }] }).madeUp).toEqual(["A"]);
  });

  test("a secret's command is not run", () => {
    const marker = join(directory, "ran");
    const command = ["touch", marker];
    expect(secretValuesForTest({ ...service, project: layOut({}), secrets: [{ name: "A", command }] }).madeUp).toEqual([
      "A",
    ]);
    expect(Bun.file(marker).size).toBe(0);
  });
});

describe("init", () => {
  const example = `# settings\nPORT=3000\nNODE_ENV=development\nLOG_LEVEL=debug\nexport DATABASE_URL=postgres://localhost/dev
STRIPE_KEY=\nSESSION_SECRET=x\nNEXT_PUBLIC_API_KEY=y\nPUBLIC_URL=http://x\nKEYBOARD=z\n#OLD_TOKEN=1\nREDIS_URL=\n`;

  test("proposes the names of credentials in .env.example, and lists the others", () => {
    expect(proposeSecrets(layOut({ ".env.example": example }))).toEqual({
      file: ".env.example",
      secrets: ["DATABASE_URL", "STRIPE_KEY", "SESSION_SECRET", "REDIS_URL"],
      others: ["LOG_LEVEL", "NEXT_PUBLIC_API_KEY", "PUBLIC_URL", "KEYBOARD"],
    });
    expect(proposeSecrets(layOut({ ".env.sample": "API_TOKEN=" })).secrets).toEqual(["API_TOKEN"]);
    expect(proposeSecrets(layOut({ ".env": "API_TOKEN=" }))).toEqual({ file: undefined, secrets: [], others: [] });
  });

  test("writes names and no values, and says how to store the values", async () => {
    const at = layOut({ "package.json": '{"name":"shop"}', ".env.example": example });
    mkdirSync(join(at, "src"));
    writeFileSync(join(at, "src/main.ts"), "");
    const facts = await findFacts(resolveService(at, { identity: "shop" }), AbortSignal.timeout(60_000));
    const text = generatedFiles(facts).get("ci/pipeline.ts")!;
    expect(text).toContain('secrets: ["DATABASE_URL", "STRIPE_KEY", "SESSION_SECRET", "REDIS_URL"]');
    expect([...generatedFiles(facts).values()].join()).not.toContain("localhost/dev");
    const change = { path: join(at, "ci/pipeline.ts"), before: undefined, after: text };
    const lines = describeChoices(facts, [change]).join("\n");
    expect(lines).toContain("store each value with `bun ci/pipeline.ts secrets set NAME`");
    expect(lines).toContain("env      LOG_LEVEL, NEXT_PUBLIC_API_KEY, PUBLIC_URL, KEYBOARD  named in .env.example");
    expect(describeChoices(facts, []).join("\n")).not.toContain("secrets set");
  });
});
