/** Credentials of private registries: which variables an installation needs, and why a registry refused. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { explainInstallFailure, findInstallVariables, readInstallVariables } from "../core/install-access.ts";
import { resolveService } from "../core/resolve-service.ts";
import { generatedFiles } from "../init/files.ts";
import { findFacts } from "../init/project-facts.ts";

const directory = mkdtempSync(join(tmpdir(), "install-access-"));
afterAll(() => rmSync(directory, { recursive: true }));

function project(files: Record<string, string>): string {
  const at = mkdtempSync(join(directory, "project-"));
  mkdirSync(join(at, "member"));
  for (const [path, content] of Object.entries({ "package.json": '{"name":"shop"}', "index.ts": "", ...files }))
    writeFileSync(join(at, path), content);
  return at;
}

test.each<[string, Record<string, string>, string[]]>([
  ["no settings", {}, []],
  ["bunfig.toml", { "bunfig.toml": '[install.scopes]\na = { token = "$A_TOKEN", url = "https://x/" }\n' }, ["A_TOKEN"]],
  [".npmrc", { ".npmrc": "//x/:_authToken=${NPM_TOKEN}\n# ${OLD}\n; $OLDER\n" }, ["NPM_TOKEN"]],
  ["a member's .npmrc", { "member/.npmrc": "//x/:_password=$B\n//x/:username=${A}\n" }, ["A", "B"]],
])("the variables that %s names", (_, files, names) => {
  expect(findInstallVariables(project(files), ["member"])).toEqual(names);
});

test("only variables with a value are read, with those of a proxy", () => {
  const environment = { A: "1", B: "", HTTPS_PROXY: "http://p:1", OTHER: "x" };
  expect(readInstallVariables(["A", "B", "C"], environment)).toEqual([
    ["A", "1"],
    ["HTTPS_PROXY", "http://p:1"],
  ]);
});

// Output of Bun 1.4.5.
test.each<[string, Record<string, string>, string]>([
  ["error: GET http://u:p@r.example/@a/b - 401", {}, "Set NPM_TOKEN, which bunfig.toml or .npmrc names"],
  ["error: GET http://r.example/@a/b - 403", { NPM_TOKEN: "x" }, "Check that the token in NPM_TOKEN is valid"],
  ["error: GET http://r.example/@a/b - 404", {}, "Set NPM_TOKEN"],
  ["error: ConnectionRefused downloading package manifest a", {}, "Behind a proxy, set HTTPS_PROXY."],
  [
    "error: ConnectionRefused downloading package manifest a",
    { HTTPS_PROXY: "http://127.0.0.1:3128" },
    "HTTPS_PROXY names this machine's loopback address",
  ],
])("%s", (output, environment, hint) => {
  const explained = explainInstallFailure(output, ["NPM_TOKEN"], environment)!;
  expect(explained.hint).toContain(hint);
  expect(explained.message).not.toContain("u:p@");
});

test("an unknown package with a valid token, and other errors, are the project's", () => {
  expect(explainInstallFailure("error: GET http://r/a - 404", ["T"], { T: "x" })).toBeUndefined();
  expect(explainInstallFailure("error: lockfile had changes, but lockfile is frozen", ["T"], {})).toBeUndefined();
});

test.each(["error: install", "error: postinstall"])(
  "a package's script that fails is not the registry's: %s",
  (kind) => {
    const output = `install getaddrinfo ENOTFOUND github.com\n${kind} script from "better-sqlite3" exited with 1`;
    expect(explainInstallFailure(output, [], {})?.message).toBe("the install script of better-sqlite3 exited with 1");
  },
);

test("the Dockerfile mounts the variables as secrets", async () => {
  const at = project({ ".npmrc": "//x/:_authToken=${NPM_TOKEN}\n" });
  const facts = await findFacts(resolveService(at), AbortSignal.timeout(60_000));
  const dockerfile = generatedFiles(facts).get("Dockerfile")!;
  expect(dockerfile).toContain("# For the registry's credentials, pass: --secret id=NPM_TOKEN,env=NPM_TOKEN\n");
  expect(dockerfile).toContain(
    `RUN --mount=type=secret,id=ca,target=/run/secrets/ca.crt \\
    --mount=type=secret,id=NPM_TOKEN \\
    NODE_EXTRA_CA_CERTS=/run/secrets/ca.crt NPM_TOKEN="$(cat /run/secrets/NPM_TOKEN 2>/dev/null)" bun install --frozen`,
  );
  // Neither an argument nor a variable of the image.
  expect(dockerfile).not.toMatch(/^(ARG|ENV).*TOKEN/m);
});
